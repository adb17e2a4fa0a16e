package supervisor

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/policy"
)

// guard decides about a connect(2), or a send with MSG_FASTOPEN, that upconv has nothing to say
// about: it is direct, or of another family, or the socket is connected. The kernel would read the
// address anew and look the descriptor up anew, and by then another thread may have put a socket of
// an egress there that is not connected. So upconv makes the call itself, on its own copies.
//
// guard leaves to the kernel what a thread calls that shares its descriptors with nobody, and some
// of what is about sockets of other families than IPv4 and IPv6, see leavesOthers.
func (w *callsWorker) guard(c *call, e *event.Pending) outcome {
	swapped := w.s.swapped.Load()
	switch {
	case len(w.s.rules.Load().cookies) == 0, c.name != "connect" && !c.fastOpen.on: // it was a send of datagrams after all
		return carryOn
	case !swapped && !w.sharesTable(c) && !w.s.swapped.Load():
		return carryOn
	case c.name == "connect" && w.disconnects(c):
		return w.disconnectCall(c)
	}
	if c.view != nil || w.see(c) {
		switch inet := linux.IsInet(c.view.Family); {
		case c.view.OwnTable && !c.indirect && !w.s.inEgress(c.view.NetNS):
			return carryOn
		case c.view.File == 0:
			return answer(unix.EBADF) // or the thread is gone
		case !inet && !c.fastOpen.on && w.leavesOthers(c): // of a send a copy tells: a look may be at what was just closed
			return carryOn
		}
	}
	e.Recorded, c.guarded = true, true // as far as it is to be
	if e.Decision.Route == nil {       // nothing that there are rules for
		e.Decision = policy.DirectDefault
	}
	for range maxRaces {
		if fd, ok := w.copyInEgress(c, true); ok {
			if out := w.connectInEgress(c, fd); !out.isRaced() {
				return out
			}
			continue
		}
		if out := w.connectDirect(c, e); !out.isRaced() {
			return out
		}
	}
	return answer(unix.EBADF)
}

// connectInEgress makes a call that is about an unconnected socket of an egress, of which fd is a
// copy and w.socketInfo tells. There is nothing there that the call could connect it to.
func (w *callsWorker) connectInEgress(c *call, fd int) outcome {
	if c.fastOpen.on && linux.IsDatagramType(w.socketInfo.Kind) { // a flag that means nothing to it
		w.closeNow(fd)
		return w.resend(c)
	}
	if c.addrLen > linux.SizeofSockaddrStorage || c.fastOpen.on && c.addrLen < linux.SizeofSockaddrIn {
		return answer(unix.EINVAL)
	}
	sa := c.sa
	if len(sa) == 0 {
		return answer(unix.EFAULT)
	}
	if family, _, v4 := linux.Destination(sa); family == w.socketInfo.Domain && (v4 || family == unix.AF_INET6 && len(sa) >= linux.SizeofSockaddrIn6Min) {
		// The socket is one that has an error to tell.
		errno, idle := linux.ProbeConnect(fd, family)
		if idle {
			errno = unix.ECONNABORTED
		}
		return answer(errno)
	}
	if c.fastOpen.on {
		return w.open(c, fd, sa)
	}
	errno := linux.Connect(fd, sa)
	w.closeNow(fd)
	return answer(errno)
}

// connectDirect makes a connect(2) on a copy of the target's descriptor, as the kernel would have
// made it.
func (w *callsWorker) connectDirect(c *call, e *event.Pending) outcome {
	fd, errno := w.s.targets.Getfd(c.tid, c.fd)
	switch {
	case errno == unix.EBADF:
		return answer(unix.EBADF)
	case errno != 0:
		return carryOn // nobody will read the answer; or the program's descriptors cannot be fetched
	}
	w.done = append(w.done, fd)
	domain := linux.DomainOf(fd)
	if !linux.IsInet(domain) && w.leavesOthers(c) {
		w.closeNow(fd)
		return carryOn
	}
	sock, datagrams := &w.socketInfo, linux.IsDatagramType(linux.TypeOf(fd))
	switch {
	case datagrams && c.fastOpen.on: // a flag that means nothing to it
		w.closeNow(fd)
		return w.resend(c)
	case c.sa != nil:
	case c.addrLen >= leastAddress(c) && c.addrLen <= linux.SizeofSockaddrStorage:
		return answer(unix.EFAULT) // it could not be read, and could be the next time
	case c.addrLen > linux.SizeofSockaddrStorage || !c.fastOpen.on:
		return answer(unix.EINVAL)
	}
	if !linux.IsInet(domain) {
		return w.connectOther(c, fd, domain)
	}
	idle := !datagrams && sockstate.ExamineStream(fd, sock)
	if netns := linux.NetnsCookie(fd); (datagrams || idle) && w.s.inEgress(netns) && !w.livesIn(c.tid, netns) {
		w.closeNow(fd)
		return raced // it was not so a moment ago
	}
	switch {
	case datagrams: // it does not wait
		errno = linux.Connect(fd, c.sa)
		w.closeNow(fd)
		return answer(errno)
	case c.fastOpen.on && c.sa != nil && binary.NativeEndian.Uint16(c.sa) == unix.AF_UNSPEC:
		return answer(unix.EOPNOTSUPP)
	case idle && c.sa == nil:
		return answer(unix.EINVAL)
	case idle:
		return w.again(c, e, fd, sock, c.sa)
	case !sock.ReadStream(fd): // SCTP, say
		if c.fastOpen.on {
			return answer(unix.EOPNOTSUPP)
		}
		return w.connectAside(c, fd)
	}
	if out := w.wouldConnect(c, fd, sock.Domain); !out.isUndecided() {
		return out
	}
	return raced
}

// leavesOthers reports whether a call is left to the kernel that is about a file that is no IPv4 or
// IPv6 socket: a send; as long as no socket is in an egress; and where somebody has restricted
// himself, as the rules are about who makes it.
func (w *callsWorker) leavesOthers(c *call) bool {
	return c.fastOpen.on || !w.s.swapped.Load() || w.s.restricted.any.Load()
}

// leastAddress is the least length of an address that means something to the call.
func leastAddress(c *call) uint32 {
	if c.fastOpen.on {
		return linux.SizeofSockaddrIn
	}
	return linux.SizeofFamily
}
