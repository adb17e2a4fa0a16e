package seccompx

import (
	"fmt"
	"syscall"
)

// Action is what a filter does with a call: a SECCOMP_RET_* value with its data in the low 16 bits
// (seccomp(2), "Filters"). The zero Action means "not given".
type Action uint32

// The actions that take no data. Where several filters apply to one call, the kernel takes the one
// that stands highest in this list; [Errno] comes after Trap, [Trace] after UserNotify.
const (
	KillProcess Action = 0x80000000 // end the process as if by SIGSYS
	// KillThread ends the thread. SECCOMP_RET_KILL_THREAD itself is 0; the data part, which the
	// kernel ignores here, tells it from an action that was forgotten.
	KillThread Action = 0x00000001
	Trap       Action = 0x00030000 // send SIGSYS, which the program may handle
	UserNotify Action = 0x7fc00000 // ask the supervisor at the listener; ENOSYS if there is none
	Log        Action = 0x7ffc0000 // make the call and log it
	Allow      Action = 0x7fff0000 // make the call
)

const (
	actionMask  = 0xffff0000 // SECCOMP_RET_ACTION_FULL
	actionErrno = 0x00050000
	actionTrace = 0x7ff00000
	maxErrno    = 4095 // MAX_ERRNO, linux/err.h; the kernel lowers what is above
)

// Errno returns the action that fails a call with e without making it. Errno(0) is a call that
// returns 0 and has done nothing. e is at most 4095.
func Errno(e syscall.Errno) Action {
	if e > maxErrno {
		return actionErrno | 0xffff // out of range, which Assemble says; a cut-off number would lie
	}
	return actionErrno | Action(e)
}

// Trace returns the action that asks a ptrace(2) tracer, which finds data with
// PTRACE_GETEVENTMSG; ENOSYS without a tracer.
func Trace(data uint16) Action { return actionTrace | Action(data) }

// String returns the action in the words of this package.
func (a Action) String() string {
	data := uint32(a) &^ actionMask
	switch {
	case a == 0:
		return "not given"
	case a&actionMask == actionErrno:
		return fmt.Sprintf("errno %d (%v)", data, syscall.Errno(data))
	case a&actionMask == actionTrace:
		return fmt.Sprintf("trace %d", data)
	case a&actionMask == 0:
		return "kill thread"
	}
	switch a {
	case KillProcess:
		return "kill process"
	case Trap:
		return "trap"
	case UserNotify:
		return "user notify"
	case Log:
		return "log"
	case Allow:
		return "allow"
	}
	return fmt.Sprintf("action(%#x)", uint32(a))
}

// check says what is wrong with an action that a filter is to return.
func (a Action) check() error {
	switch a {
	case KillProcess, KillThread, Trap, UserNotify, Log, Allow:
		return nil
	case 0:
		return fmt.Errorf("no action is given")
	}
	switch a & actionMask {
	case actionTrace:
		return nil
	case actionErrno:
		if e := uint32(a) &^ actionMask; e > maxErrno {
			return fmt.Errorf("the errno is above %d", maxErrno)
		}
		return nil
	}
	return fmt.Errorf("%#x is no action of seccomp(2)", uint32(a))
}
