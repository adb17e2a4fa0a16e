//go:build linux

package seccompx

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// underFilter runs f on a thread of its own that is under the filter.
func underFilter(t *testing.T, p Program, f func()) {
	t.Helper()
	OnOwnThread(func() {
		if _, err := Install(p, InstallOptions{NoNewPrivs: true}); err != nil {
			t.Error(err)
			return
		}
		f()
	})
}

// getppid takes no arguments, so it can be given any.
func getppid(args [6]uint64) syscall.Errno {
	a := args
	_, _, errno := unix.RawSyscall6(unix.SYS_GETPPID, uintptr(a[0]), uintptr(a[1]), uintptr(a[2]), uintptr(a[3]), uintptr(a[4]), uintptr(a[5]))
	return errno
}

// TestKernelCompares has the kernel itself answer for every comparison at every edge.
func TestKernelCompares(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) < 8 {
		t.Skip("needs 64-bit registers")
	}
	for conds := range slices.Chunk(allConds(), 100) {
		var f Filter
		for i, c := range conds { // argument 5 says which one is meant
			f.Rules = append(f.Rules, Rule{Syscalls: []string{"getppid"}, When: []Cond{Arg(5).Equal(uint64(i)), c}, Do: Errno(syscall.Errno(i + 1))})
		}
		underFilter(t, assemble(t, f), func() {
			for i, c := range conds {
				for _, v := range edges(c.Value, c.Mask) {
					args := [6]uint64{3: v, 5: uint64(i)}
					want := syscall.Errno(0)
					if c.eval(Data{Args: args}) {
						want = syscall.Errno(i + 1)
					}
					if got := getppid(args); got != want {
						t.Errorf("%v with %#x: errno %d, want %d", c, v, got, want)
					}
				}
			}
		})
	}
}

// TestKernelTakesLongPrograms installs them and looks whether their far ends are reached.
func TestKernelTakesLongPrograms(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) < 8 {
		t.Skip("needs 64-bit registers")
	}
	native := NativeArch()
	long := longFilter(300, 2, NativeArches()...)
	// What the runtime needs to end the thread is left alone.
	long.Rules = slices.DeleteFunc(long.Rules, func(r Rule) bool { return r.Syscalls[0] != "getppid" && r.Syscalls[0] != "getpgid" })
	many := Filter{}
	for i := range 400 {
		many.Rules = append(many.Rules, Rule{Syscalls: []string{"getppid"}, When: []Cond{Arg(0).Equal(uint64(i) << 32)}, Do: Errno(syscall.Errno(i + 1))})
	}
	// Calls that nobody makes here, so that the search for the number is long.
	unused := Filter{}
	for i, c := range native.table().calls {
		if c.nr > 150 && c.name != "gettid" && !strings.Contains(c.name, "futex") && !strings.Contains(c.name, "exit") && !strings.Contains(c.name, "tgkill") &&
			!strings.Contains(c.name, "sig") && !strings.Contains(c.name, "clock") && !strings.Contains(c.name, "epoll") && c.name != "getppid" &&
			!strings.Contains(c.name, "m") && !strings.Contains(c.name, "sched") && !strings.Contains(c.name, "clone") && !strings.Contains(c.name, "prctl") {
			unused.Rules = append(unused.Rules, Rule{Syscalls: []string{c.name}, When: []Cond{Arg(5).Equal(uint64(i))}, Do: Errno(unix.EDOM)})
		}
	}
	unused.Rules = append(unused.Rules, Rule{Syscalls: []string{"getppid"}, Do: Errno(unix.EXDEV)})
	for name, c := range map[string]struct {
		f    Filter
		args [6]uint64
		want syscall.Errno
	}{
		"one call, first rule": {many, [6]uint64{0: 0}, 1},
		"one call, last rule":  {many, [6]uint64{0: 399 << 32}, 400},
		"one call, no rule":    {many, [6]uint64{0: 400 << 32}, 0},
		"many calls":           {unused, [6]uint64{}, unix.EXDEV},
		"two calls":            {long, [6]uint64{0: 5, 1: 5, 2: 5, 3: 5, 4: 5, 5: 5}, 0},
	} {
		if name == "two calls" {
			c.want = syscall.Errno(c.f.eval(Data{Arch: native, Nr: unix.SYS_GETPPID, Args: c.args}) & 0xfff)
		}
		p := assemble(t, c.f)
		underFilter(t, p, func() {
			if got := getppid(c.args); got != c.want {
				t.Errorf("%s (%d instructions): errno %d, want %d", name, len(p), got, c.want)
			}
		})
	}

	r := Rule{Syscalls: []string{"getppid"}, Do: Errno(unix.EXDEV)}
	for i := range 600 {
		r.When = append(r.When, Arg(i%5).NotEqual(uint64(i)<<32|1000))
	}
	p := assemble(t, Filter{Rules: []Rule{r, {Syscalls: []string{"getppid"}, Do: Errno(unix.EDOM)}}})
	underFilter(t, p, func() {
		for _, c := range []struct {
			args [6]uint64
			want syscall.Errno
		}{{[6]uint64{}, unix.EXDEV}, {[6]uint64{0: 1000}, unix.EDOM}, {[6]uint64{4: 599<<32 | 1000}, unix.EDOM}, {[6]uint64{4: 600<<32 | 1000}, unix.EXDEV}} {
			if got := getppid(c.args); got != c.want {
				t.Errorf("a rule of 600 conditions, %v: errno %d, want %d", c.args, got, c.want)
			}
		}
	})
}

