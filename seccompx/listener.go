//go:build linux

package seccompx

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The structs of linux/seccomp.h, one to one and in native byte order.
type (
	// Data describes a system call (struct seccomp_data, 64 bytes).
	Data struct {
		Nr   int32     // system call number, in Arch
		Arch Arch      // of this call; a program may mix
		IP   uint64    // instruction pointer
		Args [6]uint64 // registers; those of an i386 call are zero-extended
	}

	// Notification is a stopped system call (struct seccomp_notif, 80 bytes).
	Notification struct {
		ID    uint64 // unique for this listener, for the answer
		PID   uint32 // the thread's id in the pid namespace of the receiver; 0 if it is not visible there
		Flags uint32 // none so far
		Data  Data
	}

	response struct { // struct seccomp_notif_resp
		id    uint64
		value int64
		err   int32
		flags uint32
	}

	addFD struct { // struct seccomp_notif_addfd
		id         uint64
		flags      uint32
		srcfd      uint32
		newfd      uint32
		newfdFlags uint32
	}

	notifSizes struct { // struct seccomp_notif_sizes
		notif, resp, data uint16
	}
)

// ERestartSys is an error for [Listener.Respond] that only the kernel understands (ERESTARTSYS,
// linux/errno.h): run the handler of the signal that is pending, then make the call again or return
// EINTR, as SA_RESTART asks. Without a signal to take, the program sees errno 512.
const ERestartSys = 512

// Listener answers the calls that a filter stops. Its methods may be used by several goroutines at
// once, Close excepted.
//
// The calls that a filter hands to a supervisor fail with ENOSYS as soon as nobody has the
// listener open any more.
type Listener struct {
	fd atomic.Int32 // -1 once closed

	// Before Linux 6.11 nothing wakes a receiver when the last target ends. There receivers take
	// turns: only the one that has seen with poll(2) that there is something to receive goes
	// in, so that none of them is left sleeping.
	pollFirst bool
	turn      sync.Mutex
}

var _ = [1]struct{}{}[unsafe.Sizeof(Data{})-64]
var _ = [1]struct{}{}[unsafe.Sizeof(Notification{})-80]
var _ = [1]struct{}{}[unsafe.Sizeof(response{})-24]
var _ = [1]struct{}{}[unsafe.Sizeof(addFD{})-24]

// NewListener takes a listener that came some other way than from [Install]: the result of a raw
// seccomp(2), or a descriptor that was passed on. On success it owns fd, which is closed by Close;
// on an error fd stays the caller's. The error is [ErrNotSupported] if the kernel's structs are not
// the size of ours (SECCOMP_GET_NOTIF_SIZES), and says so if fd is something else.
func NewListener(fd int) (*Listener, error) {
	var sizes notifSizes
	if _, errno := seccomp(unix.SECCOMP_GET_NOTIF_SIZES, 0, unsafe.Pointer(&sizes)); errno != 0 {
		return nil, &sysError{"seccomp listener: SECCOMP_GET_NOTIF_SIZES", errno, nil}
	}
	want := notifSizes{uint16(unsafe.Sizeof(Notification{})), uint16(unsafe.Sizeof(response{})), uint16(unsafe.Sizeof(Data{}))}
	if sizes != want {
		return nil, fmt.Errorf("seccomp listener: notifications of %d, %d and %d bytes, not %d, %d and %d, are %w",
			sizes.notif, sizes.resp, sizes.data, want.notif, want.resp, want.data, ErrNotSupported)
	}
	l := &Listener{pollFirst: !wakesReceivers()}
	l.fd.Store(int32(fd))
	if err := l.Valid(0); !errors.Is(err, ErrTargetGone) { // what every listener says of an id it never gave
		return nil, fmt.Errorf("descriptor %d is not a seccomp listener: %w", fd, err)
	}
	return l, nil
}

// wakesReceivers reports whether RECV returns when the last target ends (Linux >= 6.11). It is the
// one thing here that goes by the version: a try would never return where the answer is no.
var wakesReceivers = sync.OnceValue(func() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 11
})

// FD returns the descriptor, which stays the listener's; -1 after Close.
func (l *Listener) FD() int { return int(l.fd.Load()) }

