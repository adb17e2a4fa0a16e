package stream

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// ConnectInPlace connects a socket where it is, of which fd is a copy, the last of w.Done: one that
// is in the egress already, from an earlier connect(2) that has failed or whose result is still to
// be fetched, or one that is to stay in the origin.
func (w *Worker) ConnectInPlace(c *session.Call, e *event.Pending, fd int, sock *sockstate.Socket, sa []byte) session.Outcome {
	if out := w.MayConnect(c, e, sock); !out.IsUndecided() {
		return out
	}
	if sock.Flags&unix.O_NONBLOCK == 0 {
		linux.SetFlags(fd, sock.Flags|unix.O_NONBLOCK) // until begin gives its flags back
	}
	w.Retag(c, fd)
	out := w.begin(c, e, fd, sock, sa)
	if !out.IsLater() {
		w.CloseNow(fd)
	}
	return out
}

// begin connects a non-blocking socket, which the target has as its own, gives it the status flags
// of the target's socket, and says what the target is to see.
func (w *Worker) begin(c *session.Call, e *event.Pending, fd int, sock *sockstate.Socket, sa []byte) session.Outcome {
	e.Local, c.Made = fd, true
	waits := sock.Flags&unix.O_NONBLOCK == 0
	if c.FastOpen.On && !(waits && c.FastOpen.Flags&unix.MSG_DONTWAIT == 0) {
		out := w.ConnectEarly(c, fd, sa)
		if sock.Bound {
			w.noteConnection(e, fd, sock, sa)
		}
		linux.SetFlags(fd, sock.Flags)
		w.s.Events.Record(e, underWay(out.Errno))
		return out
	}
	errno := linux.Connect(fd, sa)
	if sock.Bound {
		w.noteConnection(e, fd, sock, sa)
	}
	if !waits {
		linux.SetFlags(fd, sock.Flags)
		w.s.Events.Record(e, underWay(errno))
		return session.Answer(errno)
	}
	if c.FastOpen.On && w.Guards(c) {
		if errno == unix.EINPROGRESS {
			errno = linux.Connect(fd, sa) // over a fast network the handshake may be over
		}
		linux.SetFlags(fd, sock.Flags)
		return w.beginEarly(c, e, fd, errno)
	}
	if c.FastOpen.On && (errno == 0 || errno == unix.EINPROGRESS) {
		linux.SetFlags(fd, sock.Flags)
		w.s.Events.Record(e, 0)
		if w.waitsForRestricted(e) {
			return session.Aside // which will find it connecting
		}
		// The target's own call waits for the connection and sends, without data in the SYN; of the
		// address it passes the kernel takes no notice any more.
		return session.CarryOn
	}
	if errno == unix.EINPROGRESS {
		// Over a fast network the handshake may be over. Then a second connect fetches its result
		// and leaves the socket as a blocking connect would have.
		if errno = linux.Connect(fd, sa); e.Decision.Route.Crosses() {
			errno = siit.InetErrno(errno)
		}
	}
	if errno == unix.EALREADY {
		timeout := linux.TimeoutOf(fd, unix.SO_SNDTIMEO)
		if timeout != 0 || c.Guarded || w.waitsForRestricted(e) || w.Guards(c) {
			// The kernel would wait, but at the end say EALREADY for EINPROGRESS, and begin by
			// looking for the socket anew. So upconv does.
			w.Done = w.Done[:len(w.Done)-1] // the wait owns it
			wait := w.s.newWait(c, e, fd, sock.Flags, sa)
			wait.expireAfter(timeout)
			return session.Outcome{Wait: wait}
		}
	}
	linux.SetFlags(fd, sock.Flags)
	w.s.Events.Record(e, underWay(errno))
	if errno == unix.EALREADY {
		// The target's own connect(2) now runs, on a socket in SYN_SENT: the kernel ignores the
		// address it passes and waits as for any other, with signals, restarts and errors its own.
		return session.CarryOn
	}
	return session.Answer(errno)
}

// underWay turns the errnos that say "not finished, and nothing is wrong" into success, for events.
func underWay(errno unix.Errno) unix.Errno {
	if errno == unix.EINPROGRESS || errno == unix.EALREADY {
		return 0
	}
	return errno
}