// TestOtherConventions makes the same call in the ways that amd64 offers.
func TestOtherConventions(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs amd64")
	}
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(code)
	copy(code, []byte{0xb8, 64, 0, 0, 0, 0xcd, 0x80, 0xc3}) // mov $64 (getppid of i386), %eax; int $0x80; ret
	if err := unix.Mprotect(code, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		t.Fatal(err)
	}
	entry := &struct{ code unsafe.Pointer }{unsafe.Pointer(&code[0])}
	i386getppid := *(*func() int64)(unsafe.Pointer(&entry))
	if int(int32(i386getppid())) != os.Getppid() {
		t.Skip("needs a kernel with IA32_EMULATION")
	}
	rule := func(arches ...Arch) []Rule {
		return []Rule{{Syscalls: []string{"getppid"}, Arches: arches, Do: Errno(unix.EDOM)}}
	}
	const ok, edom, enosys, eperm = 0, unix.EDOM, unix.ENOSYS, unix.EPERM
	for name, c := range map[string]struct {
		f                Filter
		amd64, i386, x32 syscall.Errno
	}{
		"both":          {Filter{Rules: rule()}, edom, edom, enosys},
		"amd64":         {Filter{Rules: rule(AMD64)}, edom, ok, enosys},
		"i386":          {Filter{Rules: rule(I386)}, ok, edom, enosys},
		"x32 action":    {Filter{Rules: rule(), X32: Errno(unix.EPERM)}, edom, edom, eperm},
		"amd64 alone":   {Filter{Arches: []Arch{AMD64}, Rules: rule()}, edom, enosys, enosys},
		"others denied": {Filter{Arches: []Arch{AMD64}, Rules: rule(), UnknownArch: Errno(unix.EPERM)}, edom, eperm, enosys},
	} {
		underFilter(t, assemble(t, c.f), func() {
			wantErrno(t, name+": amd64", result{errno: getppid([6]uint64{})}, c.amd64)
			var i386 syscall.Errno
			if r := int32(i386getppid()); r < 0 {
				i386 = syscall.Errno(-r)
			}
			wantErrno(t, name+": i386", result{errno: i386}, c.i386)
			_, _, x32 := unix.RawSyscall(X32Bit|unix.SYS_GETPPID, 0, 0, 0)
			wantErrno(t, name+": x32", result{errno: x32}, c.x32)
		})
	}
}

func TestInstallErrors(t *testing.T) {
	allow := assemble(t, Filter{})
	failing := func(name string, p Program, o InstallOptions, want ...error) {
		t.Helper()
		OnOwnThread(func() {
			l, err := Install(p, o)
			if l != nil {
				t.Errorf("%s: a listener with %v", name, err)
			}
			wantErr(t, name, err, want...)
		})
	}
	nnp := InstallOptions{NoNewPrivs: true}
	failing("empty", nil, nnp, ErrInvalidProgram)
	failing("too long", make(Program, MaxInstructions+1), nnp, ErrInvalidProgram)
	failing("no return", Program{{Op: opLoadAbs, K: 0}}, nnp, ErrInvalidProgram, unix.EINVAL)
	failing("jump out of it", Program{{Op: opJump, K: 9}, {Op: opRetK}}, nnp, ErrInvalidProgram)
	failing("load of a byte", assemblePacket(t), withListener, ErrInvalidProgram)

	OnOwnThread(func() {
		l, err := Install(allow, withListener)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		_, err = Install(allow, withListener)
		wantErr(t, "second listener", err, ErrListenerExists, unix.EBUSY)
		if err != nil && !strings.Contains(err.Error(), "another seccomp listener is already in place") {
			t.Error(err)
		}
		if _, err = Install(allow, nnp); err != nil {
			t.Errorf("a second filter, without a listener: %v", err)
		}
	})

	OnOwnThread(func() { // as somebody who is not root
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			t.Error(err)
			return
		}
		_, err := Install(allow, InstallOptions{Listener: true})
		wantErr(t, "no privileges", err, ErrNotPrivileged, unix.EACCES)
		if nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); nnp != 0 || err != nil {
			t.Errorf("no_new_privs is %d, %v", nnp, err)
		}
		l, err := Install(allow, withListener)
		if err != nil {
			t.Error(err)
			return
		}
		l.Close()
	})
}

