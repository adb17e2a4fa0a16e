//go:build linux

package seccompx

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

var withListener = InstallOptions{NoNewPrivs: true, Listener: true}

// TestAddFD pins what the kernel does with SECCOMP_IOCTL_NOTIF_ADDFD: what upper layers build on.
func TestAddFD(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"lowest free number":        addLowest,
		"used number":               addUsed,
		"free number":               addFree,
		"beyond the limit":          addBeyondLimit,
		"unknown flags":             addUnknownFlags,
		"bad source":                addBadSource,
		"close-on-exec":             addCloseOnExec,
		"not yet received":          addNotReceived,
		"answered":                  addAnswered,
		"target killed":             addKilled,
		"send":                      addSend,
		"send to a chosen number":   addSendSet,
		"never a moment unused":     addAtomic,
		"two workers, one listener": addTwoWorkers,
		"under signals":             addUnderSignals,
	} {
		t.Run(name, func(t *testing.T) {
			if inSubprocess(t) {
				test(t)
			}
		})
	}
}

func addLowest(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	var first int
	tg.run(func() {
		var err error
		if first, err = unix.Dup(0); err != nil {
			t.Error(err)
		}
		for _, free := range []int{first, first + 1, first + 3} {
			unix.Close(free)
		}
		unix.Dup3(0, first+2, 0) // taken: to be passed over
	})
	n, out := tg.stop()
	src := memfd(t, "")
	for _, want := range []int{first, first + 1, first + 3} {
		if fd, err := tg.AddFD(n.ID, AddFD{Source: src}); fd != want || err != nil {
			t.Errorf("AddFD: %d, %v; want %d", fd, err, want)
		}
	}
	if err := tg.Respond(n.ID, 7, 0); err != nil {
		t.Fatal(err)
	}
	if r := <-out; r.value != 7 || r.errno != 0 {
		t.Errorf("the call returned %v", r)
	}
	for _, fd := range []int{first, first + 1, first + 3} {
		if tg.stat(fd) != statFD(t, src) {
			t.Errorf("descriptor %d is another file", fd)
		}
	}
}

func addUsed(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	const number = 200
	// The target gets the one write end of the pipe there is.
	n, out := tg.stop()
	if fd, err := tg.AddFD(n.ID, AddFD{Source: pipe[1], Target: number, SetTarget: true}); fd != number || err != nil {
		t.Fatal(fd, err)
	}
	unix.Close(pipe[1])
	src := memfd(t, "")
	if fd, err := tg.AddFD(n.ID, AddFD{Source: src, Target: number, SetTarget: true}); fd != number || err != nil {
		t.Fatal(fd, err)
	}
	// The number is the new file's already. But like any last close(2), the release of the old file
	// waits until the thread that did it is on its way back to user space: the call's return.
	if hungUp(t, pipe[0]) {
		t.Error("the old file was released while the target was stopped")
	}
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
	if !hungUp(t, pipe[0]) {
		t.Error("the old file was not released when the call had returned")
	}
	if tg.stat(number) != statFD(t, src) {
		t.Error("another file is open there")
	}
}

// hungUp reports whether the read end of a pipe has no write end any more.
func hungUp(t *testing.T, fd int) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd)}}
	if _, err := unix.Poll(fds, 0); err != nil {
		t.Fatal(err)
	}
	return fds[0].Revents&unix.POLLHUP != 0
}

func addFree(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	const number = 300
	n, out := tg.stop()
	src := memfd(t, "")
	if fd, err := tg.AddFD(n.ID, AddFD{Source: src, Target: number, SetTarget: true}); fd != number || err != nil {
		t.Fatal(fd, err)
	}
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
	if tg.stat(number) != statFD(t, src) {
		t.Error("another file is open there")
	}
}

