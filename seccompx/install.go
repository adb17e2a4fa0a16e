//go:build linux

package seccompx

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// For those who call seccomp(2) themselves, such as a launcher between fork and exec:
// seccomp(SetModeFilter, flags, &fprog), with flags of [InstallOptions.Flags] and fprog of
// [Program.Fprog]. Its errno goes to [InstallError], its result to [NewListener].
const (
	SetModeFilter = unix.SECCOMP_SET_MODE_FILTER

	FlagTSync            = unix.SECCOMP_FILTER_FLAG_TSYNC              // every thread of the process
	FlagLog              = unix.SECCOMP_FILTER_FLAG_LOG                // log all actions but Allow
	FlagSpecAllow        = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW         // no mitigation of Speculative Store Bypass
	FlagNewListener      = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER       // return a listener
	FlagTSyncESRCH       = unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH        // TSYNC fails with ESRCH, not with a tid
	FlagWaitKillableRecv = unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV // see InstallOptions.Interruptible
)

// InstallOptions says how to install a filter. The zero value installs it on the calling thread,
// without a listener, and takes CAP_SYS_ADMIN.
type InstallOptions struct {
	// NoNewPrivs sets no_new_privs on the thread first (PR_SET_NO_NEW_PRIVS, prctl(2)), which
	// an unprivileged thread must. It can never be unset, is inherited, and makes set-user-ID
	// programs such as su run without their privileges.
	NoNewPrivs bool

	// Listener asks for a listener, for filters with [UserNotify]. A thread can have only one.
	Listener bool

	// Interruptible leaves FlagWaitKillableRecv (Linux >= 5.19) out of the flags of a
	// listener. With that flag only fatal signals end the target's wait once a notification has
	// been received. Without it any signal does: the answer then fails with [ErrTargetGone] and
	// a supervisor has to be able to undo what it did.
	Interruptible bool

	// TSync installs the filter on every thread of the process (and no_new_privs, if this thread
	// has it). All of them must have the same filters so far.
	TSync bool
}

// Flags returns the flags for seccomp(2).
func (o InstallOptions) Flags() uintptr {
	var flags uintptr
	if o.Listener {
		flags |= FlagNewListener
		if !o.Interruptible {
			flags |= FlagWaitKillableRecv
		}
	}
	if o.TSync {
		flags |= FlagTSync
		if o.Listener {
			flags |= FlagTSyncESRCH // the kernel wants it where a result could be tid or descriptor
		}
	}
	return flags
}

// Fprog returns the program as seccomp(2) takes it. It points into p, which must live as long and
// is not copied. It must not be empty.
func (p Program) Fprog() unix.SockFprog {
	return unix.SockFprog{Len: uint16(len(p)), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(p)))}
}

// Install puts the calling thread under the filter: for good, with every thread and process it
// makes from then on, across execve(2) too. With o.Listener it returns the listener, which the
// caller has to close, and which is close-on-exec; otherwise nil.
//
// A goroutine runs on the thread only as long as it is locked to it. So Install calls
// [runtime.LockOSThread] and, unless it failed before changing anything or o.TSync was given,
// leaves the goroutine locked: the thread ends with the goroutine instead of being handed to
// others. What the goroutine starts with os/exec is under the filter as well; goroutines it starts
// are not. The first thread of the process outlives its goroutine; [OnOwnThread] provides one that
// does not.
//
// Errors are those of [InstallError].
//
// See seccomp(2) and seccomp_unotify(2).
func Install(p Program, o InstallOptions) (*Listener, error) {
	if len(p) == 0 || len(p) > MaxInstructions {
		return nil, fmt.Errorf("install seccomp filter: %w: %d instructions", ErrInvalidProgram, len(p))
	}
	runtime.LockOSThread()
	fd, changed, err := install(p, o)
	if !changed {
		runtime.UnlockOSThread()
	}
	if err != nil || fd < 0 {
		return nil, err
	}
	l, err := NewListener(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return l, nil
}

// install returns the listener or -1. Whether the thread is no longer like the others is in
// changed, after an error as well.
func install(p Program, o InstallOptions) (fd int, changed bool, err error) {
	if o.NoNewPrivs {
		old, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if err != nil {
			return -1, false, fmt.Errorf("install seccomp filter: get no_new_privs: %w", err)
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, false, fmt.Errorf("install seccomp filter: set no_new_privs: %w", err)
		}
		changed = old == 0
	}
	flags := o.Flags()
	fprog := p.Fprog()
	r, errno := seccomp(SetModeFilter, flags, unsafe.Pointer(&fprog))
	runtime.KeepAlive(p)
	switch {
	case errno != 0:
		return -1, changed, InstallError(errno, flags)
	case o.TSync && !o.Listener && r != 0:
		return -1, changed, fmt.Errorf("install seccomp filter: thread %d has filters that this thread has not", r)
	}
	fd = -1
	if o.Listener {
		fd = int(r)
	}
	return fd, !o.TSync, nil
}

// InstallError makes an error that says what is the matter of an errno that seccomp(SetModeFilter)
// with these flags failed with: [ErrListenerExists] (EBUSY), [ErrNotPrivileged] (EACCES),
// [ErrNotSupported] (EINVAL if the kernel does not know one of the flags, ENOSYS),
// [ErrInvalidProgram] (EINVAL otherwise). nil and errno 0 give nil. It may have to call seccomp(2)
// to find out which flag is unknown, so it is for the process that reports the error, not for a
// forked child.
func InstallError(err error, flags uintptr) error {
	var errno syscall.Errno
	if err == nil || errors.As(err, &errno) && errno == 0 {
		return nil
	}
	const op = "install seccomp filter"
	switch errno {
	case 0:
		return fmt.Errorf("%s: %w", op, err)
	case unix.EBUSY:
		return &sysError{op, errno, ErrListenerExists}
	case unix.EACCES:
		return &sysError{op, errno, ErrNotPrivileged}
	case unix.ENOSYS:
		return &sysError{op, errno, fmt.Errorf("seccomp(2) is %w, or a filter hides it", ErrNotSupported)}
	case unix.EINVAL:
		for _, f := range []*Feature{UserNotification, TSyncListener, WaitKillable} {
			var unsupported *UnsupportedError
			if f.flags != 0 && flags&f.flags == f.flags && errors.As(f.Probe(), &unsupported) {
				return &sysError{op, errno, unsupported}
			}
		}
		return &sysError{op, errno, ErrInvalidProgram}
	case unix.ENOMEM:
		return &sysError{op, errno, errors.New("out of memory, or all filters of this thread together exceed 32768 instructions")}
	case unix.ESRCH:
		return &sysError{op, errno, errors.New("another thread of the process has filters that this thread has not")}
	case unix.EMFILE, unix.ENFILE:
		return &sysError{op, errno, fmt.Errorf("no descriptor is free for the listener: %w", errno)}
	}
	return &sysError{op, errno, nil}
}

// seccomp calls seccomp(2), which neither blocks nor wants the scheduler to know.
func seccomp(operation, flags uintptr, args unsafe.Pointer) (uintptr, syscall.Errno) {
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, operation, flags, uintptr(args))
	return r, errno
}