func assemblePacket(t *testing.T) Program {
	p, err := bpf.Assemble([]bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 1}, bpf.RetConstant{Val: uint32(Allow)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInstallAsRoot(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root: a filter without no_new_privs")
	}
	p := assemble(t, Filter{Rules: []Rule{{Syscalls: []string{"getppid"}, Do: Errno(unix.EDOM)}}})
	OnOwnThread(func() {
		if _, err := Install(p, InstallOptions{}); err != nil {
			t.Error(err)
			return
		}
		wantErrno(t, "getppid", result{errno: getppid([6]uint64{})}, unix.EDOM)
		if nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); nnp != 0 || err != nil {
			t.Errorf("no_new_privs is %d, %v", nnp, err)
		}
	})
}

func TestInstallErrorTexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		want error
	}{
		{nil, nil}, {syscall.Errno(0), nil},
		{unix.EBUSY, ErrListenerExists}, {unix.EACCES, ErrNotPrivileged}, {unix.ENOSYS, ErrNotSupported}, {unix.EINVAL, ErrInvalidProgram},
		{unix.ENOMEM, unix.ENOMEM}, {unix.ESRCH, unix.ESRCH}, {unix.EMFILE, unix.EMFILE}, {unix.EPERM, unix.EPERM},
		{fmt.Errorf("child: %w", unix.EBUSY), ErrListenerExists}, {os.ErrClosed, os.ErrClosed},
	} {
		got := InstallError(c.err, FlagNewListener|FlagWaitKillableRecv)
		if (got == nil) != (c.want == nil) || c.want != nil && !errors.Is(got, c.want) {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
		var errno syscall.Errno
		if errors.As(c.err, &errno) && errno != 0 && !errors.Is(got, errno) {
			t.Errorf("%v: the errno is not in %v", c.err, got)
		}
	}
}

// TestInstallKeepsThread sees to it that no other goroutine ever runs under the filter.
func TestInstallKeepsThread(t *testing.T) {
	if !inSubprocess(t) {
		return
	}
	p := assemble(t, Filter{Rules: []Rule{{Syscalls: []string{"getppid"}, Do: Errno(unix.EDOM)}}})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := Install(p, InstallOptions{NoNewPrivs: true}); err != nil {
				t.Error(err)
			}
			runtime.Gosched()
			wantErrno(t, "under the filter", result{errno: getppid([6]uint64{})}, unix.EDOM)
		})
	}
	all.Wait()
	for range 1000 {
		all.Go(func() {
			wantErrno(t, "another goroutine", result{errno: getppid([6]uint64{})}, 0)
			runtime.Gosched()
		})
	}
	all.Wait()
}

func TestInstallIsInherited(t *testing.T) {
	// The shell's own getppid, at its start: the filter answers 0 without making the call.
	p := assemble(t, Filter{Rules: []Rule{{Syscalls: []string{"getppid"}, Do: Errno(0)}}})
	underFilter(t, p, func() {
		out, err := exec.Command("/bin/sh", "-c", "echo $PPID").Output()
		if err != nil || string(out) != "0\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
}

func TestTSync(t *testing.T) {
	for _, listener := range []bool{false, true} {
		t.Run(fmt.Sprintf("listener=%v", listener), func(t *testing.T) {
			if !inSubprocess(t) {
				return
			}
			var before, after, all sync.WaitGroup
			before.Add(4)
			after.Add(1)
			for range 4 { // threads that exist already
				all.Go(func() {
					runtime.LockOSThread()
					before.Done()
					after.Wait()
					wantErrno(t, "another thread", result{errno: getppid([6]uint64{})}, unix.EDOM)
				})
			}
			before.Wait()
			p := assemble(t, Filter{Rules: []Rule{{Syscalls: []string{"getppid"}, Do: Errno(unix.EDOM)}}})
			l, err := Install(p, InstallOptions{NoNewPrivs: true, TSync: true, Listener: listener})
			if err != nil || (l != nil) != listener {
				t.Fatal(l, err)
			}
			after.Done()
			all.Wait()
			wantErrno(t, "this thread", result{errno: getppid([6]uint64{})}, unix.EDOM)
		})
	}
}

func TestTSyncConflict(t *testing.T) {
	if !inSubprocess(t) {
		return
	}
	allow := assemble(t, Filter{})
	tid, release := make(chan int), make(chan struct{})
	go func() {
		if _, err := Install(allow, InstallOptions{NoNewPrivs: true}); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		<-release
	}()
	other := <-tid
	_, err := Install(allow, InstallOptions{NoNewPrivs: true, TSync: true})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("thread %d has filters", other)) {
		t.Errorf("%v; want thread %d named", err, other)
	}
	_, err = Install(allow, InstallOptions{NoNewPrivs: true, TSync: true, Listener: true})
	wantErr(t, "with a listener", err, unix.ESRCH)
	close(release)
}