func addBeyondLimit(t *testing.T) {
	const limit = 64
	tg := newTarget(t, notifyStopped, withListener, true)
	src := memfd(t, "")
	n, out := tg.stop()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	if fd, err := tg.AddFD(n.ID, AddFD{Source: src, Target: limit - 1, SetTarget: true}); fd != limit-1 || err != nil {
		t.Errorf("last number: %d, %v", fd, err)
	}
	_, err := tg.AddFD(n.ID, AddFD{Source: src, Target: limit, SetTarget: true})
	wantErr(t, "chosen number", err, unix.EBADF)
	for fd := 0; ; {
		if fd, err = tg.AddFD(n.ID, AddFD{Source: src}); err != nil {
			break
		}
		if fd >= limit {
			t.Fatalf("descriptor %d beyond the limit", fd)
		}
	}
	wantErr(t, "any number", err, unix.EMFILE)
	_, err = tg.AddFD(n.ID, AddFD{Source: src, Send: true})
	wantErr(t, "any number, send", err, unix.EMFILE)
	// A failed SEND has not answered.
	if err := tg.Respond(n.ID, 5, 0); err != nil {
		t.Fatal(err)
	}
	if r := <-out; r.value != 5 || r.errno != 0 {
		t.Errorf("the call returned %v", r)
	}
}

func addUnknownFlags(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	src := uint32(memfd(t, ""))
	n, out := tg.stop()
	for name, r := range map[string]addFD{
		"flags":                      {id: n.ID, srcfd: src, flags: 4},
		"O_NONBLOCK":                 {id: n.ID, srcfd: src, newfdFlags: unix.O_NONBLOCK},
		"number without SETFD":       {id: n.ID, srcfd: src, newfd: 100},
		"even if the id is nobody's": {id: n.ID + 100, srcfd: src, flags: 4},
	} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(tg.FD()), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&r)))
		wantErrno(t, name, result{errno: errno}, unix.EINVAL)
	}
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
}

func addBadSource(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	n, out := tg.stop()
	for _, fd := range []int{-1, 9999} {
		_, err := tg.AddFD(n.ID, AddFD{Source: fd})
		wantErr(t, fmt.Sprint("source ", fd), err, unix.EBADF)
		_, err = tg.AddFD(n.ID, AddFD{Source: fd, Send: true})
		wantErr(t, fmt.Sprint("send, source ", fd), err, unix.EBADF)
	}
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
}

func addCloseOnExec(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	src := memfd(t, "") // has it itself
	plain, err := unix.Dup(src)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(plain)
	for _, source := range []int{src, plain} {
		for want, on := range map[int]bool{0: false, unix.FD_CLOEXEC: true} {
			for _, set := range []bool{false, true} {
				n, out := tg.stop()
				a := AddFD{Source: source, CloseOnExec: on, SetTarget: set}
				if set {
					a.Target = 150
				}
				fd, err := tg.AddFD(n.ID, a)
				if err != nil {
					t.Fatal(err)
				}
				if err := tg.Respond(n.ID, 0, 0); err != nil {
					t.Fatal(err)
				}
				<-out
				if got := tg.fdFlags(fd); got != want {
					t.Errorf("%+v: F_GETFD says %d, want %d", a, got, want)
				}
			}
		}
	}
}

// nextUnreceived has the target stop in a call and returns the id of the notification, which
// is not received. Ids are counted up.
func (tg *target) nextUnreceived() (uint64, <-chan result) {
	tg.t.Helper()
	n, out := tg.stop()
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		tg.t.Fatal(err)
	}
	<-out
	out = tg.syscall(stopped)
	if err := tg.waitReadable(); err != nil {
		tg.t.Fatal(err)
	}
	return n.ID + 1, out
}

