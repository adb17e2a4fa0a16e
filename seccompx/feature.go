//go:build linux

package seccompx

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Feature is something that kernels have from some version on.
type Feature struct {
	Name  string // as in "seccomp ADDFD_SEND"
	Since string // the Linux version that brought it, as in "5.14"

	flags uintptr // of seccomp(2), for those that are one
	try   func(*Feature) error

	mu    sync.Mutex
	known bool
	err   error
}

// The features that a supervisor may want, each tried by [Feature.Probe].
var (
	// ReadMemory: process_vm_readv(2), by which a supervisor sees what a target's arguments point
	// to.
	ReadMemory = &Feature{Name: "process_vm_readv", Since: "3.2", try: tryMemory(unix.SYS_PROCESS_VM_READV)}
	// WriteMemory: process_vm_writev(2), by which it hands over results that are in memory.
	WriteMemory = &Feature{Name: "process_vm_writev", Since: "3.2", try: tryMemory(unix.SYS_PROCESS_VM_WRITEV)}
	// UserNotification: the action [UserNotify] and listeners.
	UserNotification = &Feature{Name: "seccomp user notification", Since: "5.0", flags: FlagNewListener, try: tryNotification}
	// PidfdOpen: pidfd_open(2).
	PidfdOpen = &Feature{Name: "pidfd_open", Since: "5.3", try: tryPidfdOpen(0, unix.ENOSYS)}
	// ContinueFlag: [Listener.Continue].
	ContinueFlag = &Feature{Name: "seccomp CONTINUE", Since: "5.5", try: onListener(tryContinue)}
	// PidfdGetfd: pidfd_getfd(2).
	PidfdGetfd = &Feature{Name: "pidfd_getfd", Since: "5.6", try: tryPidfdGetfd}
	// TSyncListener: a listener for all threads of a process, [InstallOptions.TSync].
	TSyncListener = &Feature{Name: "seccomp TSYNC with a listener", Since: "5.7", flags: FlagNewListener | FlagTSync | FlagTSyncESRCH, try: tryFlags}
	// AddFDIoctl: [Listener.AddFD].
	AddFDIoctl = &Feature{Name: "seccomp ADDFD", Since: "5.9", try: onListener(tryAddFD(0))}
	// AddFDSend: [Listener.AddFD] with Send.
	AddFDSend = &Feature{Name: "seccomp ADDFD_SEND", Since: "5.14", try: onListener(tryAddFD(unix.SECCOMP_ADDFD_FLAG_SEND))}
	// WaitKillable: a target that only fatal signals interrupt, [InstallOptions.Interruptible].
	WaitKillable = &Feature{Name: "seccomp WAIT_KILLABLE_RECV", Since: "5.19", flags: FlagNewListener | FlagWaitKillableRecv, try: tryFlags}
	// SyncWakeUp: [Listener.SetSyncWakeUp].
	SyncWakeUp = &Feature{Name: "seccomp sync wake-up", Since: "6.6", try: onListener(trySyncWakeUp)}
	// PidfdThread: pidfd_open(2) of a thread that does not lead its group.
	PidfdThread = &Feature{Name: "PIDFD_THREAD", Since: "6.9", try: tryPidfdOpen(unix.PIDFD_THREAD, unix.EINVAL)}
)

// Features returns all of them, the oldest first. The slice is the caller's.
func Features() []*Feature {
	return []*Feature{
		ReadMemory, WriteMemory, UserNotification, PidfdOpen, ContinueFlag, PidfdGetfd, TSyncListener,
		AddFDIoctl, AddFDSend, WaitKillable, SyncWakeUp, PidfdThread,
	}
}

// UnsupportedError is the absence of a feature. It satisfies errors.Is with [ErrNotSupported].
type UnsupportedError struct {
	Feature string
	Since   string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s not supported (requires Linux >= %s)", e.Feature, e.Since)
}

// Is reports whether target is [ErrNotSupported].
func (e *UnsupportedError) Is(target error) bool { return target == ErrNotSupported }

func (f *Feature) unsupported() *UnsupportedError { return &UnsupportedError{f.Name, f.Since} }

// Probe tries whether the running kernel has the feature: nil if so, an [UnsupportedError] if not.
// That is remembered; any other error means that the attempt failed and is not.
//
// It takes no privileges. What can only be tried at a listener (CONTINUE, ADDFD, ADDFD_SEND, sync
// wake-up) is tried by a thread that puts itself under a filter and has ended when Probe returns.
// If this process runs under a listener of somebody else already, that cannot be done and the error
// is [ErrListenerExists].
func (f *Feature) Probe() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known {
		return f.err
	}
	switch err := f.try(f); err {
	case nil:
		f.known = true
	case errAbsent:
		f.known, f.err = true, f.unsupported()
	default:
		return fmt.Errorf("probing for %s: %w", f.Name, err)
	}
	return f.err
}

