//go:build linux

package seccompx

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestNotification(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, false)
	out := tg.syscall(stopped, 1, 1<<30, ^uintptr(0), 4, 5, 6)
	n := Notification{ID: 1, PID: 2, Flags: 3, Data: Data{Nr: 4}} // the kernel takes zeros only
	if err := tg.Receive(&n); err != nil {
		t.Fatal(err)
	}
	want := Data{Nr: stopped, Arch: NativeArch(), IP: n.Data.IP, Args: [6]uint64{1, 1 << 30, uint64(^uintptr(0)), 4, 5, 6}}
	if n.Data != want || n.ID == 0 || int(n.PID) != tg.tid || n.Flags != 0 || n.Data.IP == 0 {
		t.Errorf("%+v, want %+v of %d", n, want, tg.tid)
	}
	if err := tg.Valid(n.ID); err != nil {
		t.Error(err)
	}
	wantErr(t, "another id", tg.Valid(n.ID+1), ErrTargetGone, unix.ENOENT)
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
}

func TestAnswers(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, false)
	for _, c := range []struct {
		value int64
		errno int
		want  result
	}{
		{0, 0, result{0, 0}},
		{7, 0, result{7, 0}},
		{1 << 30, 0, result{1 << 30, 0}},
		{0, int(unix.EINPROGRESS), result{^uintptr(0), unix.EINPROGRESS}},
		{0, maxErrno - 1, result{^uintptr(0), maxErrno - 1}}, // package syscall takes 4095 for a value
		{0, ERestartSys, result{^uintptr(0), ERestartSys}},   // no signal is pending: nobody translates it
	} {
		n, out := tg.stop()
		if err := tg.Respond(n.ID, c.value, c.errno); err != nil {
			t.Fatal(err)
		}
		if r := <-out; r != c.want {
			t.Errorf("%d, errno %d: the call returned %v, want %v", c.value, c.errno, r, c.want)
		}
	}
	n, out := tg.stop(unix.IN_CLOEXEC)
	for _, errno := range []int{-1, maxErrno + 1} {
		if err := tg.Respond(n.ID, 0, errno); err == nil || errors.Is(err, ErrTargetGone) {
			t.Errorf("errno %d: %v", errno, err)
		}
	}
	if err := tg.Continue(n.ID); err != nil {
		t.Fatal(err)
	}
	r := <-out
	if r.errno != 0 {
		t.Fatalf("the call that was continued: %v", r.errno)
	}
	if link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(r.value))); link != "anon_inode:inotify" {
		t.Errorf("it returned %q, %v", link, err)
	}
	unix.Close(int(r.value))
}

