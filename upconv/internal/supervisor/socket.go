package supervisor

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/target"
)

// socket makes a non-blocking socket in the egress; the caller owns it.
func (w *sessionWorker) socket(e *netns.Egress, domain, kind, proto int) (int, unix.Errno) {
	fd, errno := w.trySocket(e, domain, kind, proto)
	if w.s.targets.MakeRoom(errno) {
		fd, errno = w.trySocket(e, domain, kind, proto)
	}
	return fd, errno
}

func (w *sessionWorker) trySocket(e *netns.Egress, domain, kind, proto int) (int, unix.Errno) {
	if w.lost != nil {
		return -1, unix.EIO
	}
	if e == w.home {
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
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(w.home.NS.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		// This thread's next sockets would be made in the wrong namespace. Better none.
		w.lost = fmt.Errorf("return to %s: %w", w.home.NS, errno)
		w.s.fail(w.lost)
		linux.Close(fd)
		return -1, unix.EIO
	}
	return fd, errno
}

// maxSpares is how many sockets are made in advance at a time: so most of the time the worker is
// back in RECV soon, and until it is a signal can interrupt a call that natively none does.
const maxSpares = 4

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

// take returns one that is the caller's then. ok is false where there is none.
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
		for range maxSpares {
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

// tidy does what need not be done while the target waits: it closes the sockets of the last swap
// and makes the next ones.
func (w *sessionWorker) tidy() {
	w.closeDone()
	w.unpin()
	if w.lost == nil {
		w.spares.refill()
	}
}

// closeDone closes the sockets that are left of a call, or of its last try.
func (w *sessionWorker) closeDone() {
	for _, fd := range w.done {
		linux.Close(fd)
	}
	w.done = w.done[:0]
}

// closeNow closes one of the descriptors that tidy would close.
func (w *sessionWorker) closeNow(fd int) {
	for i, other := range w.done {
		if other == fd {
			w.done = append(w.done[:i], w.done[i+1:]...)
		}
	}
	linux.Close(fd)
}

// disown has tidy leave a descriptor alone.
func (w *sessionWorker) disown(fd int) {
	w.done = slices.DeleteFunc(w.done, func(other int) bool { return other == fd })
}

// install puts fd under a number of the target.
//
// The target itself does it, while this thread waits.
func (w *sessionWorker) install(c *call, number, fd int, cloexec bool) unix.Errno {
	_, err := w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, Target: number, SetTarget: true, CloseOnExec: cloexec})
	errno := linux.ErrnoOf(err)
	if errno == unix.EBADF && target.RaiseLimit(c.tid, number, func() {
		_, err = w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, Target: number, SetTarget: true, CloseOnExec: cloexec})
	}) {
		errno = linux.ErrnoOf(err)
	}
	return errno
}

// inOrigin makes a non-blocking socket in the origin, where the thread tid was; the caller owns it.
func (w *sessionWorker) inOrigin(tid, domain, kind, proto int) (int, unix.Errno) {
	o := w.s.origin
	e := o.Egress
	if e == nil && w.home != nil {
		e = o.Enterable()
	}
	if e != nil {
		fd, errno := w.socket(e, domain, kind, proto)
		if errno != unix.EPERM {
			return fd, errno
		}
	}
	return o.Socket(tid, domain, kind, proto)
}
