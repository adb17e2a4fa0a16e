package session

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Socket makes a non-blocking socket in the egress; the caller owns it. The errno is EIO if this
// thread is where it must not make sockets, see Worker.Lost.
func (w *Worker) Socket(e *netns.Egress, domain, kind, proto int) (int, unix.Errno) {
	fd, errno := w.trySocket(e, domain, kind, proto)
	if w.s.Targets.MakeRoom(errno) {
		fd, errno = w.trySocket(e, domain, kind, proto)
	}
	return fd, errno
}

// trySocket is Socket, but makes no room where descriptors have run out.
func (w *Worker) trySocket(e *netns.Egress, domain, kind, proto int) (int, unix.Errno) {
	if w.Lost != nil {
		return -1, unix.EIO
	}
	if e == w.Home {
		if fd, ok := w.spares.take(domain, proto); ok {
			return fd, 0
		}
		return linux.NewSocket(domain, kind, proto)
	}
	// Going there and back costs a tenth of handing the work to a thread that lives there.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(e.NS.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		return -1, errno
	}
	fd, errno := linux.NewSocket(domain, kind, proto)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(w.Home.NS.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		// This thread's next sockets would be made in the wrong namespace. Better none.
		w.Lost = fmt.Errorf("return to %s: %w", w.Home.NS, errno)
		w.s.Fail(w.Lost)
		linux.Close(fd)
		return -1, unix.EIO
	}
	return fd, errno
}

// MaxSpares is how many sockets are made in advance at a time: so most of the time the worker is
// back in RECV soon, and until it is a signal can interrupt a call that natively none does.
const MaxSpares = 4

// spares are sockets of home that are ready for use, of the kinds that are used most.
type spares [4]struct {
	fds  []int
	used bool // one was wanted since they were last refilled
}

// spareKinds is what they are. Their protocols and families tell them apart.
var spareKinds = [len(spares{})]struct{ domain, kind, proto int }{
	{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
}

// take returns one of them, which the caller owns. ok is false where there is none.
func (s *spares) take(domain, proto int) (fd int, ok bool) {
	for i := range s {
		if k := &spareKinds[i]; k.proto != proto || k.domain != domain {
			continue
		}
		s[i].used = true
		last := len(s[i].fds) - 1
		if last < 0 {
			return -1, false
		}
		fd, s[i].fds = s[i].fds[last], s[i].fds[:last]
		return fd, true
	}
	return -1, false
}

// refill makes more of the kinds that have run out. The thread must live in home.
func (s *spares) refill() {
	for i := range s {
		if !s[i].used {
			continue
		}
		s[i].used = false
		if len(s[i].fds) > 0 {
			continue
		}
		for range MaxSpares {
			fd, errno := linux.NewSocket(spareKinds[i].domain, spareKinds[i].kind, spareKinds[i].proto)
			if errno != 0 {
				break
			}
			s[i].fds = append(s[i].fds, fd)
		}
	}
}

// close closes all of them.
func (s *spares) close() {
	for i := range s {
		for _, fd := range s[i].fds {
			linux.Close(fd)
		}
	}
}

// Tidy does what need not be done while the target waits: it closes the sockets of the last swap
// and makes the next ones.
func (w *Worker) Tidy() {
	w.CloseDone()
	w.unpin()
	if w.Lost == nil {
		w.spares.refill()
	}
}

// CloseDone closes the sockets that are left of a call, or of its last try.
func (w *Worker) CloseDone() {
	for _, fd := range w.Done {
		linux.Close(fd)
	}
	w.Done = w.Done[:0]
}

// CloseNow closes one of the descriptors that Tidy would close.
func (w *Worker) CloseNow(fd int) {
	for i, other := range w.Done {
		if other == fd {
			w.Done = append(w.Done[:i], w.Done[i+1:]...)
		}
	}
	linux.Close(fd)
}

// Disown has Tidy leave a descriptor alone: somebody else owns it.
func (w *Worker) Disown(fd int) {
	w.Done = slices.DeleteFunc(w.Done, func(other int) bool { return other == fd })
}

// Install puts a copy of fd under a number of the target; fd stays the caller's.
//
// The target itself does it, while this thread waits.
func (w *Worker) Install(c *Call, number, fd int, cloexec bool) unix.Errno {
	_, err := w.s.Listener.AddFD(c.ID, seccompx.AddFD{Source: fd, Target: number, SetTarget: true, CloseOnExec: cloexec})
	errno := linux.ErrnoOf(err)
	if errno == unix.EBADF && target.RaiseLimit(c.TID, number, func() {
		_, err = w.s.Listener.AddFD(c.ID, seccompx.AddFD{Source: fd, Target: number, SetTarget: true, CloseOnExec: cloexec})
	}) {
		errno = linux.ErrnoOf(err)
	}
	return errno
}

// InOrigin makes a non-blocking socket in the origin, where the thread tid was; the caller owns it.
func (w *Worker) InOrigin(tid, domain, kind, proto int) (int, unix.Errno) {
	o := w.s.Origin
	e := o.Egress
	if e == nil && w.Home != nil {
		e = o.Enterable()
	}
	if e != nil {
		fd, errno := w.Socket(e, domain, kind, proto)
		if errno != unix.EPERM {
			return fd, errno
		}
	}
	return o.Socket(tid, domain, kind, proto)
}