// TestEnd has the last thread under a filter end: in good time, before anybody asks, while somebody
// waits; with both ways of receiving.
func TestEnd(t *testing.T) {
	for _, pollFirst := range []bool{false, true} {
		if !pollFirst && !wakesReceivers() {
			continue // it is not what this kernel can do
		}
		t.Run("pollFirst="+strconv.FormatBool(pollFirst), func(t *testing.T) {
			end := func() *Listener {
				var l *Listener
				OnOwnThread(func() {
					var err error
					if l, err = Install(assemble(t, notifyStopped), withListener); err != nil {
						t.Error(err)
					}
					l.pollFirst = pollFirst
				})
				t.Cleanup(func() { l.Close() })
				return l
			}
			var n Notification
			wantErr(t, "Receive", end().Receive(&n), ErrGone)
			if err := end().WaitHangup(context.Background()); err != nil {
				t.Error(err)
			}

			// Several workers, and more calls than workers.
			p := startProgram(t, "4 50")
			p.pollFirst = pollFirst
			src := map[uint64]int{}
			for i := range uint64(200) {
				src[i+1] = memfd(t, strconv.FormatUint(i+1, 10))
			}
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					var n Notification
					for {
						if err := p.Receive(&n); err != nil {
							wantErr(t, "Receive", err, ErrGone)
							return
						}
						if _, err := p.AddFD(n.ID, AddFD{Source: src[n.Data.Args[0]], Send: true}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Go(func() {
				if err := p.WaitHangup(context.Background()); err != nil {
					t.Error(err)
				}
			})
			p.end(t)
			all.Wait()
		})
	}
}

// TestKilledBeforeReceive: a notification whose target is dead before anybody received it is not
// the end.
func TestKilledBeforeReceive(t *testing.T) {
	for _, pollFirst := range []bool{false, true} {
		tg := newTarget(t, notifyStopped, withListener, false)
		tg.pollFirst = pollFirst
		var child *os.Process
		tg.run(func() { // inherits the filter
			var err error
			child, err = os.StartProcess(executable(t), []string{"target"}, &os.ProcAttr{Env: append(os.Environ(), envTarget+"=1 1"), Files: []*os.File{nil, nil, os.Stderr}})
			if err != nil {
				t.Error(err)
			}
		})
		if child == nil {
			return
		}
		if err := tg.waitReadable(); err != nil {
			t.Fatal(err)
		}
		child.Kill()
		child.Wait()
		n, out := tg.stop(42) // the next in the queue
		if n.Data.Args[0] != 42 || int(n.PID) != tg.tid {
			t.Errorf("received %+v", n)
		}
		if err := tg.Respond(n.ID, 0, 0); err != nil {
			t.Error(err)
		}
		<-out
	}
}

func TestWaitHangupInterrupted(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, false)
	before := openFDs(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(nil)
	wantErr(t, "done already", tg.WaitHangup(ctx), context.Canceled)
	for range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		wantErr(t, "while it waits", tg.WaitHangup(ctx), context.Canceled)
	}
	if after := openFDs(t); after != before {
		t.Errorf("open descriptors: %s; before: %s", after, before)
	}
}

func TestNewListener(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	for name, fd := range map[string]int{"file": int(file.Fd()), "socket": sock, "nothing": 9999, "minus one": -1} {
		if l, err := NewListener(fd); err == nil || l != nil || !strings.Contains(err.Error(), "is not a seccomp listener") {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	if _, err := file.Stat(); err != nil {
		t.Errorf("the caller's descriptor is closed: %v", err)
	}

	tg := newTarget(t, notifyStopped, withListener, false)
	if flags, err := unix.FcntlInt(uintptr(tg.FD()), unix.F_GETFD, 0); flags != unix.FD_CLOEXEC || err != nil {
		t.Errorf("the listener has descriptor flags %d, %v", flags, err)
	}
	out := tg.syscall(stopped)
	if err := tg.waitReadable(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	}
	if tg.FD() != -1 {
		t.Error("a descriptor after Close")
	}
	wantErrno(t, "a call nobody will answer", <-out, unix.ENOSYS)
	wantErrno(t, "a call without a listener", <-tg.syscall(stopped), unix.ENOSYS)
	var n Notification
	wantErr(t, "Receive after Close", tg.Receive(&n), unix.EBADF)
	wantErr(t, "Respond after Close", tg.Respond(1, 0, 0), unix.EBADF)
	wantErr(t, "WaitHangup after Close", tg.WaitHangup(context.Background()), unix.EBADF)
	_, err = tg.AddFD(1, AddFD{})
	wantErr(t, "AddFD after Close", err, unix.EBADF)
	wantErr(t, "SetSyncWakeUp after Close", tg.SetSyncWakeUp(), unix.EBADF)
}

// TestSignals: with WAIT_KILLABLE_RECV a signal does not end the wait once the notification is
// received, and does before; without it always does.
func TestSignals(t *testing.T) {
	for name, o := range map[string]InstallOptions{
		"killable": withListener, "interruptible": {NoNewPrivs: true, Listener: true, Interruptible: true},
	} {
		t.Run(name, func(t *testing.T) {
			if !inSubprocess(t) {
				return
			}
			tg := newTarget(t, notifyStopped, o, false)
			n, out := tg.stop()
			// A signal with a handler and SA_RESTART, as the runtime has them all.
			if err := unix.Tgkill(unix.Getpid(), tg.tid, unix.SIGURG); err != nil {
				t.Fatal(err)
			}
			if o.Interruptible {
				// The wait ends and the call starts again: as another notification.
				old := n.ID
				n = new(Notification)
				if err := tg.Receive(n); err != nil {
					t.Fatal(err)
				}
				wantErr(t, "the old notification", tg.Valid(old), ErrTargetGone)
				wantErr(t, "the old notification", tg.Respond(old, 0, 0), ErrTargetGone)
			}
			if err := tg.Valid(n.ID); err != nil {
				t.Error(err)
			}
			if err := tg.Respond(n.ID, 3, 0); err != nil {
				t.Error(err)
			}
			if r := <-out; r.value != 3 {
				t.Errorf("the call returned %v", r)
			}
		})
	}
}

// TestInterruptedBeforeReceive pins what no flag helps against: before the notification is
// received, a signal whose handler does not restart calls ends the call with EINTR, and the
// notification is gone.
func TestInterruptedBeforeReceive(t *testing.T) {
	if !inSubprocess(t) {
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR2)
	var action struct{ handler, flags, restorer, mask uint64 } // struct sigaction of the kernel
	sigaction := func(set, get unsafe.Pointer) {
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGUSR2), uintptr(set), uintptr(get), 8, 0, 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	sigaction(nil, unsafe.Pointer(&action))
	action.flags &^= 0x10000000 // SA_RESTART
	sigaction(unsafe.Pointer(&action), nil)

	tg := newTarget(t, notifyStopped, withListener, false)
	out := tg.syscall(stopped)
	pending := func(timeout int) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: tg.fd.Load(), Events: unix.POLLIN}}, timeout)
		return err == nil && n == 1
	}
	for !pending(100) {
	}
	if err := unix.Tgkill(unix.Getpid(), tg.tid, unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "the call", <-out, unix.EINTR)
	if pending(0) {
		t.Error("there is still a notification")
	}
}

