package testkit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arena is memory that calls refer to: some pages, then one that nobody may touch, then one that
// nobody may write.
type Arena struct {
	all       []byte
	Good      []byte
	Forbidden uint64 // address of the page behind good
	ReadOnly  uint64
	filling   []byte // what is in good where nobody has put anything
}

const PageSize = 4096

func NewArena(t testing.TB) *Arena { return NewArenaOf(t, 48) }

func NewArenaOf(t testing.TB, pages int) *Arena {
	t.Helper()
	all, err := unix.Mmap(-1, 0, (pages+2)*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|0x40 /* MAP_32BIT */)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(all) })
	a := &Arena{all: all, Good: all[:pages*PageSize], filling: bytes.Repeat([]byte{0xaa}, pages*PageSize)}
	if err := unix.Mprotect(all[pages*PageSize:(pages+1)*PageSize], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mprotect(all[(pages+1)*PageSize:], unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	a.Forbidden = a.At(pages * PageSize)
	a.ReadOnly = a.Forbidden + PageSize
	return a
}

func (a *Arena) At(offset int) uint64 {
	return uint64(uintptr(unsafe.Pointer(&a.all[0]))) + uint64(offset)
}

func (a *Arena) Fill() {
	copy(a.Good, a.filling)
}

func (a *Arena) Put64(offset int, values ...uint64) {
	for i, v := range values {
		binary.NativeEndian.PutUint64(a.Good[offset+8*i:], v)
	}
}

func (a *Arena) Put32(offset int, v uint32) { binary.NativeEndian.PutUint32(a.Good[offset:], v) }

// CallResult is what a call did.
type CallResult struct {
	Value  uint64
	Errno  unix.Errno
	Memory []byte
}

// MakeCall makes a call.
func MakeCall(a *Arena, nr uintptr, fd int, args [6]uint64) CallResult {
	args[0] = uint64(fd)
	r, _, errno := unix.RawSyscall6(nr, uintptr(args[0]), uintptr(args[1]), uintptr(args[2]), uintptr(args[3]), uintptr(args[4]), uintptr(args[5]))
	if errno != 0 {
		r = 0
	}
	return CallResult{uint64(r), errno, bytes.Clone(a.Good)}
}

func MemoryDifference(got, want []byte) string {
	var b strings.Builder
	lines := 0
	for i := 0; i < len(got) && lines < 12; i += 16 {
		if !bytes.Equal(got[i:i+16], want[i:i+16]) {
			fmt.Fprintf(&b, "\n  %06x  %x  natively %x", i, got[i:i+16], want[i:i+16])
			lines++
		}
	}
	return b.String()
}
