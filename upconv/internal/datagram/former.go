package datagram

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// together reports whether the datagram sockets of two places are in one namespace. Then neither is
// kept for the other: as far as they can both have the port, what is handed on could come to the
// one that it is from.
func (w *Worker) together(a, b companion.Place) bool {
	for _, at := range []*companion.Place{&a, &b} {
		if *at == companion.OnInet6 {
			*at = companion.Place(w.s.Origin.Cookie)
		}
	}
	return a == b
}

// former is the socket that another one has just taken the place of.
type former struct {
	companion.Companion
	// heard: it is one for datagrams and has a port. Some may have come for it, and answers may be on
	// their way.
	heard bool
	aside bool // it is kept for the one in its place
}

// outbox sees that there is something to hand on through in the namespace of the socket in use,
// which is the egress or, if that is nil, the origin.
func (w *Worker) outbox(c *session.Call, current int, egress *netns.Egress) (ok bool) {
	ok, errno := w.s.Companions.OpenOutlet(linux.NetnsCookie(current), func(domain int) (int, unix.Errno) {
		if egress == nil {
			return w.InOrigin(c.TID, domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
		}
		return w.Socket(egress, domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
	})
	if errno != 0 {
		w.s.Log.Debug("what comes for a datagram socket that has been put aside is not handed on", "error", errno)
	}
	return ok
}

// setAside takes ownership of a socket, in whose place current has been put, to keep it.
func (w *Worker) setAside(c *session.Call, was *former, current int, egress *netns.Egress) {
	handsOn := was.heard && w.outbox(c, current, egress)
	w.s.Companions.Keep(was.Companion, current, handsOn)
}

// takeOut takes out of a socket, in whose place current has been put, what has come for it and can
// be handed over.
func (w *Worker) takeOut(c *session.Call, was *former, current int, egress *netns.Egress) (came companion.Unread) {
	fds := []unix.PollFd{{Fd: int32(was.FD), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); n <= 0 || err != nil || !w.outbox(c, current, egress) {
		return came
	}
	return w.s.Companions.TakeOut(&was.Companion, current)
}

// former returns what there is to know of the socket old, or -1, of the thread tid, whose place is
// taken by one that is at to.
func (w *Worker) former(tid, old int, sock *sockstate.Socket, to companion.Place) (was former) {
	was.FD = old
	if old < 0 || sock.Kind != unix.SOCK_DGRAM {
		return was
	}
	was.Place = companion.Place(linux.NetnsCookie(old))
	was.heard = sock.Proto == unix.IPPROTO_UDP && sock.Bound
	canReturn := true
	if family := linux.DomainOf(old); w.s.Needs.Crosses() && (family == unix.AF_UNIX || family == unix.AF_INET6) {
		var pass passport.Passport
		if pass.ReadFrom(old, family) {
			s := w.s
			was.Source = func(from unix.Sockaddr) netip.AddrPort { return s.sender(from, &pass) }
			if was.Place = companion.OnUnix; family == unix.AF_INET6 {
				was.Place = companion.OnInet6
			} else {
				was.Reader = &companion.UnixReader{Turns: &s.Turns, PID: s.Targets.Process(tid)}
			}
			canReturn = !pass.Connected // see passport.Passport.Deaf
		}
	}
	was.heard = was.heard && was.Place != 0
	last := w.s.Origin.Closed && was.Place == companion.Place(w.s.Origin.Cookie) // there is no other to be had
	was.aside = (was.heard || last) && canReturn && !w.together(was.Place, to)
	return was
}

// sender returns who a datagram is from that has come for a socket with a passport.
func (s *Session) sender(from unix.Sockaddr, pass *passport.Passport) netip.AddrPort {
	six, ok := from.(*unix.SockaddrInet6)
	if !ok {
		return pass.Peer // a Unix socket's
	}
	real := netip.AddrPortFrom(netip.AddrFrom16(six.Addr), uint16(six.Port))
	if _, ok := s.OriginalAddr(real.Addr(), pass); !ok && pass.Family == unix.AF_INET6 {
		return real
	}
	return s.Original(real, pass)
}
