package calls

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
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
func (w *Worker) guard(c *session.Call, e *event.Pending) session.Outcome {
	swapped := w.s.Swapped.Load()
	switch {
	case len(w.s.Rules.Load().Cookies) == 0, c.Name != "connect" && !c.FastOpen.On: // it was a send of datagrams after all
		return session.CarryOn
	case !swapped && !w.SharesTable(c) && !w.s.Swapped.Load():
		return session.CarryOn
	case c.Name == "connect" && w.disconnects(c):
		return w.disconnectCall(c)
	}
	if c.View != nil || w.See(c) {
		switch inet := linux.IsInet(c.View.Family); {
		case c.View.OwnTable && !c.Indirect && !w.s.InEgress(c.View.NetNS):
			return session.CarryOn
		case c.View.File == 0:
			return session.Answer(unix.EBADF) // or the thread is gone
		case !inet && !c.FastOpen.On && w.leavesOthers(c): // of a send a copy tells: a look may be at what was just closed
			return session.CarryOn
		}
	}
	e.Recorded, c.Guarded = true, true // as far as it is to be
	if e.Decision.Route == nil {       // nothing that there are rules for
		e.Decision = policy.DirectDefault
	}
	if fd, sock := w.copyInEgress(c, true); sock != nil {
		return w.connectInEgress(c, fd, sock)
	}
	return w.connectDirect(c, e)
}

// connectInEgress makes a call that is about an unconnected socket of an egress, of which fd is a
// copy. There is nothing there that the call could connect it to.
func (w *Worker) connectInEgress(c *session.Call, fd int, sock *sockstate.Socket) session.Outcome {
	if c.FastOpen.On && linux.IsDatagramType(sock.Kind) { // a flag that means nothing to it
		w.CloseNow(fd)
		return w.resend(c)
	}
	if c.AddrLen > linux.SizeofSockaddrStorage || c.FastOpen.On && c.AddrLen < linux.SizeofSockaddrIn {
		return session.Answer(unix.EINVAL)
	}
	sa := c.Sockaddr
	if len(sa) == 0 {
		return session.Answer(unix.EFAULT)
	}
	if family, _, v4 := linux.Destination(sa); family == sock.Domain && (v4 || family == unix.AF_INET6 && len(sa) >= linux.SizeofSockaddrIn6Min) {
		// The socket is one that has an error to tell, or was another one a moment ago.
		errno, idle := linux.ProbeConnect(fd, family)
		w.CloseNow(fd)
		if idle {
			return session.Raced
		}
		return session.Answer(errno)
	}
	if c.FastOpen.On {
		return w.ConnectEarly(c, fd, sa)
	}
	errno := linux.Connect(fd, sa)
	w.CloseNow(fd)
	return session.Answer(errno)
}

// connectDirect makes a connect(2) on a copy of the target's descriptor, as the kernel would have
// made it.
func (w *Worker) connectDirect(c *session.Call, e *event.Pending) session.Outcome {
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	switch {
	case errno == unix.EBADF:
		return session.Answer(unix.EBADF)
	case errno != 0:
		return session.CarryOn // nobody will read the answer; or the program's descriptors cannot be fetched
	}
	w.Done = append(w.Done, fd)
	domain := linux.DomainOf(fd)
	if !linux.IsInet(domain) && w.leavesOthers(c) {
		w.CloseNow(fd)
		return session.CarryOn
	}
	sock, datagrams := w.SocketMemory(), linux.IsDatagramType(linux.TypeOf(fd))
	switch {
	case datagrams && c.FastOpen.On: // a flag that means nothing to it
		w.CloseNow(fd)
		return w.resend(c)
	case c.Sockaddr != nil:
	case c.AddrLen >= leastAddress(c) && c.AddrLen <= linux.SizeofSockaddrStorage:
		return session.Answer(unix.EFAULT) // it could not be read, and could be the next time
	case c.AddrLen > linux.SizeofSockaddrStorage || !c.FastOpen.On:
		return session.Answer(unix.EINVAL)
	}
	if !linux.IsInet(domain) {
		return w.ConnectOther(c, fd, domain)
	}
	idle := !datagrams && sockstate.ExamineStream(fd, sock)
	if netns := linux.NetnsCookie(fd); (datagrams || idle) && w.s.InEgress(netns) && !w.LivesIn(c.TID, netns) {
		w.CloseNow(fd)
		return session.Raced // it was not so a moment ago
	}
	switch {
	case datagrams: // it does not wait
		errno = linux.Connect(fd, c.Sockaddr)
		w.CloseNow(fd)
		return session.Answer(errno)
	case c.FastOpen.On && c.Sockaddr != nil && binary.NativeEndian.Uint16(c.Sockaddr) == unix.AF_UNSPEC:
		return session.Answer(unix.EOPNOTSUPP)
	case idle && c.Sockaddr == nil:
		return session.Answer(unix.EINVAL)
	case idle:
		return w.ConnectInPlace(c, e, fd, sock, c.Sockaddr)
	case !sock.ReadStream(fd): // SCTP, say
		if c.FastOpen.On {
			return session.Answer(unix.EOPNOTSUPP)
		}
		return w.ConnectAside(c, fd)
	}
	if out := w.WouldConnect(c, fd, sock.Domain); !out.IsUndecided() {
		return out
	}
	return session.Raced
}

// leavesOthers reports whether a call is left to the kernel that is about a file that is no IPv4 or
// IPv6 socket: a send; as long as no socket is in an egress; and where somebody has restricted
// himself, as the rules are about who makes it.
func (w *Worker) leavesOthers(c *session.Call) bool {
	return c.FastOpen.On || !w.s.Swapped.Load() || w.s.Restricted.Any.Load()
}

// leastAddress is the least length of an address that means something to the call.
func leastAddress(c *session.Call) uint32 {
	if c.FastOpen.On {
		return linux.SizeofSockaddrIn
	}
	return linux.SizeofFamily
}
