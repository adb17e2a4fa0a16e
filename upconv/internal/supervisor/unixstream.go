package supervisor

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/proxyproto"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// connectUnix connects the socket fd, which is not installed yet: where that fails, the target
// keeps the one it has. If it is connected the outcome is undecided.
func (w *streamWorker) connectUnix(c *call, e *event.Pending, x *crossing, fd int, sock *sockstate.Socket) outcome {
	errno := x.path.open(w.s.targets, x.route, c.tid)
	if errno == 0 {
		errno = x.path.connect(fd)
		if errno == unix.EAGAIN && w.patient(c, sock.Flags) {
			if !w.alone {
				x.path.close()
				return aside
			}
			errno = w.waitForRoom(fd, x, linux.TimeoutOf(fd, unix.SO_SNDTIMEO))
		}
	}
	x.path.close()
	if errno == unix.EAGAIN {
		// A TCP server with a full backlog that does not just let clients wait
		// (tcp_abort_on_overflow) refuses. EINPROGRESS would promise what nobody works on.
		e.Add("the backlog of " + x.route.Target + " is full")
		errno = unix.ECONNREFUSED
	}
	if errno = x.asInet(e, errno); errno != 0 {
		w.s.events.Record(e, underWay(errno))
		return answer(errno)
	}
	if x.route.ProxyV2 {
		header := proxyproto.Header(x.pass.Local, x.pass.LocalPort, x.pass.Peer)
		if _, err := unix.Write(fd, header[:]); err != nil {
			e.Add("PROXY header: " + err.Error()) // the server has hung up, as the program will see
		}
	}
	return undecided
}

// connected gives a Unix socket, which is connected and the target's, its status flags, and says
// what the target is to see.
func (w *streamWorker) connected(c *call, e *event.Pending, fd int, sock *sockstate.Socket) outcome {
	e.Local = fd
	out := answer(0)
	if c.fastOpen.on {
		out = w.open(c, fd, nil)
	}
	linux.SetFlags(fd, sock.Flags)
	w.s.events.Record(e, underWay(out.errno))
	return out
}

// waitForRoom connects a Unix socket to a server whose backlog is full. It holds up its thread: the
// wait is the kernel's own.
func (w *streamWorker) waitForRoom(fd int, x *crossing, timeout time.Duration) (errno unix.Errno) {
	var before unix.Timeval
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&before), unsafe.Sizeof(before))
	linux.SetFlags(fd, 0)
	defer func() {
		linux.SetFlags(fd, unix.O_NONBLOCK)
		linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&before), unsafe.Sizeof(before))
	}()
	w.aside.held.Timed.Store(timeout != 0)
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
		if errno = x.path.as.Become(); errno != 0 {
			return errno
		}
		errno = unix.EAGAIN
		ended := w.aside.stop.During(func() {
			_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&x.path.raw)), uintptr(x.path.length))
		})
		x.path.as.Revert()
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return errno
		}
		if ended != 0 {
			return ended
		}
	}
}
