package seccompx

import (
	"runtime"
	"slices"
	"testing"
)

func TestSyscallTables(t *testing.T) {
	for _, c := range []struct {
		arch Arch
		name string
		nr   uint32
	}{
		{AMD64, "read", 0}, {AMD64, "connect", 42}, {AMD64, "sendmsg", 46}, {AMD64, "openat", 257}, {AMD64, "io_uring_setup", 425},
		{I386, "restart_syscall", 0}, {I386, "read", 3}, {I386, "socketcall", 102}, {I386, "connect", 362}, {I386, "_llseek", 140}, {I386, "io_uring_setup", 425},
		{ARM64, "io_setup", 0}, {ARM64, "connect", 203}, {ARM64, "sendmsg", 211}, {ARM64, "openat", 56}, {ARM64, "clone3", 435}, {ARM64, "io_uring_setup", 425},
	} {
		if nr, ok := c.arch.Syscall(c.name); nr != c.nr || !ok {
			t.Errorf("%s on %v: %d, %v; want %d", c.name, c.arch, nr, ok, c.nr)
		}
		if name, ok := c.arch.SyscallName(c.nr); name != c.name || !ok {
			t.Errorf("%d on %v: %q, %v; want %s", c.nr, c.arch, name, ok, c.name)
		}
	}
	for _, a := range []Arch{AMD64, I386, ARM64} {
		calls := a.table().calls
		if !slices.IsSortedFunc(calls, func(x, y syscallEntry) int { return int(x.nr) - int(y.nr) }) || len(calls) < 300 {
			t.Errorf("%v: %d calls, or not in order", a, len(calls))
		}
		for _, c := range calls {
			if nr, ok := a.Syscall(c.name); nr != c.nr || !ok {
				t.Errorf("%v: %s is %d, not %d", a, c.name, c.nr, nr)
			}
			if name, ok := a.SyscallName(c.nr); name != c.name || !ok {
				t.Errorf("%v: %d is %s, not %s", a, c.nr, c.name, name)
			}
		}
	}
	for _, c := range []struct {
		arch Arch
		name string
	}{{AMD64, "socketcall"}, {AMD64, ""}, {AMD64, "READ"}, {ARM64, "open"}, {ARM64, "arch_specific_syscall"}, {0, "read"}, {1, "read"}} {
		if nr, ok := c.arch.Syscall(c.name); ok {
			t.Errorf("%q on %v is %d", c.name, c.arch, nr)
		}
	}
	for _, nr := range []uint32{X32Bit, X32Bit | 42, 1 << 31, ^uint32(0), 400} {
		if name, ok := AMD64.SyscallName(nr); ok {
			t.Errorf("%#x is %s", nr, name)
		}
	}
}

func TestNativeArches(t *testing.T) {
	want := map[string][]Arch{"amd64": {AMD64, I386}, "386": {I386}, "arm64": {ARM64}}[runtime.GOARCH]
	if got := NativeArches(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if len(want) > 0 && NativeArch() != want[0] || len(want) == 0 && NativeArch() != 0 {
		t.Errorf("native is %v", NativeArch())
	}
	for a, want := range map[Arch]string{AMD64: "amd64", I386: "i386", ARM64: "arm64", 0xff: "arch(0xff)"} {
		if got := a.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestActionStrings also has every action that a rule may name.
func TestActionStrings(t *testing.T) {
	for a, want := range map[Action]string{
		0: "not given", Allow: "allow", Log: "log", UserNotify: "user notify", Trap: "trap", KillThread: "kill thread",
		KillProcess: "kill process", Errno(13): "errno 13 (permission denied)", Trace(3): "trace 3", 0x12340000: "action(0x12340000)",
	} {
		if got := a.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