func TestNoAllocations(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	if err := tg.SetSyncWakeUp(); err != nil {
		t.Fatal(err)
	}
	const rounds = 100
	loop := make(chan error, 1)
	tg.calls <- func() {
		for i := range 4 * (rounds + 1) {
			r, _, errno := unix.Syscall(stopped, uintptr(i), 0, 0)
			if errno != 0 {
				loop <- errno
				return
			}
			if r > 2 { // a descriptor
				unix.Close(int(r))
			}
		}
		loop <- nil
	}
	src := memfd(t, "")
	receive := func(n *Notification) {
		if err := tg.Receive(n); err != nil {
			t.Error(err)
		}
		if err := tg.Valid(n.ID); err != nil {
			t.Error(err)
		}
	}
	fd := -1
	for name, f := range map[string]func(){
		"respond": func() {
			var n Notification
			receive(&n)
			if err := tg.Respond(n.ID, 0, 0); err != nil {
				t.Error(err)
			}
		},
		"add to a number": func() {
			var n Notification
			receive(&n)
			if _, err := tg.AddFD(n.ID, AddFD{Source: src, Target: 100, SetTarget: true, CloseOnExec: true}); err != nil {
				t.Error(err)
			}
			if err := tg.Respond(n.ID, 0, 0); err != nil {
				t.Error(err)
			}
		},
		"add and send": func() {
			var n Notification
			receive(&n)
			var err error
			if fd, err = tg.AddFD(n.ID, AddFD{Source: src, Send: true}); err != nil {
				t.Error(err)
			}
		},
		"add any, then respond": func() {
			var n Notification
			receive(&n)
			var err error
			if fd, err = tg.AddFD(n.ID, AddFD{Source: src}); err != nil {
				t.Error(err)
			}
			if err := tg.Respond(n.ID, int64(fd), 0); err != nil {
				t.Error(err)
			}
		},
	} {
		if allocs := testing.AllocsPerRun(rounds, f); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	if err := <-loop; err != nil {
		t.Error(err)
	}
}

// BenchmarkRoundTrip is one stopped call that the kernel then makes (getppid), from trap to return.
func BenchmarkRoundTrip(b *testing.B) {
	for _, c := range []struct {
		name            string
		sync, pollFirst bool
	}{{"sync", true, false}, {"async", false, false}, {"poll", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			f := Filter{Rules: []Rule{{Syscalls: []string{"getppid"}, Do: UserNotify}}}
			tg := newTarget(b, f, withListener, false)
			if c.sync {
				if err := tg.SetSyncWakeUp(); err != nil {
					b.Fatal(err)
				}
			}
			tg.pollFirst = c.pollFirst
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			done := make(chan syscall.Errno, 1)
			rounds := b.N
			b.ReportAllocs()
			b.ResetTimer()
			tg.calls <- func() {
				for range rounds {
					if _, _, errno := unix.Syscall(unix.SYS_GETPPID, 0, 0, 0); errno != 0 {
						done <- errno
						return
					}
				}
				done <- 0
			}
			var n Notification
			for range rounds {
				if err := tg.Receive(&n); err != nil {
					b.Fatal(err)
				}
				if err := tg.Continue(n.ID); err != nil {
					b.Fatal(err)
				}
			}
			if errno := <-done; errno != 0 {
				b.Fatal(errno)
			}
		})
	}
}
