package calls

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/swap"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// A stream that connect(2) disconnects (AF_UNSPEC) goes back to the origin, and so does a socket of
// an egress that is bound or listens: in the egress, the program could connect it to whatever is
// there as soon as another thread puts it under the number of a call that is left to the kernel, or
// could be a server there.

// disconnects reports whether a connect(2) does, of whose address it reads what nobody has read
// yet.
func (w *Worker) disconnects(c *session.Call) bool {
	if c.AddrLen < linux.SizeofFamily || c.AddrLen > linux.SizeofSockaddrStorage {
		return false
	}
	if c.Sockaddr == nil && c.AddrLen < linux.SizeofSockaddrIn {
		if sa := w.Sockaddr[:c.AddrLen]; target.ReadMemory(c.TID, c.Addr, sa) == 0 {
			c.Sockaddr = sa
		}
	}
	return c.Sockaddr != nil && binary.NativeEndian.Uint16(c.Sockaddr) == unix.AF_UNSPEC
}

// disconnectCall makes a connect(2) with AF_UNSPEC. A stream of an egress is replaced by one of the
// origin; any other socket is disconnected where it is, which neither waits nor takes the program's
// rights.
func (w *Worker) disconnectCall(c *session.Call) session.Outcome {
	for range session.MaxRaces {
		e := w.NewEvent(c, policy.TCP)
		fd, out := w.Fetch(c, &e)
		if !out.IsUndecided() {
			return out
		}
		sock := w.SocketMemory()
		stream := linux.TypeOf(fd) == unix.SOCK_STREAM && sock.ReadStream(fd) && sock.ReadPlace(fd)
		if !stream || !w.s.InEgress(sock.Netns) || w.LivesIn(c.TID, sock.Netns) {
			errno := linux.Connect(fd, c.Sockaddr)
			w.CloseNow(fd)
			return session.Answer(errno)
		}
		if w.See(c) && !w.Saw(c.View, fd) {
			w.CloseNow(fd)
			continue
		}
		if c.View != nil {
			c.View.Copies = 1
		}
		if out = w.disconnectStream(c, fd, sock); !out.IsRaced() {
			return out
		}
	}
	return session.Answer(unix.EBADF)
}

// disconnectStream puts a socket of the origin into the place of a stream of an egress, of which
// old is a copy, and resets the connection of that.
func (w *Worker) disconnectStream(c *session.Call, old int, sock *sockstate.Socket) session.Outcome {
	e := w.NewEvent(c, policy.TCP)
	e.Decision = policy.DirectLocal
	sock.Resets = true
	out := w.BringBackStream(&swap.Swap{Call: c, Event: &e, Old: old, Socket: sock})
	if out.CarriesOn() {
		out = session.Answer(0)
	}
	return out
}
