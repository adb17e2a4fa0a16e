package seccompx

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

//go:generate go run ./internal/mksyscalls

// Arch is a system call convention, as the kernel tells a filter and a supervisor about it: an
// AUDIT_ARCH_* value of linux/audit.h. It belongs to the call, not to the process: a program on
// amd64 may make i386 calls whenever it likes (int 0x80), so each call is to be read by its own.
type Arch uint32

// The architectures that this package has system call tables for. All of them are little-endian.
const (
	AMD64 Arch = 0xC000003E // AUDIT_ARCH_X86_64; also that of x32, see [X32Bit]
	I386  Arch = 0x40000003 // AUDIT_ARCH_I386
	ARM64 Arch = 0xC00000B7 // AUDIT_ARCH_AARCH64
)

// X32Bit marks the number of a call of the x32 ABI, which shares the architecture [AMD64] with the
// 64-bit calls (__X32_SYSCALL_BIT, asm/unistd.h).
const X32Bit = 0x40000000

// NativeArch returns the architecture this program is built for, 0 where this package has no table.
func NativeArch() Arch {
	switch runtime.GOARCH {
	case "amd64":
		return AMD64
	case "386":
		return I386
	case "arm64":
		return ARM64
	}
	return 0
}

// NativeArches returns [NativeArch] first and then the compat architectures of a kernel that runs
// it, as far as this package has tables for them: AMD64 and I386 on amd64, ARM64 alone on arm64.
// The slice is the caller's.
func NativeArches() []Arch {
	switch a := NativeArch(); a {
	case 0:
		return nil
	case AMD64:
		return []Arch{AMD64, I386}
	default:
		return []Arch{a}
	}
}

// String returns the name that GOARCH has for it ("i386" for 386), or the number.
func (a Arch) String() string {
	switch a {
	case AMD64:
		return "amd64"
	case I386:
		return "i386"
	case ARM64:
		return "arm64"
	}
	return fmt.Sprintf("arch(%#x)", uint32(a))
}

// Syscall returns the number of the system call of that name (as in man 2, lower-case) in this
// architecture; ok is false if it has none. Tables are those of recent kernel headers whichever
// kernel is running, and the same on every GOARCH.
func (a Arch) Syscall(name string) (nr uint32, ok bool) {
	t := a.table()
	if t == nil {
		return 0, false
	}
	return t.number(name)
}

// SyscallName returns the name of a system call number of this architecture; ok is false for a
// number that has none, such as those of x32.
func (a Arch) SyscallName(nr uint32) (name string, ok bool) {
	t := a.table()
	if t == nil {
		return "", false
	}
	return t.name(nr)
}

func (a Arch) table() *table {
	switch a {
	case AMD64:
		return &tableAMD64
	case I386:
		return &tableI386
	case ARM64:
		return &tableARM64
	}
	return nil
}

type syscallEntry struct {
	nr   uint32
	name string
}

// table holds the calls of one architecture by number. The names are indexed when somebody first
// asks, so that a program which only imports the package does not pay for them.
type table struct {
	calls  []syscallEntry // ascending
	once   sync.Once
	byName map[string]uint32
}

func (t *table) number(name string) (uint32, bool) {
	t.once.Do(func() {
		t.byName = make(map[string]uint32, len(t.calls))
		for _, c := range t.calls {
			t.byName[c.name] = c.nr
		}
	})
	nr, ok := t.byName[name]
	return nr, ok
}

func (t *table) name(nr uint32) (string, bool) {
	i, ok := slices.BinarySearchFunc(t.calls, nr, func(c syscallEntry, nr uint32) int {
		return cmp.Compare(c.nr, nr)
	})
	if !ok {
		return "", false
	}
	return t.calls[i].name, true
}
