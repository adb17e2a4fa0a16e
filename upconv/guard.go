package upconv

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/policy"
)

// guard decides about a connect(2), or a send with MSG_FASTOPEN, that upconv has nothing to say
// about: it is direct, or of another family, or the socket is connected. The kernel would read the
// address anew and look the descriptor up anew, and by then another thread may have put a socket of
// an egress there that is not connected. So once a socket has been swapped, upconv makes the call
// itself, on its own copies.
//
// guard leaves two kinds to the kernel: calls of a thread that shares its descriptors with nobody,
// and sockets of other families than IPv4 and IPv6, as a Unix socket's server is told who has called
// connect(2).
func (w *worker) guard(c *call, e *event) outcome {
	if !w.s.swapped.Load() || len(w.s.rules.Load().cookies) == 0 {
		return carryOn
	}
	if c.name == "connect" {
		if w.disconnects(c) {
			return w.disconnectCall(c)
		}
	} else if !c.fastOpen.on { // it was a send of datagrams after all
		return carryOn
	}
	if w.sighted || w.see(c) {
		switch inet := w.sight.Family == unix.AF_INET || w.sight.Family == unix.AF_INET6; {
		case w.sight.OwnTable && !w.s.inEgress(w.sight.NetNS):
			return carryOn
		case w.sight.File == 0:
			return answer(unix.EBADF) // or the thread is gone
		case !inet:
			return carryOn
		}
	}
	e.recorded, c.guarded = true, true // as far as it is to be
	if e.decision.Route == nil {       // nothing that there are rules for
		e.decision = policy.DirectDefault
	}
	for range maxRaces {
		if fd, ok := w.copyInEgress(c, true); ok {
			return w.connectInEgress(c, fd)
		}
		if c.fastOpen.on {
			return carryOn
		}
		if out, raced := w.connectDirect(c, e); !raced {
			return out
		}
	}
	return answer(unix.EBADF)
}

// connectInEgress makes a call that is about an unconnected socket of an egress, of which fd is a
// copy and w.socketInfo tells. There is nothing there that the call could connect it to.
func (w *worker) connectInEgress(c *call, fd int) outcome {
	if c.addrLen > sizeofSockaddrStorage || c.fastOpen.on && c.addrLen < sizeofSockaddrIn {
		return answer(unix.EINVAL)
	}
	sa := c.sa
	if len(sa) == 0 {
		return answer(unix.EFAULT)
	}
	if family, _, v4 := destination(sa); family == w.socketInfo.domain && (v4 || family == unix.AF_INET6 && len(sa) >= sizeofSockaddrIn6Min) {
		// The socket is one that has an error to tell.
		errno, idle := probeConnect(fd, family)
		if idle {
			errno = unix.ECONNABORTED
		}
		return answer(errno)
	}
	if c.fastOpen.on {
		return w.open(c, fd, sa)
	}
	errno := connect(fd, sa)
	w.closeNow(fd)
	return answer(errno)
}

// connectDirect makes a connect(2) on a copy of the target's descriptor, as the kernel would have
// made it. raced is as for route.
func (w *worker) connectDirect(c *call, e *event) (out outcome, raced bool) {
	fd, errno := w.s.targets.getfd(c.tid, c.fd)
	switch {
	case errno == unix.EBADF:
		return answer(unix.EBADF), false
	case errno != 0:
		return carryOn, false // nobody will read the answer; or the program's descriptors cannot be fetched
	}
	w.done = append(w.done, fd)
	if domain := domainOf(fd); domain != unix.AF_INET && domain != unix.AF_INET6 {
		w.closeNow(fd)
		return carryOn, false
	}
	switch {
	case c.sa != nil:
	case c.addrLen >= sizeofFamily && c.addrLen <= sizeofSockaddrStorage:
		return answer(unix.EFAULT), false // it could not be read, and could be the next time
	default:
		return carryOn, false // EINVAL, whatever it is
	}
	sock, datagrams := &w.socketInfo, isDatagramType(typeOf(fd))
	idle := !datagrams && examine(fd, sock)
	if netns := netnsCookie(fd); (datagrams || idle) && w.s.inEgress(netns) && !w.livesIn(c.tid, netns) {
		w.closeNow(fd)
		return carryOn, true // it was not so a moment ago
	}
	switch {
	case datagrams: // it does not wait
		errno = connect(fd, c.sa)
		w.closeNow(fd)
		return answer(errno), false
	case idle:
		return w.again(c, e, fd, sock, c.sa), false
	case !sock.readStream(fd):
		return carryOn, false // SCTP, say
	}
	return w.wouldConnect(c, fd, sock.domain)
}
