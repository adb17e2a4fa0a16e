package upconv

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// nudge has the threads of the target's process that wait in a call on a descriptor begin that call anew, when another socket
// has taken its place: they would wait for the old one for ever. A tracer's interruption (ptrace(2), PTRACE_INTERRUPT) makes
// the kernel restart calls as if nothing had been, for those that it restarts without a signal handler: of the calls that
// wait for one descriptor these are all but those with SO_RCVTIMEO, which are left alone, and of those that wait for
// several poll(2) and select(2). Threads in epoll_wait(2) need none: their registrations move along.
//
// Where that is not permitted, or somebody else traces them, they wait on.
func (w *worker) nudge(c *call, old int) {
	timeout, err := unix.GetsockoptTimeval(old, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	timed := err == nil && *timeout != unix.Timeval{}
	dir, err := os.Open("/proc/" + strconv.Itoa(c.tid) + "/task") // all of its process's
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	held := w.s.receivers.holds() // those follow
	var tids []int
	for _, name := range names {
		tid, err := strconv.Atoi(name)
		if err != nil || tid == c.tid || held[tid] || !waitsFor(tid, c.fd, timed) {
			continue
		}
		tids = append(tids, tid)
	}
	if len(tids) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: with its end the kernel lets go of those that have not stopped
		for _, tid := range tids {
			if waitsFor(tid, c.fd, timed) {
				w.s.interrupt(tid)
			}
		}
	}()
	<-done
}

// waitsFor reports whether a thread is in a call, one that can be begun anew, that is about the descriptor fd or about several.
// timed is whether receiving from it ends after a time.
func waitsFor(tid, fd int, timed bool) bool {
	// "NR ARG0 ... SP PC" in hexadecimal but for the first, or "running": proc_pid_syscall(5).
	text, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/syscall")
	if err != nil {
		return false
	}
	fields := bytes.Fields(text)
	if len(fields) < 7 {
		return false
	}
	nr, err := strconv.Atoi(string(fields[0]))
	if err != nil {
		return false
	}
	arg0, err := strconv.ParseUint(string(bytes.TrimPrefix(fields[1], []byte("0x"))), 16, 64)
	if err != nil {
		return false
	}
	switch nr {
	case unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG, unix.SYS_READ, unix.SYS_READV:
		return int(int32(arg0)) == fd && !timed
	}
	return restartsWait(nr)
}

// maxStopping is how long to wait until a thread has stopped, at most. One that has begun a call meanwhile that upconv handles does
// not stop before that is answered, and the answer may be waiting for the caller.
const maxStopping = 20 * time.Millisecond

// interrupt makes a thread begin its call anew. The calling goroutine must be locked to a thread that ends soon.
func (s *Supervisor) interrupt(tid int) {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, 0, 0, 0); errno != 0 {
		return
	}
	unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(tid), 0, 0, 0, 0)
	// It stops within microseconds, on its way out of the call. Until then it cannot be let go.
	for deadline := time.Now().Add(maxStopping); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, 0, 0, 0); errno == 0 {
			return
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(tid)); err != nil {
			return
		}
		s.receivers.restart(tid) // should its call have been stopped meanwhile, and wait
	}
}
