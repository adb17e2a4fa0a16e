package trap

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/target"
)

// RestartThreads has threads begin their calls anew, as if nothing had been. It reports whether all
// do.
func (all *HeldCalls) RestartThreads(tids []int) (ok bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		free := true
		ok = true
		for _, tid := range tids {
			seized, released := all.interrupt(tid)
			free = free && released
			if !seized { // it has a tracer, or ptrace(2) is not permitted
				status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
				traced := target.StatusField(status, "TracerPid:", 10) != 0
				ok = err == nil && traced && sendIgnored(tid, status) && ok
			}
		}
		if free { // else the kernel lets go of them with the end of this thread
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return ok
}

// maxStopping is how long to wait until a thread has stopped, at most. One that has begun a call
// meanwhile that upconv handles does not stop before that is answered, and the answer may be
// waiting for the caller.
const maxStopping = 20 * time.Millisecond

// interrupt makes a thread begin its call anew, by a tracer's interruption (ptrace(2),
// PTRACE_INTERRUPT). seized is false where that is not permitted, or somebody else traces it.
// released is false if the thread is still traced, by the caller's thread, which must end soon.
func (all *HeldCalls) interrupt(tid int) (seized, released bool) {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, 0, 0, 0); errno != 0 {
		return false, true
	}
	unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(tid), 0, 0, 0, 0)
	// It stops within microseconds, on its way out of the call. Until then it cannot be let go.
	for deadline := time.Now().Add(maxStopping); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, 0, 0, 0); errno == 0 {
			return true, true
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(tid)); err != nil {
			return true, true
		}
		if h := all.of(tid); h != nil { // should its call have been stopped meanwhile, and wait
			h.interrupt()
		}
	}
	return true, false
}

// sendIgnored sends a thread that has a tracer, and whose proc_pid_status(5) is given, a signal
// that it ignores. The kernel drops such signals, but not if there is a tracer who may want to
// know: then calls that wait begin anew when the tracer has let the thread go on. It reports
// whether there is such a signal.
func sendIgnored(tid int, status []byte) bool {
	blocked, caught := target.StatusField(status, "SigBlk:", 16), target.StatusField(status, "SigCgt:", 16)
	for _, sig := range []unix.Signal{unix.SIGURG, unix.SIGWINCH, unix.SIGCHLD} { // signal(7): ignored unless it is caught
		if bit := 1 << (sig - 1); (blocked|caught)&bit == 0 {
			return unix.Tgkill(target.StatusField(status, "Tgid:", 10), tid, sig) == nil
		}
	}
	return false
}