// Close closes the descriptor; again, it does nothing. A target that waits, and every call that is
// stopped later, gets ENOSYS, if this was the last copy of the descriptor. Close does not wake a
// receiver: call it when no other method is running.
func (l *Listener) Close() error {
	fd := l.fd.Swap(-1)
	if fd < 0 {
		return nil
	}
	return unix.Close(int(fd))
}

// Receive waits for the next stopped system call and writes it to *n, whatever was there before. It
// returns [ErrGone] once no thread is left under the filter. A notification whose target is killed
// before it could be received is passed over.
//
// It blocks its thread in SECCOMP_IOCTL_NOTIF_RECV. Until a notification is received the target's
// wait is ended by any signal, so always have somebody in Receive.
func (l *Listener) Receive(n *Notification) error {
	for {
		if l.pollFirst {
			l.turn.Lock()
			if err := l.waitReadable(); err != nil {
				l.turn.Unlock()
				return err
			}
		}
		*n = Notification{} // the kernel wants zeros: a hook for extending the struct
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.FD()), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n)))
		if l.pollFirst {
			l.turn.Unlock()
		}
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOENT:
			// Either the one target that we were woken for is dead, or all are.
			gone, err := l.poll(0, 0)
			if err != nil {
				return err
			}
			if gone&unix.POLLHUP != 0 {
				return errReceiveGone
			}
		default:
			return &sysError{"seccomp receive", errno, nil}
		}
	}
}

var (
	errReceiveGone = &sysError{"seccomp receive", unix.ENOENT, ErrGone}
	errPollClosed  = &sysError{"seccomp listener: poll", unix.EBADF, nil}
)

// waitReadable returns nil when there is something to receive.
func (l *Listener) waitReadable() error {
	for {
		switch events, err := l.poll(unix.POLLIN, -1); {
		case err != nil:
			return err
		case events&unix.POLLIN != 0:
			return nil
		case events&unix.POLLHUP != 0:
			return errReceiveGone
		}
	}
}

// poll returns what there is of events, and POLLHUP if nobody is left; 0 after a timeout.
func (l *Listener) poll(events int16, timeout int) (int16, error) {
	fds := []unix.PollFd{{Fd: l.fd.Load(), Events: events}}
	if fds[0].Fd < 0 { // which poll passes over
		return 0, errPollClosed
	}
	for {
		_, err := unix.Poll(fds, timeout)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("seccomp listener: poll: %w", err)
		case fds[0].Revents&unix.POLLNVAL != 0:
			return 0, errPollClosed
		case fds[0].Revents == unix.POLLERR: // a signal came while the kernel waited for its own lock
		default:
			return fds[0].Revents, nil
		}
	}
}