func addNotReceived(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	src := memfd(t, "")
	id, out := tg.nextUnreceived()
	_, err := tg.AddFD(id, AddFD{Source: src})
	wantErr(t, "AddFD", err, unix.EINPROGRESS)
	_, err = tg.AddFD(id, AddFD{Source: src, Send: true})
	wantErr(t, "AddFD, send", err, unix.EINPROGRESS)
	wantErr(t, "Respond", tg.Respond(id, 0, 0), unix.EINPROGRESS)
	wantErr(t, "Continue", tg.Continue(id), unix.EINPROGRESS)
	wantErr(t, "Valid", tg.Valid(id), ErrTargetGone)
	var n Notification
	if err := tg.Receive(&n); err != nil || n.ID != id {
		t.Fatalf("received %d, %v; want %d", n.ID, err, id)
	}
	if err := tg.Respond(id, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
}

func addAnswered(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	src := memfd(t, "")
	n, out := tg.stop()
	if err := tg.Respond(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	<-out
	_, err := tg.AddFD(n.ID, AddFD{Source: src})
	wantErr(t, "AddFD", err, ErrTargetGone, unix.ENOENT)
	wantErr(t, "Respond", tg.Respond(n.ID, 0, 0), ErrTargetGone, unix.ENOENT)
	wantErr(t, "Continue", tg.Continue(n.ID), ErrTargetGone)
	wantErr(t, "Valid", tg.Valid(n.ID), ErrTargetGone)
}

func addKilled(t *testing.T) {
	src := memfd(t, "")
	p := startProgram(t, "1 1")
	var n Notification
	if err := p.Receive(&n); err != nil {
		t.Fatal(err)
	}
	if err := p.Valid(n.ID); err != nil {
		t.Fatal(err)
	}
	p.kill(t)
	for _, a := range []AddFD{{Source: src}, {Source: src, Target: 1, SetTarget: true}, {Source: src, Send: true}} {
		_, err := p.AddFD(n.ID, a)
		wantErr(t, fmt.Sprintf("%+v", a), err, ErrTargetGone)
	}
	wantErr(t, "Valid", p.Valid(n.ID), ErrTargetGone)
	wantErr(t, "Respond", p.Respond(n.ID, 0, 0), ErrTargetGone)
	wantErr(t, "Continue", p.Continue(n.ID), ErrTargetGone)
	wantErr(t, "Receive", p.Receive(&n), ErrGone)
}

func addSend(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	src := memfd(t, "sent")
	n, out := tg.stop()
	fd, err := tg.AddFD(n.ID, AddFD{Source: src, Send: true})
	if err != nil {
		t.Fatal(err)
	}
	if r := <-out; r.errno != 0 || int(r.value) != fd {
		t.Errorf("the call returned %v, AddFD %d", r, fd)
	}
	if tg.stat(fd) != statFD(t, src) {
		t.Error("another file is open there")
	}
	wantErr(t, "a second answer", tg.Respond(n.ID, 0, 0), ErrTargetGone)
}

func addSendSet(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, true)
	src := memfd(t, "sent")
	n, out := tg.stop()
	fd, err := tg.AddFD(n.ID, AddFD{Source: src, Target: 77, SetTarget: true, CloseOnExec: true, Send: true})
	if fd != 77 || err != nil {
		t.Fatal(fd, err)
	}
	if r := <-out; r.errno != 0 || r.value != 77 {
		t.Errorf("the call returned %v", r)
	}
	if tg.stat(77) != statFD(t, src) || tg.fdFlags(77) != unix.FD_CLOEXEC {
		t.Error("another file is open there, or not close-on-exec")
	}
}

// addAtomic replaces a descriptor over and over while another thread of the target uses it.
func addAtomic(t *testing.T) {
	tg := newTarget(t, notifyStopped, withListener, false)
	files := [2]int{memfd(t, ""), memfd(t, "")}
	ids := [2]fileID{statFD(t, files[0]), statFD(t, files[1])}
	const number = 500
	if err := unix.Dup3(files[0], number, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	var seen [2]atomic.Int64
	var stop atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		for !stop.Load() {
			var st unix.Stat_t
			if err := unix.Fstat(number, &st); err != nil {
				t.Errorf("between two files: %v", err)
				return
			}
			switch (fileID{st.Dev, st.Ino}) {
			case ids[0]:
				seen[0].Add(1)
			case ids[1]:
				seen[1].Add(1)
			default:
				t.Error("a third file")
				return
			}
		}
	})
	const least = 1000
	for i := 1; !t.Failed() && (i < 2*least || seen[0].Load() == 0 || seen[1].Load() == 0); i++ {
		n, out := tg.stop()
		if _, err := tg.AddFD(n.ID, AddFD{Source: files[i%2], Target: number, SetTarget: true}); err != nil {
			t.Fatal(err)
		}
		if err := tg.Respond(n.ID, 0, 0); err != nil {
			t.Fatal(err)
		}
		<-out
	}
	stop.Store(true)
	reader.Wait()
	unix.Close(number)
}

