package guard

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// A send on a stream, a Unix socket or any other file that is no datagram socket of IPv4 or IPv6 is
// the program's own: data, descriptors and credentials go with it. But once a datagram socket is in
// an egress, another thread could put that under the number, and an address into memory. So a
// thread that shares its descriptors has such a send made by upconv then: on a copy of the
// descriptor, and with copies of all that is sent.

// guardedSend is a send that upconv makes in the place of the kernel, and how far it has come.
type guardedSend struct {
	flags  uint32
	count  int    // messages of sendmmsg(2); else 1
	stride int    // bytes between their headers; 0: the call is not sendmmsg(2)
	done   int    // messages that are sent
	sent   int    // bytes of the next one that are sent
	cookie uint64 // of the socket that they go to; 0: none yet
}

// guardedSocket is what a send that upconv makes goes to.
type guardedSocket struct {
	fd, domain, kind, proto int
	patient                 bool // the send waits for room
}

const (
	guardedPiece = 256 << 10 // how much of a stream is read and sent at a time
	maxOnWorker  = 1 << 20   // how much a worker sends for one call before a thread of its own goes on
)

// SendInPlace makes a send that is about no datagram socket of IPv4 or IPv6. It is raced if it is
// by now, or if the send connects.
func (w *Worker) SendInPlace(c *session.Call) session.Outcome {
	e := w.NewEvent(c, policy.TCP)
	fd, out := w.Fetch(c, &e)
	if !out.IsUndecided() {
		return out
	}
	defer w.CloseNow(fd)
	g := sendUnderWay(c)
	if g == nil {
		g = newGuardedSend(c)
		c.Progress = g
	}
	to := &guardedSocket{fd: fd, domain: linux.DomainOf(fd), kind: linux.TypeOf(fd)}
	inet := linux.IsInet(to.domain)
	switch cookie := linux.CookieOf(fd); {
	case g.cookie != 0 && g.cookie != cookie && g.done == 0 && g.sent == 0:
		return session.Raced
	case g.cookie != 0 && g.cookie != cookie: // another thread has put another file there
		return g.partial()
	case to.domain == 0:
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&unix.Msghdr{})), unix.MSG_NOSIGNAL)
		return session.Answer(errno) // ENOTSOCK; or EBADF, for O_PATH
	case g.count == 0:
		return g.partial()
	case inet && (linux.IsDatagramType(to.kind) || g.flags&unix.MSG_FASTOPEN != 0):
		return session.Raced
	case to.domain == unix.AF_NETLINK:
		return w.sendNetlink(c)
	default:
		g.cookie = cookie
	}
	if inet {
		w.Retag(c, fd)
		to.proto = linux.ProtocolOf(fd)
	}
	to.patient = g.flags&unix.MSG_DONTWAIT == 0 && linux.Blocks(fd)
	return w.sendAllInPlace(c, to)
}

// sendUnderWay returns how far a send has come that upconv makes; nil: it has not begun.
func sendUnderWay(c *session.Call) *guardedSend {
	g, _ := c.Progress.(*guardedSend)
	return g
}

func newGuardedSend(c *session.Call) *guardedSend {
	switch c.Name {
	case "sendto":
		return &guardedSend{flags: uint32(c.Args[3]), count: 1}
	case "sendmsg":
		return &guardedSend{flags: uint32(c.Args[2]), count: 1}
	}
	return &guardedSend{flags: uint32(c.Args[3]), count: int(min(uint32(c.Args[2]), linux.MaxIovecs)), stride: c.MmsghdrSize()}
}

// partial answers a send that ends before all is sent.
func (g *guardedSend) partial() session.Outcome {
	if g.stride > 0 {
		return session.AnswerValue(int64(g.done))
	}
	return session.AnswerValue(int64(g.sent))
}

// sendAllInPlace sends all messages of a call, or goes on with them, until one is not sent whole.
func (w *Worker) sendAllInPlace(c *session.Call, to *guardedSocket) session.Outcome {
	g := sendUnderWay(c)
	for g.done < g.count {
		m, errno := w.readGuarded(c)
		if errno == 0 && w.leavesNamed(to, m) {
			if g.done > 0 {
				return g.partial()
			}
			return session.CarryOn
		}
		var later bool
		if errno == 0 {
			later, errno = w.sendGuarded(c, to, m)
		}
		switch {
		case later:
			return session.Aside
		case errno == unix.EPIPE && to.raises() && g.flags&unix.MSG_NOSIGNAL == 0:
			w.raise(c, unix.SIGPIPE)
		}
		switch {
		case errno != 0 && g.done == 0:
			return session.Answer(errno)
		case errno != 0 || g.stride == 0:
			return g.partial()
		}
		var length [4]byte
		binary.NativeEndian.PutUint32(length[:], uint32(g.sent))
		if errno := target.WriteMemory(c.TID, m.result, length[:]); errno != 0 && g.done == 0 {
			return session.Answer(errno)
		} else if errno != 0 {
			return g.partial()
		}
		whole := g.sent == m.length
		g.done, g.sent = g.done+1, 0
		if w.SendDeadline = (time.Time{}); !whole {
			break
		}
	}
	return g.partial()
}

