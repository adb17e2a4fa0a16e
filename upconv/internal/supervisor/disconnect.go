package supervisor

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// A stream that connect(2) disconnects (AF_UNSPEC) goes back to the origin, and so does a socket of
// an egress that is bound or listens: in the egress, the program could connect it to whatever is
// there as soon as another thread puts it under the number of a call that is left to the kernel, or
// could be a server there.

// disconnects reports whether a connect(2) does, of whose address it reads what nobody has read
// yet.
func (w *callsWorker) disconnects(c *call) bool {
	if c.addrLen < linux.SizeofFamily || c.addrLen > linux.SizeofSockaddrStorage {
		return false
	}
	if c.sa == nil && c.addrLen < linux.SizeofSockaddrIn {
		if sa := w.sockaddr[:c.addrLen]; target.ReadMemory(c.tid, c.addr, sa) == 0 {
			c.sa = sa
		}
	}
	return c.sa != nil && binary.NativeEndian.Uint16(c.sa) == unix.AF_UNSPEC
}

// disconnectCall makes a connect(2) with AF_UNSPEC. A stream of an egress is replaced by one of the
// origin; any other socket is disconnected where it is, which neither waits nor takes the program's
// rights.
func (w *callsWorker) disconnectCall(c *call) outcome {
	for range maxRaces {
		e := w.newEvent(c, policy.TCP)
		fd, out := w.fetch(c, &e)
		if !out.isUndecided() {
			return out
		}
		sock := &w.socketInfo
		stream := linux.TypeOf(fd) == unix.SOCK_STREAM && sock.ReadStream(fd) && sock.ReadPlace(fd)
		if !stream || !w.s.inEgress(sock.Netns) || w.livesIn(c.tid, sock.Netns) {
			errno := linux.Connect(fd, c.sa)
			w.closeNow(fd)
			return answer(errno)
		}
		if w.see(c) && !w.saw(c.view, fd) {
			w.closeNow(fd)
			continue
		}
		if c.view != nil {
			c.view.copies = 1
		}
		if out = w.disconnectStream(c, fd); !out.isRaced() {
			return out
		}
	}
	return answer(unix.EBADF)
}

// disconnectStream puts a socket of the origin into the place of a stream of an egress, of which
// old is a copy and w.socketInfo tells, and resets the connection of that.
func (w *callsWorker) disconnectStream(c *call, old int) outcome {
	e := w.newEvent(c, policy.TCP)
	e.Decision = policy.DirectLocal
	c.back, w.socketInfo.Resets = true, true
	out := w.swapStream(&swap{c: c, e: &e, old: old, sock: &w.socketInfo}, nil)
	if out.carriesOn() {
		out = answer(0)
	}
	return out
}
