package datagram

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/swap"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Datagram sockets: UDP, UDP-Lite and ICMP echo. A socket goes where its datagram goes: connect(2)
// and every send with an address put it into the namespace and the family of that destination, if
// it is not there yet.
//
// A socket that is in an egress may not be connected, and then a program could use it to reach
// whatever is there: its loopback, say. So calls that have an address are never left to the kernel
// once any datagram socket has been moved: upconv makes them itself, with its own copy of the
// address and of what is to be sent.

// DecideDatagram is policy.Policy.Decide for a datagram to dst, which may be an IPv6 destination:
// those are left alone.
func (w *Worker) DecideDatagram(dst netip.AddrPort) policy.Decision {
	if !dst.Addr().Is4() {
		return policy.DirectDefault
	}
	rules, addresses, last := w.s.Rules.Load(), w.s.Origin.Addresses.Load(), &w.decided
	if last.dst != dst || last.rules != rules || last.addresses != addresses {
		*last = decided{rules, addresses, dst, rules.Policy.Decide(dst, policy.UDP, w.s.Origin.Assigned)}
	}
	return last.decision
}

// decided is where the latest datagram was sent, and what the policy says of it as long as that and
// the origin's addresses are the same.
type decided struct {
	rules     *session.Ruleset
	addresses *map[netip.Addr]struct{}
	dst       netip.AddrPort
	decision  policy.Decision
}

// PlaceUntouched is Place for a socket that has been seen and that nothing has been done to. The
// outcome is undecided if this is none, or stays where it is.
func (w *Worker) PlaceUntouched(c *session.Call, e *event.Pending, sa []byte) session.Outcome {
	route, sock := e.Decision.Route, w.SocketMemory()
	switch route.Kind {
	case policy.Netns:
		if w.s.MayBeMade(route) {
			return session.Undecided
		}
	case policy.NAT64, policy.Inet6:
	default:
		return session.Undecided
	}
	set, is := w.UntouchedUDP(c)
	if !is || w.s.Origin.Closed { // where it must be kept
		return session.Undecided
	}
	old := -1
	if !c.View.OwnTable {
		// Another thread may begin to wait for it until the very end. A copy tells then.
		var out session.Outcome
		if old, out = w.Fetch(c, e); !out.IsUndecided() {
			return out
		}
	}
	*sock = sockstate.Socket{
		Domain: unix.AF_INET, Kind: unix.SOCK_DGRAM, Proto: unix.IPPROTO_UDP, Netns: c.View.NetNS, Flags: c.View.Flags, Untouched: true, Often: set,
	}
	if route.Kind == policy.Netns {
		return w.move(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock, Egress: w.s.EgressOf(route)}, sa)
	}
	return w.crossDatagram(c, e, old, sock, nil)
}