func addTwoWorkers(t *testing.T) {
	const threads, calls, workers = 8, 100, 2
	p := startProgram(t, fmt.Sprintf("%d %d", threads, calls))
	if err := p.SetSyncWakeUp(); err != nil {
		t.Fatal(err)
	}
	var served [workers]int
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for {
				var n Notification
				err := p.Receive(&n)
				if err != nil {
					wantErr(t, "Receive", err, ErrGone)
					return
				}
				served[i]++
				f, err := os.CreateTemp("", "seccompx")
				if err != nil {
					t.Error(err)
					return
				}
				os.Remove(f.Name())
				io.WriteString(f, strconv.FormatUint(n.Data.Args[0], 10))
				if _, err := p.AddFD(n.ID, AddFD{Source: int(f.Fd()), Send: true}); err != nil {
					t.Error(err)
				}
				f.Close()
			}
		})
	}
	all.Wait()
	p.end(t)
	if served[0]+served[1] != threads*calls {
		t.Errorf("%d notifications, want %d", served, threads*calls)
	}
	t.Logf("served by each worker: %d", served)
}

// addUnderSignals adds descriptors from a thread that takes one signal after the other, for a
// target that gets the CPU late: between the request and its completion there is always a signal.
func addUnderSignals(t *testing.T) {
	const rounds = 10
	var cpus, first unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; first.Count() == 0; cpu++ {
		if cpus.IsSet(cpu) {
			first.Set(cpu)
		}
	}
	tg := newTarget(t, notifyStopped, withListener, false)
	src := memfd(t, "")
	tg.run(func() {
		if err := unix.SchedSetaffinity(0, &first); err != nil {
			t.Error(err)
		}
		idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
		if err := unix.SchedSetAttr(0, &idle, 0); err != nil {
			t.Error(err)
		}
	})
	var stop atomic.Bool
	var busy sync.WaitGroup
	busy.Go(func() {
		runtime.LockOSThread() // and never unlocked: it stays on that CPU
		if err := unix.SchedSetaffinity(0, &first); err != nil {
			t.Error(err)
		}
		for !stop.Load() {
		}
	})

	worker := make(chan int)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		worker <- unix.Gettid()
		for i := range rounds {
			a := AddFD{Source: src, Send: i%2 == 0}
			var n Notification
			out := tg.syscall(stopped)
			if err := tg.Receive(&n); err != nil {
				t.Error(err)
				return
			}
			fd, err := tg.AddFD(n.ID, a)
			if err != nil {
				t.Errorf("%+v: %v", a, err)
			}
			if !a.Send {
				if err := tg.Respond(n.ID, int64(fd), 0); err != nil {
					t.Error(err)
				}
			}
			if r := <-out; r.errno != 0 || int(r.value) != fd {
				t.Errorf("%+v: the call returned %v, AddFD %d", a, r, fd)
			}
			if fd > 2 {
				if statFD(t, fd) != statFD(t, src) {
					t.Errorf("%+v: another file", a)
				}
				unix.Close(fd)
			}
		}
	}()
	tid := <-worker
	for running := true; running; {
		select {
		case <-done:
			running = false
		default: // the signal that the runtime itself sends its threads, and ignores
			if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
				t.Error(err)
			}
		}
	}
	stop.Store(true)
	busy.Wait()
}
