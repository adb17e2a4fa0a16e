//go:build linux

package seccompx

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// forget makes features unknown again.
func forget() {
	for _, f := range Features() {
		f.mu.Lock()
		f.known, f.err = false, nil
		f.mu.Unlock()
	}
}

func version(t *testing.T, s string) (v [2]int) {
	t.Helper()
	if _, err := fmt.Sscanf(s, "%d.%d", &v[0], &v[1]); err != nil {
		t.Fatalf("version %q: %v", s, err)
	}
	return v
}

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

func TestProbe(t *testing.T) {
	if !inSubprocess(t) { // nobody else opens descriptors there
		return
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	running := version(t, unix.ByteSliceToString(u.Release[:]))
	before := openFDs(t)
	var last [2]int
	for _, f := range Features() {
		since := version(t, f.Since)
		if older(since, last) {
			t.Errorf("%s is out of order", f.Name)
		}
		last = since
		err := f.Probe()
		if older(running, since) {
			wantErr(t, f.Name, err, ErrNotSupported)
		} else if err != nil {
			t.Error(err)
		}
		if !f.known {
			t.Errorf("%s: the answer is not kept", f.Name)
		}
	}
	for range 50 { // has the thread ended when Probe returns, each time?
		forget()
		if err := AddFDIoctl.Probe(); err != nil {
			t.Error(err)
		}
		if tids := filteredThreads(t); len(tids) != 0 {
			t.Fatalf("threads left under a filter: %v", tids)
		}
	}
	if after := openFDs(t); after != before {
		t.Errorf("open descriptors: %s; before: %s", after, before)
	}

	var all sync.WaitGroup // all at once
	forget()
	for range 20 {
		for _, f := range Features() {
			all.Go(func() { f.Probe() })
		}
	}
	all.Wait()
	if tids := filteredThreads(t); len(tids) != 0 {
		t.Errorf("threads left under a filter: %v", tids)
	}
}

// TestProbeAbsent asks for what no kernel has.
func TestProbeAbsent(t *testing.T) {
	probes := 0
	count := func(try func(*Feature) error) func(*Feature) error {
		return func(f *Feature) error { probes++; return try(f) }
	}
	for i, f := range []*Feature{
		{Name: "seccomp BOGUS", Since: "99.1", flags: 1 << 20, try: count(tryFlags)},
		{Name: "seccomp BOGUS", Since: "99.1", try: count(onListener(tryAddFD(1 << 20)))},
		{Name: "seccomp BOGUS", Since: "99.1", try: count(func(*Feature) error {
			_, _, errno := unix.RawSyscall(9999, 0, 0, 0)
			return verdict(errno, unix.EBADF, unix.ENOSYS)
		})},
	} {
		for range 2 {
			err := f.Probe()
			wantErr(t, "Probe", err, ErrNotSupported)
			var unsupported *UnsupportedError
			if !errors.As(err, &unsupported) || *unsupported != (UnsupportedError{"seccomp BOGUS", "99.1"}) {
				t.Errorf("%#v", err)
			}
			if want := "seccomp BOGUS not supported (requires Linux >= 99.1)"; err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		if probes != i+1 {
			t.Errorf("%d probes of %d features", probes, i+1)
		}
	}
}

// TestProbeUnderListener: what cannot be tried is not said to be missing.
func TestProbeUnderListener(t *testing.T) {
	if !inSubprocess(t) {
		return
	}
	l, err := Install(assemble(t, Filter{}), InstallOptions{NoNewPrivs: true, Listener: true, TSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, f := range []*Feature{ContinueFlag, AddFDIoctl, AddFDSend, SyncWakeUp} {
		err := f.Probe()
		wantErr(t, f.Name, err, ErrListenerExists, unix.EBUSY)
		if errors.Is(err, ErrNotSupported) || f.known {
			t.Errorf("%s: %v, known %v", f.Name, err, f.known)
		}
	}
	for _, f := range []*Feature{ReadMemory, WriteMemory, UserNotification, PidfdOpen, PidfdGetfd, TSyncListener, WaitKillable, PidfdThread} {
		if err := f.Probe(); err != nil {
			t.Error(err)
		}
	}
}

// TestProbeDenied: a sandbox that forbids seccomp(2) is not a kernel without it.
func TestProbeDenied(t *testing.T) {
	if !inSubprocess(t) {
		return
	}
	f := Filter{Rules: []Rule{{Syscalls: []string{"seccomp", "pidfd_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev"}, Do: Errno(unix.EPERM)}}}
	if _, err := Install(assemble(t, f), InstallOptions{NoNewPrivs: true, TSync: true}); err != nil {
		t.Fatal(err)
	}
	for _, f := range Features() {
		err := f.Probe()
		wantErr(t, f.Name, err, unix.EPERM)
		if errors.Is(err, ErrNotSupported) || f.known {
			t.Errorf("%s: %v, known %v", f.Name, err, f.known)
		}
	}
}
