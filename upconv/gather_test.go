package upconv

import (
	"bytes"
	"math/rand"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What gather reads, and how far it gets, is what process_vm_readv(2) says of the pieces one by one.
func TestGather(t *testing.T) {
	const pages = 64
	size := unix.Getpagesize()
	memory, err := unix.Mmap(-1, 0, pages*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	random := rand.New(rand.NewSource(1))
	random.Read(memory)
	for _, hole := range []int{7, 8, 30, 63} {
		if err := unix.Mprotect(memory[hole*size:(hole+1)*size], unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	base := uintptr(unsafe.Pointer(&memory[0]))
	var g gathering
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
		n, errno := g.gather(os.Getpid(), got, vectors)
		wantN, wantErrno := readVectors(os.Getpid(), want, vectors)
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
