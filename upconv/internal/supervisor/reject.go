package supervisor

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// Address families whose sockets take IPv4 addresses, but that golang.org/x/sys/unix or this file
// has no more to do with: linux/socket.h.
const (
	afRDS = 21
	afSMC = 43
)

// reject answers a call that would connect to what the policy refuses. It never goes on as it
// stands: until the kernel runs it, the program's other threads could have put another socket under
// the number, or have disconnected this one. So what the kernel would say before it comes to the
// destination (a bad descriptor, a socket of another kind, one that is connected or about to be)
// upconv finds out from a copy of the descriptor.
//
// In a namespace that the target has gone to by itself it is refused, too.
//
// datagrams says that the socket has been found to be one for datagrams, but none that upconv does
// anything about.
func (w *streamWorker) reject(c *call, e *event.Pending, family int, datagrams bool) outcome {
	if c.view != nil && c.view.File == 0 {
		return answer(unix.EBADF) // or the thread is gone, and nobody will read the answer
	}
	if c.view != nil && family == unix.AF_INET && c.view.idle(family) {
		return w.refuse(e)
	}
	fd, errno := w.s.targets.Getfd(c.tid, c.fd)
	switch errno {
	case 0:
	case unix.EBADF, unix.ESRCH:
		return answer(unix.EBADF)
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return w.fail(e, "pidfd_getfd", errno)
	default: // EPERM: there is no telling what the kernel would say first
		return w.refuse(e)
	}
	w.done = append(w.done, fd)

	var domain, kind, proto int32
	if errno := linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4); errno != 0 {
		return answer(errno) // ENOTSOCK; or EBADF, for O_PATH
	}
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&kind), 4)
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4)
	made, crossed := int(domain), false // by the program
	if w.s.needs.crosses() {
		var now int
		if now, crossed = w.hasPassport(fd); crossed && now == unix.AF_UNIX {
			return answer(unix.EISCONN)
		} else if crossed {
			made = w.crossing.pass.Family
		}
	}
	switch inet := domain == unix.AF_INET || domain == unix.AF_INET6; {
	case inet && linux.IsDatagramType(int(kind)) && w.s.needs.udp && !datagrams:
		return raced // meanwhile; and what goes for datagrams may be another thing
	case c.fastOpen.on && !(inet && kind == unix.SOCK_STREAM), domain == afRDS, domain == afSMC:
		return w.refuse(e)
	case !inet, linux.IsDatagramType(int(kind)):
		// The rule is about TCP here. But the call is about this very file, whatever is under the
		// number by now. It cannot take long: the first have no such addresses, and the others send
		// nothing.
		return answer(linux.Connect(fd, c.sa))
	case proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP:
		return w.refuse(e)
	}
	if out := w.wouldConnect(c, fd, int(domain)); !out.isUndecided() {
		if crossed {
			out.errno = siit.InetErrno(out.errno)
		}
		return out
	}
	switch {
	case made != family && made == unix.AF_INET6 && len(c.sa) < linux.SizeofSockaddrIn6Min:
		return answer(unix.EINVAL)
	case made != family:
		return answer(unix.EAFNOSUPPORT)
	case made == unix.AF_INET6 && onlyIPv6(fd):
		return answer(unix.ENETUNREACH) // such a socket takes no IPv4-mapped destination
	}
	return w.refuse(e)
}

func (w *streamWorker) refuse(e *event.Pending) outcome {
	errno := e.Decision.Route.Errno
	w.s.events.Record(e, errno)
	return answer(errno)
}

// wouldConnect returns what connect(2) does instead of starting to connect a TCP socket; undecided
// if it would start.
func (w *streamWorker) wouldConnect(c *call, fd, domain int) outcome {
	waited := false
	switch linux.TCPState(fd) {
	case linux.TCPListen:
		return answer(unix.EISCONN)
	case linux.TCPSynSent, linux.TCPSynRecv:
		flags, _ := linux.FlagsOf(fd)
		switch patient := w.patient(c, flags); {
		case patient && !w.alone:
			return aside
		case patient:
			if errno := w.waitConnecting(c, fd); errno != 0 {
				return answer(errno)
			}
			waited = true
		case flags&unix.O_NONBLOCK == 0:
			return answer(unix.EALREADY) // MSG_DONTWAIT
		}
	}
	errno, connects := linux.ProbeConnect(fd, domain)
	switch {
	case connects && waited:
		// Another thread has fetched the error.
		return answer(unix.EPIPE)
	case errno == unix.EISCONN && waited:
		errno = 0 // another thread has been told first
	}
	if errno == 0 && c.fastOpen.on {
		return w.sendEarly(c, fd)
	}
	if connects {
		return undecided
	}
	return answer(errno)
}

// waitConnecting waits until a socket is not connecting any more, as connect(2) waits for one that
// is. It holds up its thread.
func (w *streamWorker) waitConnecting(c *call, fd int) unix.Errno {
	timeout := linux.TimeoutOf(fd, unix.SO_SNDTIMEO)
	w.aside.held.Timed.Store(timeout != 0)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for slice := trap.ShortSlice; ; slice = min(2*slice, trap.LongSlice) {
		length := slice
		if timeout != 0 {
			length = min(length, max(timeout-time.Since(c.since), time.Millisecond))
		}
		ended := w.aside.stop.During(func() { unix.Poll(fds, int(length.Milliseconds())) })
		if state := linux.TCPState(fd); state != linux.TCPSynSent && state != linux.TCPSynRecv {
			return 0
		}
		if fds[0].Revents != 0 {
			fds[0].Events, fds[0].Revents = 0, 0 // TCP_FASTOPEN_CONNECT: it will not connect before something is sent
		}
		switch {
		case ended != 0:
			return ended
		case timeout != 0 && time.Since(c.since) >= timeout:
			return unix.EALREADY
		}
	}
}