// Respond answers a call without making it. With errno 0 it returns value to the program. Any other
// errno is the positive number the program will see, or [ERestartSys], and value is ignored by
// programs: give 0. It returns [ErrTargetGone] if nobody waits any more, EINPROGRESS if the
// notification was not received yet or is answered already.
func (l *Listener) Respond(id uint64, value int64, errno int) error {
	if errno < 0 || errno > maxErrno {
		return fmt.Errorf("seccomp respond: %d is no errno", errno)
	}
	r := response{id: id, value: value, err: int32(-errno)}
	return l.ioctl("seccomp respond", unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

// Continue lets the kernel make the call, as if it had not been stopped (Linux >= 5.5). The kernel
// then reads the target's memory and descriptors for itself, and another thread may have changed
// them: what the supervisor saw binds nobody (seccomp_unotify(2)). Errors are those of Respond.
func (l *Listener) Continue(id uint64) error {
	r := response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	return l.ioctl("seccomp continue", unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

// Valid returns nil if the target still waits for the answer and [ErrTargetGone] if not. Ask after
// opening anything by the target's pid: if the notification is valid now, the pid was not
// somebody else's then.
func (l *Listener) Valid(id uint64) error {
	return l.ioctl("seccomp notification", unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id))
}

// SetSyncWakeUp tells the kernel that receiver and target run one after the other and never at the
// same time: it wakes the one on the CPU the other is leaving, which makes each notification much
// cheaper. It returns [ErrNotSupported] before Linux 6.6.
func (l *Listener) SetSyncWakeUp() error {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(l.FD()), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	switch errno {
	case 0:
		return nil
	case unix.EINVAL:
		return &sysError{"seccomp listener", errno, SyncWakeUp.unsupported()}
	}
	return &sysError{"seccomp listener: set sync wake-up", errno, nil}
}

// AddFD says which descriptor goes where.
type AddFD struct {
	Source      int  // the supervisor's descriptor, which stays open and its own
	Target      int  // the number it gets in the target, if SetTarget
	SetTarget   bool // otherwise the lowest free number
	CloseOnExec bool // of the target's descriptor; that of Source does not matter
	Send        bool // also answer the call, with the number (Linux >= 5.14)
}

// AddFD puts a copy of a descriptor into the target's descriptor table while it waits (Linux >=
// 5.9), and returns its number there. With SetTarget what was open under that number is closed in
// the same step, as by dup2(2): nobody ever sees the number unused.
//
// Errors: [ErrTargetGone] (ENOENT, ESRCH) if nobody waits any more; EINPROGRESS if the notification
// is answered already or not received yet; EBADF if Source is not open or Target is beyond the
// target's RLIMIT_NOFILE; EMFILE if no number below that limit is free; EBUSY if Send comes while
// another AddFD for the same notification is under way.
//
// The descriptor is installed by the target's own thread, which is woken for it, so AddFD blocks
// until that thread has been given a CPU.
func (l *Listener) AddFD(id uint64, a AddFD) (int, error) {
	r := addFD{id: id, srcfd: uint32(a.Source)}
	if a.SetTarget {
		r.flags |= unix.SECCOMP_ADDFD_FLAG_SETFD
		r.newfd = uint32(a.Target)
	}
	if a.CloseOnExec {
		r.newfdFlags = unix.O_CLOEXEC
	}
	if !a.Send {
		fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.FD()), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&r)))
		return addFDResult(fd, errno)
	}
	r.flags |= unix.SECCOMP_ADDFD_FLAG_SEND
	return l.addAndSend(&r)
}

func addFDResult(fd uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(fd), nil
	case unix.ENOENT, unix.ESRCH:
		return -1, &sysError{"seccomp add descriptor", errno, ErrTargetGone}
	}
	return -1, &sysError{"seccomp add descriptor", errno, nil}
}

// ioctl makes one of the calls that do not wait for anybody, without telling the scheduler.
func (l *Listener) ioctl(op string, request uintptr, arg unsafe.Pointer) error {
	for {
		switch _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(l.FD()), request, uintptr(arg)); errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOENT:
			return &sysError{op, errno, ErrTargetGone}
		default:
			return &sysError{op, errno, nil}
		}
	}
}

// WaitHangup blocks, and with it a thread, until no thread is left under the filter (nil) or ctx is
// done (its error). From Linux 6.11 on a process that has ended no longer counts, before that it
// counts until its parent has waited for it. Linux >= 5.9.
func (l *Listener) WaitHangup(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("seccomp listener: eventfd: %w", err)
	}
	defer unix.Close(wake)
	written := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(written)
		one := uint64(1)
		unix.Write(wake, (*[8]byte)(unsafe.Pointer(&one))[:])
	})
	defer func() {
		if !stop() {
			<-written // or it would write to whatever gets the number next
		}
	}()
	// No events: POLLHUP comes unasked, and a notification does not wake us.
	fds := []unix.PollFd{{Fd: l.fd.Load()}, {Fd: int32(wake), Events: unix.POLLIN}}
	if fds[0].Fd < 0 {
		return errPollClosed
	}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("seccomp listener: poll: %w", err)
		case fds[0].Revents&unix.POLLHUP != 0:
			return nil
		case fds[0].Revents&unix.POLLNVAL != 0:
			return errPollClosed
		case fds[1].Revents != 0:
			return ctx.Err()
		}
	}
}

// addAndSend is AddFD with Send. A signal that the supervisor's thread takes before the target has
// run undoes the request but not the answer: the kernel has marked the notification as answered by
// then, and the call returns 0 with no descriptor. So no signal is taken meanwhile.
func (l *Listener) addAndSend(r *addFD) (int, error) {
	runtime.LockOSThread() // the signal mask is the thread's
	defer runtime.UnlockOSThread()
	all, old := uint64(math.MaxUint64), uint64(0)
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0); errno != 0 {
		return -1, &sysError{"seccomp add descriptor: block signals", errno, nil}
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.FD()), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(r)))
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	return addFDResult(fd, errno)
}
