package datagram

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/policy"
)

// Sending runs: messages in a row that go the same way, of which the first decides.

// SendAll sends w.Out.Messages, as far as it gets. For sendmmsg(2) w.Out.Sent is how many have
// been.
func (w *Worker) SendAll(c *session.Call) session.Outcome {
	o := &w.Out
	c.Sends = true
	for {
		m := &o.Messages[0]
		family, dst, ok := SendDestination(m.Name)
		e := &w.sending
		*e = w.NewEvent(c, policy.UDP)
		e.Dst, e.Decision = dst, policy.DirectDefault
		switch {
		case ok:
			e.Decision = w.DecideDatagram(dst)
		case family == unix.AF_INET6 && len(m.Name) >= linux.SizeofSockaddrIn6Min:
			e.Dst = linux.Inet6Destination(m.Name)
		}
		// As many as go the same way.
		o.run = 1
		for o.run < len(o.Messages) && e.Decision.Route.Kind != policy.Reject {
			as, next, is := SendDestination(o.Messages[o.run].Name)
			if is != ok || as != family || len(o.Messages[o.run].Name) == 0 != (len(m.Name) == 0) || is && w.DecideDatagram(next).Route != e.Decision.Route || o.Messages[o.run].TooLong {
				break
			}
			o.run++
		}
		before := o.Sent
		out := w.sendRun(c, e, family, ok)
		if o.Sent == before || !out.Returns() || out.Errno != 0 {
			return out
		}
		if o.Messages = o.Messages[o.Sent-before:]; len(o.Messages) == 0 || o.Sent-before < o.run {
			return out
		}
	}
}

// SendDestination is linux.Destination for a send: there AF_UNSPEC stands for AF_INET, udp_sendmsg
// in net/ipv4/udp.c.
func SendDestination(name []byte) (family int, dst netip.AddrPort, ok bool) {
	if len(name) >= linux.SizeofSockaddrIn && binary.NativeEndian.Uint16(name) == unix.AF_UNSPEC {
		return unix.AF_UNSPEC, netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), binary.BigEndian.Uint16(name[2:])), true
	}
	return linux.Destination(name)
}

// sendRun sends the first w.Out.run messages, which go the same way.
func (w *Worker) sendRun(c *session.Call, e *event.Pending, family int, ok bool) (out session.Outcome) {
	o := &w.Out
	for range session.MaxRaces {
		old := o.fd
		if o.fd = -1; old < 0 {
			o.known = false
			if old, out = w.Fetch(c, e); !out.IsUndecided() {
				return out
			}
			o.netns = w.settledIn(old)
		}
		if !o.known && o.netns == 0 && !linux.IsDatagramType(linux.TypeOf(old)) {
			return session.CarryOn // a stream is not sent elsewhere by a send
		}
		if w.isThere(e.Decision.Route, ok, family, old) {
			return w.stay(c, e, old, nil, o.Messages[0].Name)
		}
		if !ok && !e.Dst.IsValid() {
			return w.sendAsIs(c, e, old)
		}
		if out = w.Place(c, e, family, o.Messages[0].Name, old); !out.IsRaced() {
			return out
		}
		e.Note = ""
	}
	return session.Answer(unix.EBADF)
}

// isThere reports, for most datagrams of a program that sends many, whether the socket fd is where
// its destination is reached: an IPv4 one if ipv4, else one of an address family, or none.
func (w *Worker) isThere(route *policy.Route, ipv4 bool, family, fd int) bool {
	o := &w.Out
	if !ipv4 && family != unix.AF_INET6 { // it goes where the socket is
		return o.netns != 0
	}
	switch route.Kind {
	case policy.Netns:
	case policy.Direct:
		return family != unix.AF_INET6 && w.staysHome(fd)
	default:
		return false
	}
	cookie := w.s.EgressOf(route).Cookie
	if o.netns != 0 {
		return o.netns == cookie
	}
	if cookie == w.s.Origin.Cookie || linux.NetnsCookie(fd) != cookie || !linux.IsInet(linux.DomainOf(fd)) { // a Unix socket may be of any
		return false
	}
	if linux.TypeOf(fd) != unix.SOCK_DGRAM { // what a raw one may send can change
		return !sockstate.SendsHeaders(fd)
	}
	w.noteSettled(fd, cookie)
	return true
}

// staysHome is isThere for what is direct: the socket fd is of the origin.
func (w *Worker) staysHome(fd int) bool {
	origin := w.s.Origin.Cookie
	if netns := w.Out.netns; netns != 0 {
		return netns == origin
	}
	if linux.NetnsCookie(fd) != origin || linux.DomainOf(fd) != unix.AF_INET || linux.TypeOf(fd) != unix.SOCK_DGRAM {
		return false
	}
	w.noteSettled(fd, origin)
	return true
}

// sendAsIs sends what has no address, or none that upconv knows, with the socket old as it is.
func (w *Worker) sendAsIs(c *session.Call, e *event.Pending, old int) session.Outcome {
	sock, o := w.SocketMemory(), &w.Out
	var x *crossing.Crossing
	known := sockstate.ExamineDatagram(old, sock)
	if w.s.Needs.Crosses() && (!known || sock.Domain == unix.AF_INET6) {
		if p, family := w.PassportOf(old); p != nil && linux.KindOf(p.Proto) == unix.SOCK_DGRAM {
			switch n := len(o.Messages[0].Name); {
			case n > 0 && (n < linux.SizeofSockaddrIn || p.Family == unix.AF_INET6):
				return session.Answer(unix.EINVAL)
			case n > 0:
				return session.Answer(unix.EAFNOSUPPORT)
			}
			known, x = true, &w.Crossing
			x.Route, x.Mapped, x.Pass = someInet6, false, *p
			if family == unix.AF_UNIX {
				x.Route, x.Path.Length = someUnix, 0
			}
		}
	}
	switch {
	case x != nil: // whatever namespace a Unix socket is of
	case sock.Headers && w.s.InEgress(sock.Netns): // to its peer, if it has one
	case !known || sock.Netns != w.s.Origin.Cookie && !w.s.IsEgress(sock.Netns): // none of ours
	case sock.Kind == unix.SOCK_DGRAM && (sock.Domain == unix.AF_INET || sock.Netns != w.s.Origin.Cookie):
		w.noteSettled(old, sock.Netns)
	}
	return w.stay(c, e, old, x, nil)
}
