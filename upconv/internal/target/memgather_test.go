package target

import (
	"bytes"
	"encoding/binary"
	"math/rand"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const gatherPages = 64

// gatherMemory is memory to read, of which some pages cannot be.
func gatherMemory(t *testing.T, random *rand.Rand) []byte {
	t.Helper()
	const pages = gatherPages
	size := unix.Getpagesize()
	memory, err := unix.Mmap(-1, 0, pages*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(memory) })
	random.Read(memory)
	for _, hole := range []int{7, 8, 30, 63} {
		if err := unix.Mprotect(memory[hole*size:(hole+1)*size], unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return memory
}

// What gather reads, and how far it gets, is what process_vm_readv(2) says of the pieces one by
// one.
func TestGather(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	memory := gatherMemory(t, random)
	base := uintptr(unsafe.Pointer(&memory[0]))
	var g Gathering
	together := 0
	for range 20000 {
		count, length, places := 1+random.Intn(192), 1+random.Intn(96), 1+random.Intn(12)
		starts := make([]int, places)
		for i := range starts {
			starts[i] = random.Intn(len(memory) - 8192 - length)
		}
		vectors, total := make([]unix.RemoteIovec, count), 0
		for i := range vectors {
			at := starts[random.Intn(places)] + random.Intn(8192)
			vectors[i] = unix.RemoteIovec{Base: base + uintptr(at), Len: 1 + random.Intn(length)}
			if random.Intn(5000) == 0 {
				vectors[i].Base = -uintptr(random.Intn(200)) // where no user memory is, and where sums wrap
			}
			total += vectors[i].Len
		}
		got, want := make([]byte, total), make([]byte, total)
		n, errno := g.Gather(os.Getpid(), got, vectors)
		wantN, wantErrno := ReadVectors(os.Getpid(), want, vectors)
		if n != wantN || errno != wantErrno || !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("%d bytes, %v; want %d, %v; of %v", n, errno, wantN, wantErrno, vectors)
		}
		if count > fewPieces && g.plan(vectors) {
			together++
		}
	}
	if together < 5000 {
		t.Errorf("only %d were read together", together)
	}
}

// A few pieces, and what readAround has seen of them, in the same way.
func TestGatherAround(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	memory := gatherMemory(t, random)
	base := uintptr(unsafe.Pointer(&memory[0]))
	size := uintptr(unix.Getpagesize())
	var g Gathering
	var buf [8192 + 2*Reach]byte
	seen, together := 0, 0
	for range 20000 {
		at, length := base+uintptr(random.Intn(len(memory)-8192)), 1+random.Intn(200)
		switch random.Intn(1000) {
		case 0:
			at = uintptr(random.Intn(100))
		case 1:
			at = -uintptr(1 + random.Intn(300))
		}
		data, errno := g.ReadAround(os.Getpid(), buf[:length+2*Reach], at, length)
		want := make([]byte, length)
		n, wantErrno := ReadVectors(os.Getpid(), want, []unix.RemoteIovec{{Base: at, Len: length}})
		if len(data) != n || errno != wantErrno || !bytes.Equal(data, want[:n]) {
			t.Fatalf("%d bytes at %#x: %d, %v; want %d, %v", length, at, len(data), errno, n, wantErrno)
		}
		if len(g.around) > 0 && (g.low&^(size-1) < at&^(size-1) || (g.low+uintptr(len(g.around))-1)&^(size-1) > (at+uintptr(length)-1)&^(size-1)) {
			t.Fatalf("%d bytes at %#x: read %#x to %#x", length, at, g.low, g.low+uintptr(len(g.around)))
		}
		vectors, total := make([]unix.RemoteIovec, 1+random.Intn(4)), 0
		for i := range vectors {
			vectors[i] = unix.RemoteIovec{Base: at + uintptr(random.Intn(1200)-500), Len: random.Intn(100)}
			total += vectors[i].Len
		}
		got, want := make([]byte, total), make([]byte, total)
		n, errno = g.GatherAround(os.Getpid(), got, vectors)
		wantN, wantErrno := ReadVectors(os.Getpid(), want, vectors)
		if n != wantN || errno != wantErrno || !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("%d bytes, %v; want %d, %v; of %v", n, errno, wantN, wantErrno, vectors)
		}
		if len(vectors) > 1 && g.plan(vectors) {
			together++
		}
		if len(g.around) > 0 && vectors[0].Base >= g.low && vectors[0].Base < g.low+uintptr(len(g.around)) {
			seen++
		}
	}
	if seen < 5000 || together < 2000 {
		t.Errorf("only %d were near, and %d read together", seen, together)
	}
}

// FuzzGatherPlan plans pieces at any addresses: each is within its span, or they are read one by
// one. Each piece is two bytes for its distance to the one before, two for its length, and one that
// says where to begin anew.
func FuzzGatherPlan(f *testing.F) {
	f.Add(uint64(0x7fff0000), []byte{0, 8, 0, 16, 0, 0, 24, 0, 16, 0, 0, 9, 0, 1, 0, 1, 2, 3, 4, 5, 255, 255, 255, 255, 255})
	f.Add(uint64(1<<64-100), bytes.Repeat([]byte{0, 50, 0, 60, 0}, 12))
	f.Fuzz(func(t *testing.T, base uint64, raw []byte) {
		var vectors []unix.RemoteIovec
		at := base
		for ; len(raw) >= 5 && len(vectors) < 1024; raw = raw[5:] {
			if raw[4]&7 == 7 {
				at = base << (raw[4] & 63)
			}
			at += uint64(binary.BigEndian.Uint16(raw))
			vectors = append(vectors, unix.RemoteIovec{Base: uintptr(at), Len: int(binary.BigEndian.Uint16(raw[2:])) << (raw[4] >> 7)})
		}
		var g Gathering
		if len(vectors) == 0 || !g.plan(vectors) {
			return
		}
		if len(g.spans) > maxSpans || len(g.of) != len(vectors) {
			t.Fatalf("%d spans, %d of %d pieces", len(g.spans), len(g.of), len(vectors))
		}
		for i, v := range vectors {
			s := g.spans[g.of[i]]
			if v.Base < s.low || v.Base+uintptr(v.Len) > s.high || v.Base+uintptr(v.Len) < v.Base {
				t.Fatalf("piece %x+%x is not within %x to %x", v.Base, v.Len, s.low, s.high)
			}
		}
	})
}