// errAbsent is how a try says no.
var errAbsent = errors.New("absent")

// verdict reads the errno of an attempt that is made to fail: present is how it fails where the
// kernel has the feature, absent where it has not. Anything else (EPERM of a container's filter) is
// no answer.
func verdict(errno, present, absent syscall.Errno) error {
	switch errno {
	case present:
		return nil
	case absent, unix.ENOSYS:
		return errAbsent
	}
	return errno
}

// tryFlags: the kernel looks at the flags before it reads the program, which is not there.
func tryFlags(f *Feature) error {
	_, errno := seccomp(SetModeFilter, f.flags, nil)
	return verdict(errno, unix.EFAULT, unix.EINVAL)
}

func tryNotification(f *Feature) error {
	if err := tryFlags(f); err != nil {
		return err
	}
	action := uint32(UserNotify)
	_, errno := seccomp(unix.SECCOMP_GET_ACTION_AVAIL, 0, unsafe.Pointer(&action))
	return verdict(errno, 0, unix.EOPNOTSUPP)
}

func tryPidfdGetfd(*Feature) error {
	_, _, errno := unix.RawSyscall(unix.SYS_PIDFD_GETFD, ^uintptr(0), 0, 0)
	return verdict(errno, unix.EBADF, unix.ENOSYS)
}

func tryPidfdOpen(flags int, absent syscall.Errno) func(*Feature) error {
	return func(*Feature) error {
		fd, err := unix.PidfdOpen(unix.Getpid(), flags)
		if err == nil {
			unix.Close(fd)
			return nil
		}
		var errno syscall.Errno
		errors.As(err, &errno)
		return verdict(errno, 0, absent)
	}
}

// tryMemory: of this process, and none of it.
func tryMemory(call uintptr) func(*Feature) error {
	return func(*Feature) error {
		_, _, errno := unix.RawSyscall6(call, uintptr(unix.Getpid()), 0, 0, 0, 0, 0)
		return verdict(errno, 0, unix.ENOSYS)
	}
}

// onListener makes a try of one that needs a listener.
func onListener(try func(fd int) error) func(*Feature) error {
	return func(*Feature) error {
		fd, err := throwAwayListener()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return try(fd)
	}
}

// throwAwayListener returns a listener of a filter that nobody is under any more.
func throwAwayListener() (int, error) {
	program, err := (&Filter{UnknownArch: Allow, X32: Allow}).Assemble()
	if err != nil {
		return -1, err
	}
	var fd, tid int
	OnOwnThread(func() {
		tid = unix.Gettid()
		// Not Install, which would go by the features that are being probed for.
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return
		}
		fprog := program.Fprog()
		r, errno := seccomp(SetModeFilter, FlagNewListener, unsafe.Pointer(&fprog))
		runtime.KeepAlive(program)
		switch errno {
		case 0:
			fd = int(r)
		case unix.EBUSY:
			err = &sysError{"seccomp listener", errno, ErrListenerExists}
		case unix.EINVAL, unix.ENOSYS:
			err = errAbsent
		default:
			err = errno
		}
	})
	if err != nil {
		return -1, err
	}
	// The goroutine is done, its thread not quite: the listener knows when it is on its way out.
	// (It does not before Linux 5.9; then the thread ends a little later, that is all.)
	fds := []unix.PollFd{{Fd: int32(fd)}}
	for {
		if _, err := unix.Poll(fds, 1000); err != unix.EINTR {
			break
		}
	}
	for fds[0].Revents&unix.POLLHUP != 0 && unix.Tgkill(unix.Getpid(), tid, 0) == nil {
		runtime.Gosched()
	}
	return fd, nil
}

// The kernel checks flags before it looks for the notification, and nobody ever had number 0.

func tryContinue(fd int) error {
	r := response{flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	return verdict(errno, unix.ENOENT, unix.EINVAL)
}

func tryAddFD(flags uint32) func(fd int) error {
	return func(fd int) error {
		r := addFD{flags: flags, srcfd: ^uint32(0)}
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&r)))
		return verdict(errno, unix.EBADF, unix.EINVAL)
	}
}

func trySyncWakeUp(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	return verdict(errno, 0, unix.EINVAL)
}
