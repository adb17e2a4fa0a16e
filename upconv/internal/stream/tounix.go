package stream

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/proxyproto"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// connectUnix connects the socket fd, which is not installed yet: where that fails, the target
// keeps the one it has. If it is connected the outcome is undecided.
func (w *Worker) connectUnix(c *session.Call, e *event.Pending, x *crossing.Crossing, fd int, sock *sockstate.Socket) session.Outcome {
	errno := x.Path.Open(w.s.Targets, x.Route, c.TID)
	if errno == 0 {
		errno = x.Path.Connect(fd)
		if errno == unix.EAGAIN && w.Patient(c, sock.Flags) {
			if !w.MayWait() {
				x.Path.Close()
				return session.Aside
			}
			errno = w.WaitForRoom(fd, x, linux.TimeoutOf(fd, unix.SO_SNDTIMEO))
		}
	}
	x.Path.Close()
	if errno == unix.EAGAIN {
		// A TCP server with a full backlog that does not just let clients wait
		// (tcp_abort_on_overflow) refuses. EINPROGRESS would promise what nobody works on.
		e.Add("the backlog of " + x.Route.Target + " is full")
		errno = unix.ECONNREFUSED
	}
	if errno = x.AsInet(e, errno); errno != 0 {
		w.s.Events.Record(e, underWay(errno))
		return session.Answer(errno)
	}
	if x.Route.ProxyV2 {
		header := proxyproto.Header(x.Pass.Local, x.Pass.LocalPort, x.Pass.Peer)
		if _, err := unix.Write(fd, header[:]); err != nil {
			e.Add("PROXY header: " + err.Error()) // the server has hung up, as the program will see
		}
	}
	return session.Undecided
}

// connected gives a Unix socket, which is connected and the target's, its status flags, and says
// what the target is to see.
func (w *Worker) connected(c *session.Call, e *event.Pending, fd int, sock *sockstate.Socket) session.Outcome {
	e.Local = fd
	out := session.Answer(0)
	if c.FastOpen.On {
		out = w.ConnectEarly(c, fd, nil)
	}
	linux.SetFlags(fd, sock.Flags)
	w.s.Events.Record(e, underWay(out.Errno))
	return out
}

// WaitForRoom connects a Unix socket to a server whose backlog is full, on a worker that may wait:
// the wait is the kernel's own. The errno is EINPROGRESS after the timeout; 0 is none.
func (w *Worker) WaitForRoom(fd int, x *crossing.Crossing, timeout time.Duration) (errno unix.Errno) {
	var before unix.Timeval
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&before), unsafe.Sizeof(before))
	linux.SetFlags(fd, 0)
	defer func() {
		linux.SetFlags(fd, unix.O_NONBLOCK)
		linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&before), unsafe.Sizeof(before))
	}()
	w.Aside.Held.Timed.Store(timeout != 0)
	began := time.Now()
	for length := trap.ShortSlice; ; length = min(2*length, trap.LongSlice) {
		if timeout != 0 {
			rest := timeout - time.Since(began)
			if rest <= 0 {
				return unix.EINPROGRESS // socket(7), SO_SNDTIMEO
			}
			length = min(length, max(rest, time.Millisecond))
		}
		slice := unix.NsecToTimeval(int64(length)) // with a time, a signal to this thread ends the call
		linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&slice), unsafe.Sizeof(slice))
		if errno = x.Path.As.Become(); errno != 0 {
			return errno
		}
		errno = unix.EAGAIN
		ended := w.Aside.Stop.During(func() {
			_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&x.Path.Raw)), uintptr(x.Path.Length))
		})
		x.Path.As.Revert()
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return errno
		}
		if ended != 0 {
			return ended
		}
	}
}