// leavesNamed reports whether a message is left to the kernel because somebody has restricted
// himself, and the rules may be about whom it goes to: LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET.
func (w *Worker) leavesNamed(to *guardedSocket, m *guardedMessage) bool {
	return w.s.Restricted.Any.Load() && to.domain == unix.AF_UNIX && to.kind == unix.SOCK_DGRAM && len(m.name) > linux.SizeofFamily && m.name[linux.SizeofFamily] == 0
}

// raises reports whether a socket raises SIGPIPE: streams do, sk_stream_error in net/core/stream.c
// and unix_stream_sendmsg.
func (to *guardedSocket) raises() bool { return to.kind == unix.SOCK_STREAM }

// raise gives a signal to the target's thread, which takes it as soon as it has its answer.
func (w *Worker) raise(c *session.Call, signal unix.Signal) {
	if pid := w.s.Targets.Process(c.TID); pid != 0 && w.s.Listener.Valid(c.ID) == nil {
		unix.Tgkill(pid, c.TID, signal)
	}
}

// sendGuarded sends what is left of a message. later says that a thread of its own is to go on. On
// error nothing of it is sent.
func (w *Worker) sendGuarded(c *session.Call, to *guardedSocket, m *guardedMessage) (later bool, errno unix.Errno) {
	g := sendUnderWay(c)
	e := envelope{worker: w, call: c, to: to}
	defer e.close()
	if errno = e.seal(m); errno != 0 {
		if g.sent > 0 {
			errno = 0
		}
		return false, errno
	}
	if to.kind != unix.SOCK_STREAM {
		return w.sendWhole(c, &e, m)
	}
	begin := g.sent
	for {
		left := m.length - g.sent
		piece, errno := w.readPiece(c, m, min(left, guardedPiece))
		if len(piece) == 0 && errno != 0 {
			return false, g.unless(e.fault())
		}
		n, errno := e.send(piece, len(piece) == left)
		if g.sent += n; n > 0 {
			e.opened()
			w.Futile = 0
		}
		switch waits := errno == unix.EAGAIN || errno == unix.EINPROGRESS; {
		case errno == 0 && (n == left || n == len(piece) && n < min(left, guardedPiece)): // all, or all that could be read
			return false, 0
		case errno == 0 && !w.MayWait() && g.sent-begin >= maxOnWorker:
			return true, 0
		case errno == 0:
			continue
		case !waits || !to.patient:
			return false, g.unless(errno)
		case !w.MayWait():
			return true, 0
		}
		if errno = w.WaitToSend(to.fd, nil); errno != 0 {
			return false, g.unless(errno)
		}
		if g.sent > 0 && to.isClosed() { // the error is for the next call
			return false, 0
		}
	}
}

// unless returns the error of a message if nothing of that is sent.
func (g *guardedSend) unless(errno unix.Errno) unix.Errno {
	if g.sent > 0 {
		return 0
	}
	return errno
}

// isClosed reports whether a TCP socket, or an MPTCP one, has no connection any more.
func (to *guardedSocket) isClosed() bool {
	var state uint8
	return to.proto == unix.IPPROTO_TCP &&
		linux.Getsockopt(to.fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&state), 1) == 0 && state == sockstate.TCPClose
}

// sendWhole is sendGuarded for a socket that sends a message at once or not at all.
func (w *Worker) sendWhole(c *session.Call, e *envelope, m *guardedMessage) (later bool, errno unix.Errno) {
	var room int32
	linux.Getsockopt(e.to.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, unsafe.Pointer(&room), 4)
	switch {
	case m.length > int(room) || m.length > maxWhole:
		return false, unix.EMSGSIZE // as unix_dgram_sendmsg and netlink_sendmsg say
	case m.length > maxOnWorker && !w.MayWait():
		return true, 0
	}
	data, errno := w.readPiece(c, m, m.length)
	if errno != 0 {
		return false, e.fault()
	}
	for {
		n, errno := e.send(data, true)
		sendUnderWay(c).sent = n
		switch {
		case errno != unix.EAGAIN || !e.to.patient:
			return false, errno
		case !w.MayWait():
			return true, 0
		}
		if errno = w.WaitToSend(e.to.fd, e.path()); errno != 0 {
			return false, errno
		}
	}
}

const maxWhole = 64 << 20 // far more than net.core.wmem_max lets a socket have
