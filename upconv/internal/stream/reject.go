package stream

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// Reject answers a call that would connect to what the policy refuses. It never goes on as it
// stands: until the kernel runs it, the program's other threads could have put another socket under
// the number, or have disconnected this one. So what the kernel would say before it comes to the
// destination (a bad descriptor, a socket of another kind, one that is connected or about to be)
// upconv finds out from a copy of the descriptor.
//
// In a namespace that the target has gone to by itself it is refused, too.
//
// datagrams says that the socket has been found to be one for datagrams, but none that upconv does
// anything about.
func (w *Worker) Reject(c *session.Call, e *event.Pending, family int, datagrams bool) session.Outcome {
	if c.View != nil && c.View.File == 0 {
		return session.Answer(unix.EBADF) // or the thread is gone, and nobody will read the answer
	}
	if c.View != nil && family == unix.AF_INET && c.View.Idle(family) {
		return w.refuse(e)
	}
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	switch errno {
	case 0:
	case unix.EBADF, unix.ESRCH:
		return session.Answer(unix.EBADF)
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return w.Fail(e, "pidfd_getfd", errno)
	default: // EPERM: there is no telling what the kernel would say first
		return w.refuse(e)
	}
	w.Done = append(w.Done, fd)

	var domain, kind, proto int32
	if errno := linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4); errno != 0 {
		return session.Answer(errno) // ENOTSOCK; or EBADF, for O_PATH
	}
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&kind), 4)
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4)
	made, crossed := int(domain), false // by the program
	if w.s.Needs.Crosses() {
		switch p, now := w.PassportOf(fd); {
		case p == nil:
		case now == unix.AF_UNIX:
			return session.Answer(unix.EISCONN)
		default:
			made, crossed = p.Family, true
		}
	}
	switch inet := domain == unix.AF_INET || domain == unix.AF_INET6; {
	case inet && linux.IsDatagramType(int(kind)) && w.s.Needs.UDP && !datagrams:
		return session.Raced // meanwhile; and what goes for datagrams may be another thing
	case c.FastOpen.On && !(inet && kind == unix.SOCK_STREAM), domain == linux.AFRDS, domain == linux.AFSMC:
		return w.refuse(e)
	case !inet, linux.IsDatagramType(int(kind)):
		// The rule is about TCP here. But the call is about this very file, whatever is under the
		// number by now. It cannot take long: the first have no such addresses, and the others send
		// nothing.
		return session.Answer(linux.Connect(fd, c.Sockaddr))
	case proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP:
		return w.refuse(e)
	}
	if out := w.WouldConnect(c, fd, int(domain)); !out.IsUndecided() {
		if crossed {
			out.Errno = siit.InetErrno(out.Errno)
		}
		return out
	}
	switch {
	case made != family && made == unix.AF_INET6 && len(c.Sockaddr) < linux.SizeofSockaddrIn6Min:
		return session.Answer(unix.EINVAL)
	case made != family:
		return session.Answer(unix.EAFNOSUPPORT)
	case made == unix.AF_INET6 && linux.OnlyIPv6(fd):
		return session.Answer(unix.ENETUNREACH) // such a socket takes no IPv4-mapped destination
	}
	return w.refuse(e)
}

// refuse answers a call with the errno of its route.
func (w *Worker) refuse(e *event.Pending) session.Outcome {
	errno := e.Decision.Route.Errno
	w.s.Events.Record(e, errno)
	return session.Answer(errno)
}

// WouldConnect returns what connect(2) does instead of starting to connect a TCP socket, of which
// fd is a copy; undecided if it would start.
func (w *Worker) WouldConnect(c *session.Call, fd, domain int) session.Outcome {
	waited := false
	switch linux.TCPState(fd) {
	case linux.TCPListen:
		return session.Answer(unix.EISCONN)
	case linux.TCPSynSent, linux.TCPSynRecv:
		flags, _ := linux.FlagsOf(fd)
		switch patient := w.Patient(c, flags); {
		case patient && !w.MayWait():
			return session.Aside
		case patient:
			if errno := w.waitConnecting(c, fd); errno != 0 {
				return session.Answer(errno)
			}
			waited = true
		case flags&unix.O_NONBLOCK == 0:
			return session.Answer(unix.EALREADY) // MSG_DONTWAIT
		}
	}
	errno, connects := linux.ProbeConnect(fd, domain)
	switch {
	case connects && waited:
		// Another thread has fetched the error.
		return session.Answer(unix.EPIPE)
	case errno == unix.EISCONN && waited:
		errno = 0 // another thread has been told first
	}
	if errno == 0 && c.FastOpen.On {
		return w.sendEarly(c, fd)
	}
	if connects {
		return session.Undecided
	}
	return session.Answer(errno)
}

// waitConnecting waits until a socket is not connecting any more, as connect(2) waits for one that
// is. It holds up its thread.
func (w *Worker) waitConnecting(c *session.Call, fd int) unix.Errno {
	timeout := linux.TimeoutOf(fd, unix.SO_SNDTIMEO)
	w.Aside.Held.Timed.Store(timeout != 0)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for slice := trap.ShortSlice; ; slice = min(2*slice, trap.LongSlice) {
		length := slice
		if timeout != 0 {
			length = min(length, max(timeout-time.Since(c.Since), time.Millisecond))
		}
		ended := w.Aside.Stop.During(func() { unix.Poll(fds, int(length.Milliseconds())) })
		if state := linux.TCPState(fd); state != linux.TCPSynSent && state != linux.TCPSynRecv {
			return 0
		}
		if fds[0].Revents != 0 {
			fds[0].Events, fds[0].Revents = 0, 0 // TCP_FASTOPEN_CONNECT: it will not connect before something is sent
		}
		switch {
		case ended != 0:
			return ended
		case timeout != 0 && time.Since(c.Since) >= timeout:
			return unix.EALREADY
		}
	}
}
