package target

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// A tracee is a thread that this one has make system calls of upconv's choice, with ptrace(2), in
// the place of one that it was stopped in. It is for what the kernel decides by who asks. All
// methods are for the thread that has seized it.
type tracee struct {
	tid   int
	pidfd int // says when the thread is gone; the caller's
	// begin is how the registers are in front of the call that it was stopped in: it makes that if
	// it goes on with them.
	begin registers
	mask  uint64 // its signal mask
}

// syscallInfo is struct ptrace_syscall_info, linux/ptrace.h. What is behind sp depends on op: of
// PTRACE_SYSCALL_INFO_EXIT the first is the result.
type syscallInfo struct {
	op     uint8
	_      [3]byte
	arch   uint32
	ip, sp uint64
	values [8]uint64
}

// ERESTARTNOINTR and ERESTARTSYS, linux/errno.h: the call is made again, in any case or if no
// signal handler is run.
const (
	ErrRestartNoIntr = 513
	errRestartSys    = seccompx.ERestartSys
)

// Seize begins to trace a thread. The errno is EPERM where that is not permitted, or somebody else
// does.
func Seize(tid, pidfd int) (*tracee, unix.Errno) {
	t := &tracee{tid: tid, pidfd: pidfd}
	if errno := t.request(unix.PTRACE_SEIZE, 0, unix.PTRACE_O_TRACESYSGOOD); errno != 0 {
		return nil, errno
	}
	// It stops on its way out of the call that it is in, before it has done anything else.
	return t, t.request(unix.PTRACE_INTERRUPT, 0, 0)
}

// request is ptrace(2). It may wait for an execve(2) of the program's; so not a RawSyscall.
func (t *tracee) request(request int, addr, data uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(t.tid), addr, data, 0, 0)
	return errno
}

// Halt waits until the thread has stopped at the end of a call that was answered with
// ERESTARTNOINTR, and blocks its signals, so that no handler runs before release. first is that
// call's first argument. It returns false if the thread is gone.
func (t *tracee) Halt(first uint64) bool {
	var info syscallInfo
	if !t.stop(&info) || t.registers(&t.begin) != 0 {
		return false
	}
	t.begin.rewind(ErrRestartNoIntr, first)
	all := ^uint64(0)
	return t.request(unix.PTRACE_GETSIGMASK, 8, uintptr(unsafe.Pointer(&t.mask))) == 0 &&
		t.request(unix.PTRACE_SETSIGMASK, 8, uintptr(unsafe.Pointer(&all))) == 0
}

// Make has the halted thread make a call, and returns what that returns. ok is false if the thread
// is gone.
func (t *tracee) Make(nr uint64, compat bool, args ...uint64) (result int64, ok bool) {
	regs := t.begin
	regs.call(nr, compat, args)
	var info syscallInfo
	for range maxInterrupted {
		if t.setRegisters(&regs) != 0 || !t.runTo(unix.PTRACE_SYSCALL_INFO_ENTRY, &info) || !t.runTo(unix.PTRACE_SYSCALL_INFO_EXIT, &info) {
			return 0, false
		}
		if result = int64(info.values[0]); compat {
			result = int64(int32(result))
		}
		if result != -errRestartSys && result != -int64(unix.EINTR) {
			break
		}
	}
	return result, true
}

// maxInterrupted is how often a call is made again that was interrupted: by stops of the whole
// process, since signals are blocked.
const maxInterrupted = 1000

// Restart takes the halted thread to the beginning of the call that it was stopped in, where
// release lets go of it. It returns false if the thread is gone.
func (t *tracee) Restart() bool {
	var info syscallInfo
	return t.setRegisters(&t.begin) == 0 && t.runTo(unix.PTRACE_SYSCALL_INFO_ENTRY, &info) &&
		t.request(unix.PTRACE_SETSIGMASK, 8, uintptr(unsafe.Pointer(&t.mask))) == 0
}

// Finish has the call that the halted thread was stopped in return a result, as soon as Release
// lets go of the thread. It returns false if that is gone.
func (t *tracee) Finish(result int64) bool {
	regs := t.begin
	regs.finish(result)
	return t.setRegisters(&regs) == 0 && t.request(unix.PTRACE_SETSIGMASK, 8, uintptr(unsafe.Pointer(&t.mask))) == 0
}

// Release lets go of the thread, which has stopped.
func (t *tracee) Release() unix.Errno { return t.request(unix.PTRACE_DETACH, 0, 0) }

// runTo has the thread go on to the beginning or the end of a call. It returns false if the thread
// is gone.
func (t *tracee) runTo(op uint8, info *syscallInfo) bool {
	signal := uintptr(0)
	for {
		if t.request(unix.PTRACE_SYSCALL, 0, signal) != 0 || !t.stop(info) {
			return false
		}
		if info.op == op {
			return true
		}
		// A stop of the whole process, which begins with a signal that nobody can block.
		signal = t.stopSignal()
	}
}

// stopSignal returns the signal that a thread has stopped to be given, 0 if it has stopped for
// another reason.
func (t *tracee) stopSignal() uintptr {
	var info [128]byte // siginfo_t: si_signo, si_errno, si_code
	if t.request(unix.PTRACE_GETSIGINFO, 0, uintptr(unsafe.Pointer(&info))) != 0 {
		return 0
	}
	if code := *(*int32)(unsafe.Pointer(&info[8])); code>>8 == unix.PTRACE_EVENT_STOP {
		return 0
	}
	return uintptr(*(*int32)(unsafe.Pointer(&info[0])))
}

// How long stop waits between two looks, at first and at last: a stop takes some microseconds, but
// a frozen thread takes as long as it is frozen. In between it is an eighth of what it has waited
// so far.
const (
	firstPause = 10 * time.Microsecond
	lastPause  = 5 * time.Millisecond
)

// stop waits until the thread has stopped. It does not wait(2) for that, since the thread that
// reaps all children of this process is told of such stops, too. It returns false if the thread is
// gone.
func (t *tracee) stop(info *syscallInfo) bool {
	for began := time.Now(); ; {
		// ESRCH as long as it has not stopped.
		if t.request(unix.PTRACE_GET_SYSCALL_INFO, unsafe.Sizeof(*info), uintptr(unsafe.Pointer(info))) == 0 {
			return true
		}
		if HasEnded(t.pidfd) || unix.Kill(t.tid, 0) == unix.ESRCH {
			return false
		}
		pause := unix.NsecToTimespec(int64(min(max(time.Since(began)/8, firstPause), lastPause)))
		unix.Nanosleep(&pause, nil) // time.Sleep would change threads, twice
	}
}

// HasEnded reports whether the thread or process of a pidfd is gone.
func HasEnded(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, 0)
	return n > 0
}