// Place puts the target's socket, of which old is a copy, to where datagrams to e.Dst go, unless it
// is there, and then makes the call: connects it to sa, or sends w.Out. family is that of the
// address.
func (w *Worker) Place(c *session.Call, e *event.Pending, family int, sa []byte, old int) session.Outcome {
	route, sock := e.Decision.Route, w.SocketMemory()
	e.From = old
	known := sockstate.ExamineDatagram(old, sock)
	var had *passport.Passport
	if w.s.Needs.Crosses() && (!known || sock.Domain == unix.AF_INET6) {
		p, is := w.PassportOf(old)
		switch {
		case p == nil:
		case linux.KindOf(p.Proto) == unix.SOCK_STREAM:
			return session.CarryOn
		case known:
			sock.AsMade(p)
		case is != unix.AF_UNIX || !sock.AsMadeUnix(old, p, w.s.Origin.Cookie):
			return session.CarryOn
		}
		had = p
	}
	origin, crossed := w.s.Origin, had != nil
	switch {
	case !c.Sends && !known && !linux.IsDatagramType(linux.TypeOf(old)):
		return session.Raced // another file by now
	case sock.Headers && w.s.InEgress(sock.Netns) && !w.LivesIn(c.TID, sock.Netns):
		// It was moved before the program wanted that.
		if route.Kind == policy.Reject {
			return w.finished(c, e, route.Errno)
		}
		e.Decision = policy.DirectDefault
		return w.move(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock}, sa)
	case !known && !crossed, sock.Proto == unix.IPPROTO_ICMPV6:
		if route.Kind == policy.Reject && !c.Sends {
			return session.Answer(linux.Connect(old, sa)) // never a call that the kernel would make with another file, see stream/reject.go
		}
		return w.leave(c, e, old, sa) // whatever it is, and whatever the kernel says of it
	case family == unix.AF_UNSPEC && sock.Domain == unix.AF_INET6: // where it stands for no address
		for i := range w.Out.run {
			w.Out.Messages[i].Name = nil
		}
		return w.sendAsIs(c, e, old)
	case family == unix.AF_INET6 && sock.Domain == unix.AF_INET:
		return session.Answer(unix.EAFNOSUPPORT)
	case route.Kind == policy.Reject:
		return w.finished(c, e, route.Errno)
	case sock.Netns != origin.Cookie && !w.s.IsEgress(sock.Netns):
		return w.leave(c, e, old, sa) // the target went to a namespace of its own: not ours there
	}
	switch route.Kind {
	case policy.Direct:
		six := crossed && c.Sends && linux.DomainOf(old) == unix.AF_INET6
		switch dst := e.Dst.Addr(); {
		case six && dst.Is4() && !dst.IsMulticast() && dst != broadcast4:
			return w.stay(c, e, old, w.mappedCrossing(had, e.Dst), nil)
		case six && sock.Domain == unix.AF_INET6 && !dst.Is4() && !had.Deaf(old):
			// To an IPv6 peer of the program's: what took the place of its socket is as good as
			// that, and hears from all of them.
			return w.stay(c, e, old, nil, sa)
		case !crossed && (sock.Netns == origin.Cookie || sock.Kind == unix.SOCK_RAW || w.LivesIn(c.TID, sock.Netns)):
			return w.stay(c, e, old, nil, sa)
		}
		return w.move(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock}, sa)
	case policy.Netns:
		egress := w.s.EgressOf(route)
		if !crossed && sock.Netns == egress.Cookie && (sock.Netns != origin.Cookie || w.s.Made.Has(old)) {
			return w.stay(c, e, old, nil, sa)
		}
		return w.move(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock, Egress: egress}, sa)
	}
	return w.crossDatagram(c, e, old, sock, had)
}

// mappedCrossing is for what goes to the origin through an AF_INET6 socket with a passport: to
// IPv4-mapped addresses, as those can do it.
func (w *Worker) mappedCrossing(p *passport.Passport, dst netip.AddrPort) *crossing.Crossing {
	x := &w.Crossing
	x.Route, x.Mapped, x.Pass, x.To = someInet6, true, *p, linux.SockaddrIn6(dst.Addr(), dst.Port())
	return x
}

var (
	someInet6  = &policy.Route{Kind: policy.Inet6} // for a socket that is one of that family, with whatever route
	someUnix   = &policy.Route{Kind: policy.UnixPath}
	broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// move is swapDatagram, one at a time for a socket.
func (w *Worker) move(s *swap.Swap, sa []byte) session.Outcome {
	c, e, old, sock := s.Call, s.Event, s.Old, s.Socket
	if sock.Bound && linux.IsConnected(old) {
		// Its address is not one that the program has chosen, unless it has chosen that too, which
		// the kernel does not tell.
		addr, _ := netip.AddrFromSlice(sock.Address())
		if addr.Unmap().IsLoopback() && e.Decision.Route.Kind != policy.Direct && !w.s.returned.Has(old) {
			return session.Answer(unix.EINVAL) // as from there nothing else is reached, unless it was connected to another peer first
		}
		clear(sock.Address())
		sock.Connected = true
		if c.Sends && sock.Kind == unix.SOCK_DGRAM {
			return w.sendBeside(s)
		}
	}
	if !w.MayWait() {
		w.Pin(uint32(c.TID))
	}
	// One at a time: what has been sent through the first one's socket would be answered there.
	before := c.View // a send has not looked yet
	var moves, file uint64
	ino := uint64(0)
	if before != nil && !c.Sends {
		moves, file, ino = before.Moves, before.File, before.Ino
	} else {
		before, ino = nil, linux.InodeOf(old)
	}
	moving := w.s.Moving.Lock(ino)
	w.moving = true
	defer func() {
		w.moving = false
		w.s.Moves.Add(1)
		w.s.Moving.Unlock(moving)
	}()
	if before == nil || moves != w.s.Moves.Load() {
		if w.See(c) && old >= 0 {
			c.View.Copies = 1
		}
		if sock.Untouched {
			if set, is := w.UntouchedUDP(c); c.View == nil || c.View.File != file || !is || set != sock.Often {
				return session.Raced
			}
		}
	}
	// Only a socket that is there now has its companions: another thread may have put it aside, and
	// a third one may put it back.
	if old >= 0 && !w.isThereYet(c, old) {
		return session.Raced
	}
	return w.swapDatagram(s, sa)
}

// isThereYet reports whether the target's descriptor is the socket that old is a copy of. If c.View
// is not nil, it is of now.
func (w *Worker) isThereYet(c *session.Call, old int) bool {
	if c.View != nil {
		return w.Saw(c.View, old)
	}
	return !w.Replaced(c, old)
}

// sendBeside sends to another place than the one that the socket s.Old is connected in. A send does
// not end a connection, and what is answered to it is not for a connected socket, which hears from
// its peer alone. So it is a companion that sends, and the old one stays.
func (w *Worker) sendBeside(s *swap.Swap) session.Outcome {
	fd, out := w.beside(s)
	if !out.IsUndecided() {
		return out
	}
	w.CloseNow(s.Old)
	w.Done = append(w.Done, fd)
	if out = w.act(s.Call, s.Event, fd, s.Crossing, nil); !out.IsLater() {
		w.CloseNow(fd)
	}
	return out
}

// beside returns a copy of the companion that s.Old has where s leads, and sees to it that there is
// one, like s.Old; the caller owns the copy. Where out is not undecided there is none.
func (w *Worker) beside(s *swap.Swap) (fd int, out session.Outcome) {
	old := s.Old
	defer w.s.Moving.Unlock(w.s.Moving.Lock(linux.InodeOf(old)))
	w.See(s.Call)
	if !w.isThereYet(s.Call, old) {
		return -1, session.Raced
	}
	kept, errno := w.Obtain(s, old)
	if errno != 0 {
		return -1, w.Fail(s.Event, "socket for "+s.Event.Decision.Route.String(), errno)
	}
	if errno = w.Carry(s, old, kept); errno == 0 {
		linux.SetFlags(s.FD, s.Socket.Flags&^unix.O_ASYNC)
		if fd, errno = linux.Dup(s.FD); errno == 0 {
			w.s.Companions.Settle(s.FD)
			w.s.Companions.KeepBeside(old, s.FD, w.PlaceOf(s.Egress, s.Crossing))
			return fd, session.Undecided
		}
	}
	if !w.s.Companions.PutBack(s.FD) {
		linux.Close(s.FD)
	}
	return -1, w.Fail(s.Event, "socket for "+s.Event.Decision.Route.String(), errno)
}

// act makes the target's call, with a socket that is where it should be. x is not nil if it is one
// of another family.
func (w *Worker) act(c *session.Call, e *event.Pending, fd int, x *crossing.Crossing, sa []byte) session.Outcome {
	e.Local = fd
	if c.Sends {
		return w.transmit(c, e, fd, x)
	}
	if x != nil && x.Family() == unix.AF_UNIX {
		errno := x.Path.Open(w.s.Targets, x.Route, c.TID)
		if errno == 0 {
			errno = x.Path.Connect(fd)
		}
		x.Path.Close()
		return w.finished(c, e, x.AsInet(e, errno))
	}
	return w.finished(c, e, linux.Connect(fd, sa))
}

// stay makes the target's call with the target's own socket, of which fd is a copy.
func (w *Worker) stay(c *session.Call, e *event.Pending, fd int, x *crossing.Crossing, sa []byte) session.Outcome {
	w.Retag(c, fd)
	out := w.act(c, e, fd, x, sa)
	if !out.IsLater() {
		w.CloseNow(fd) // before the target goes on: what it closes then shall be closed
	}
	return out
}

// leave is for a call with a socket that is none of upconv's business, of which fd is a copy: a
// send is made with it all the same, as the kernel might find another one. A connect(2) is left to
// the kernel, or to the handler's guard (calls/guard.go).
func (w *Worker) leave(c *session.Call, e *event.Pending, fd int, sa []byte) session.Outcome {
	if c.Sends {
		return w.stay(c, e, fd, nil, sa)
	}
	return session.CarryOn
}

// finished records a call that has been made, or refused, and answers it with an errno.
func (w *Worker) finished(c *session.Call, e *event.Pending, errno unix.Errno) session.Outcome {
	if c.Sends {
		return w.sent(e, errno)
	}
	w.s.Events.Record(e, errno)
	return session.Answer(errno)
}

// crossDatagram is Place for a route to another family. had is the passport of a socket that is of
// another one than the program's already, else nil.
func (w *Worker) crossDatagram(c *session.Call, e *event.Pending, old int, sock *sockstate.Socket, had *passport.Passport) session.Outcome {
	if had == nil && sock.Domain == unix.AF_INET6 && linux.OnlyIPv6(old) {
		return session.Answer(unix.ENETUNREACH) // such a socket takes no IPv4-mapped destination
	}
	x := &w.Crossing
	switch err := w.Prepare(x, e, sock); {
	case errors.Is(err, nat64.ErrStillLooking):
		return w.s.WhenFound()
	case err != nil:
		e.Add(err.Error())
		return w.finished(c, e, unix.ENETUNREACH)
	case sock.Kind == unix.SOCK_RAW, sock.Proto == unix.IPPROTO_ICMP && (x.Route.Kind == policy.UnixPath || !c.Sends):
		e.Add("only echo requests of ICMP sockets that are not connected, and not those of raw ones, go along " + x.Route.String())
		return w.finished(c, e, unix.ENETUNREACH)
	}
	x.Pass.Connected = !c.Sends && x.Family() == unix.AF_INET6
	if had == nil || linux.DomainOf(old) != x.Family() || c.Sends && had.Peer.Addr() != e.Dst.Addr() && had.Deaf(old) {
		return w.move(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock, Crossing: x}, x.To[:])
	}
	if errno := x.Scope(old); errno != 0 {
		return w.Fail(e, "interface "+x.Zone, errno)
	}
	if x.Pass.Connected && !had.Connected || had.Peer != x.Pass.Peer && (!c.Sends || x.Route.Kind != policy.NAT64 && !linux.IsConnected(old)) {
		// Whom what is received is from, where that cannot be told from its address.
		had.Peer, had.Local, had.Connected = x.Pass.Peer, x.Pass.Local, x.Pass.Connected
		put := had.PutOn6
		if x.Family() == unix.AF_UNIX {
			put = had.PutOnUnix
		}
		if errno := put(old); errno != 0 {
			return w.Fail(e, "the passport of the socket", errno)
		}
	}
	return w.stay(c, e, old, x, x.To[:])
}

// noteMoved is for a datagram socket that has just been put into the place of another, and has not
// been used yet.
func (w *Worker) noteMoved(replacement int) {
	if w.s.IsEgress(w.s.Origin.Cookie) {
		w.s.Made.Add(replacement)
	}
}
