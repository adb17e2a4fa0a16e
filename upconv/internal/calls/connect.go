package calls

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/swap"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// connect decides about a connect(2), or a send with MSG_FASTOPEN, from one copy of the address.
// Where the destination takes another way it puts an equivalent socket under the target's
// descriptor and connects that.
//
// Whatever upconv has nothing to say about goes on as it stands, so that the kernel itself gives
// the native result: bad pointers and descriptors, other families, sockets in other states.
func (w *Worker) connect(c *session.Call) session.Outcome {
	e := &w.connecting
	recorded := c.Made // it has been made, and put aside after that
	for range session.MaxRaces {
		c.View, c.Sockaddr, c.Decide, c.Made = nil, nil, connectAnew, false
		*e = event.Pending{Call: c.Name, TID: c.TID, FD: c.FD, Proto: policy.TCP, Recorded: recorded} // it begins later
		out := w.connectAnywhere(c, e)
		if !c.Made && out.CarriesOn() {
			out = w.guard(c, e)
		}
		if !out.IsRaced() {
			return out
		}
	}
	return session.Answer(unix.EBADF) // which it is, now and then
}

// connectAnywhere is connect, but what it leaves to the kernel may have to be made by upconv, see
// guard.go.
func (w *Worker) connectAnywhere(c *session.Call, e *event.Pending) session.Outcome {
	if c.AddrLen < linux.SizeofSockaddrIn || c.AddrLen > linux.SizeofSockaddrStorage {
		return session.CarryOn
	}
	e.Began = w.Now()
	if !c.Since.IsZero() {
		e.Began = c.Since
	}

	// One copy of the address decides and is what is connected to: the target's other threads can
	// change the original at any time.
	sa := w.Sockaddr[:c.AddrLen]
	if errno := target.ReadMemory(c.TID, c.Addr, sa); errno != 0 {
		if errno == unix.EPERM {
			w.Unserved(e, "its memory cannot be read", errno)
		}
		return session.CarryOn
	}
	c.Sockaddr = sa
	family, dst, ok := linux.Destination(sa)
	var decision policy.Decision
	switch {
	case ok:
		decision = w.s.Rules.Load().Policy.Decide(dst, policy.TCP, w.s.Origin.Assigned)
	case family == unix.AF_INET6 && len(sa) >= linux.SizeofSockaddrIn6Min && w.s.Swapped.Load():
		// Not an IPv4 destination; but the socket may be in an egress, from an earlier connect(2)
		// to one.
		dst, decision = linux.Inet6Destination(sa), policy.DirectDefault
	default:
		return session.CarryOn
	}
	e.Dst, e.Decision = dst, decision
	if decision.Route.Kind == policy.Direct && !w.s.Swapped.Load() && (!w.s.Needs.UDP || w.DecideDatagram(dst).Route.Kind == policy.Direct) {
		// Nobody is harmed if another thread changes the address of this call: the socket is one
		// of the origin, from where nothing else can be reached than what the program may reach.
		w.recordDirect(c, e)
		return session.CarryOn
	}

	// The program's other threads can close the descriptor or put another file in its place, until
	// the very end. Then everything is looked at anew.
	for range session.MaxRaces {
		out := w.route(c, e, family, sa)
		if !out.IsRaced() {
			return out
		}
		e.Note, e.Proto, e.Decision = "", policy.TCP, decision // it may have been a datagram socket
	}
	return session.Answer(unix.EBADF) // which it is, now and then
}

// route looks at the socket and sends it on its way.
func (w *Worker) route(c *session.Call, e *event.Pending, family int, sa []byte) session.Outcome {
	route := e.Decision.Route
	if route.Kind != policy.Direct && route.Kind != policy.Reject && !w.MayWait() {
		w.Pin(uint32(c.TID)) // now, so that nothing is between seeing the socket and replacing it
	}
	seen, is := w.See(c), false
	if w.s.Needs.UDP {
		var fd int
		if fd, is = w.sendsDatagrams(c, seen, route.Kind == policy.Reject); is {
			decision, fastOpen := e.Decision, c.FastOpen
			out := w.datagram(c, e, family, sa, fd)
			if route.Kind != policy.Reject || !out.CarriesOn() {
				return out
			}
			// It may be a stream by the time the kernel looks.
			e.Proto, e.Decision, c.FastOpen = policy.TCP, decision, fastOpen
		}
	}
	if route.Kind == policy.Reject {
		return w.Reject(c, e, family, is)
	}
	if seen && c.View.File == 0 {
		return session.CarryOn // EBADF; or the thread is gone
	}
	crosses := w.s.Needs.Crosses()
	// A socket of another family that took the place of the program's has its passport in what
	// these are about.
	plain := seen && !(crosses && w.s.AnyCrossed.Load() && c.View.Family != family)
	if crosses && family == unix.AF_INET6 {
		plain = seen && !w.s.AnyCrossed.Load()
	}
	if plain && route.Kind == policy.Direct && !w.s.InEgress(c.View.NetNS) {
		w.recordDirect(c, e)
		return session.CarryOn
	}
	if plain && !c.View.Idle(family) {
		return session.CarryOn // not TCP; or EISCONN, EALREADY, the wait for a connect already begun, a wrong family
	}
	if seen && (route.Kind == policy.Netns && !w.s.MayBeMade(route) || route.Crosses() && family == unix.AF_INET && !w.MayWait()) && w.Untouched(c.View, family) {
		sock := w.SocketMemory()
		*sock = sockstate.Socket{Domain: family, Kind: unix.SOCK_STREAM, Proto: unix.IPPROTO_TCP, Netns: c.View.NetNS, Flags: c.View.Flags}
		if route.Kind == policy.Netns {
			return w.SwapStream(&swap.Swap{Call: c, Event: e, Old: -1, Socket: sock, Egress: w.s.EgressOf(route)}, sa)
		}
		return w.cross(c, e, -1, sock, false)
	}

	if seen && w.s.Needs.Streams && route.Kind == policy.Netns && w.s.InEgress(c.View.NetNS) && c.View.NetNS == w.s.EgressOf(route).Cookie {
		return w.connectSeen(c, e, sa)
	}

	old, out := w.Fetch(c, e)
	switch {
	case !out.IsUndecided():
		return out
	case seen && !w.Saw(c.View, old):
		return session.Raced
	}
	sock := w.SocketMemory()
	if route.Kind != policy.Direct && w.readTCP(c, old, sock) {
		return w.routeCopy(c, e, sa, old, sock)
	}
	*sock = sockstate.Socket{}
	switch kind := linux.TypeOf(old); {
	case !seen && w.s.Needs.UDP && linux.IsDatagramType(kind):
		return w.datagram(c, e, family, sa, old)
	case kind == unix.SOCK_STREAM:
		return w.routeCopy(c, e, sa, old, sock)
	case route.Kind == policy.Direct:
		w.recordDirect(c, e)
	}
	return session.CarryOn
}

// readTCP reads what a swap needs to know of the TCP or MPTCP socket of a call, of which fd is a
// copy, but for its state and its flags. It is false for anything else.
func (w *Worker) readTCP(c *session.Call, fd int, s *sockstate.Socket) (ok bool) {
	w.reads = w.reads.Current(&w.s.Used)
	return w.reads.Into(s, fd, c.View != nil) // if seen, its owner is known
}

// routeCopy is route for a stream that does not tell enough when it is only looked at. old is a
// copy of it, and sock what readTCP has said, or empty.
func (w *Worker) routeCopy(c *session.Call, e *event.Pending, sa []byte, old int, sock *sockstate.Socket) session.Outcome {
	route, crosses := e.Decision.Route, w.s.Needs.Crosses()
	origin, family := w.s.Origin, linux.FamilyOf(sa)
	if route.Kind == policy.Direct {
		if netns := linux.NetnsCookie(old); !w.s.InEgress(netns) || w.LivesIn(c.TID, netns) {
			crossed := false
			if crosses {
				p, _ := w.PassportOf(old)
				crossed = p != nil
			}
			if !crossed {
				w.recordDirect(c, e)
				return session.CarryOn
			}
		}
	}
	idle, crossed := (sock.Reads != nil || sock.ReadStream(old)) && sock.ReadIdle(old), false
	if crosses && (!idle || sock.Domain == unix.AF_INET6) {
		var busy bool
		if crossed, busy = w.Crossed(old, sock, idle); busy && crossed {
			return session.Answer(unix.EISCONN) // a Unix socket, which would say something else
		}
	}
	if !idle && family == unix.AF_INET {
		if out := w.BusyCrossed(c, old); !out.IsUndecided() {
			return out
		}
	}
	if !idle || sock.Domain != family {
		return session.CarryOn // not TCP; or EISCONN, EALREADY, the wait for a connect already begun, a wrong family
	}
	if crossed {
		// It may have failed while nobody waited. This fetches the error, or does nothing.
		if errno, idle := linux.ProbeConnect(old, unix.AF_INET6); !idle {
			return session.Answer(siit.InetErrno(errno))
		}
	}
	if sock.Netns != origin.Cookie && !w.s.IsEgress(sock.Netns) {
		return session.CarryOn // the target went to a namespace of its own: not ours there
	}
	if c.View != nil || crossed || route.Kind == policy.UnixPath {
		sock.ReadFlags(old) // else LookLast tells them
	}
	switch route.Kind {
	case policy.Direct:
		return w.SwapStream(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock}, sa)
	case policy.NAT64, policy.Inet6, policy.UnixPath:
		return w.cross(c, e, old, sock, crossed)
	}
	egress := w.s.EgressOf(route)
	if sock.Netns == egress.Cookie && (sock.Netns != origin.Cookie || w.s.MayBeMade(route) && w.s.Made.Has(old)) {
		sock.ReadFlags(old)
		return w.ConnectInPlace(c, e, old, sock, sa)
	}
	return w.SwapStream(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock, Egress: egress}, sa)
}

// recordDirect records that a socket of the origin is left alone.
func (w *Worker) recordDirect(c *session.Call, e *event.Pending) {
	if w.s.Events == nil || !e.Dst.Addr().Is4() { // others come here only to be looked at
		return
	}
	// What kind of socket it is has not mattered yet.
	fd, is := w.sendsDatagrams(c, c.View != nil || w.See(c), true)
	if fd >= 0 {
		w.Retag(c, fd)
		w.CloseNow(fd)
	}
	if is {
		e.Proto, e.Decision = policy.UDP, w.DecideDatagram(e.Dst)
		if e.Decision.Route.Kind != policy.Direct { // it is left alone for another reason: policy.UDPOff
			return
		}
	}
	w.s.Events.Record(e, 0)
}

// cross sends a connect(2) along a route to another family. old is as in swap.Swap. again is true
// where the socket is an AF_INET6 one already, from an earlier one.
func (w *Worker) cross(c *session.Call, e *event.Pending, old int, sock *sockstate.Socket, again bool) session.Outcome {
	if sock.Domain == unix.AF_INET6 && linux.OnlyIPv6(old) {
		return session.CarryOn // ENETUNREACH: such a socket takes no IPv4-mapped destination
	}
	x := &w.Crossing
	switch err := w.Prepare(x, e, sock); {
	case errors.Is(err, nat64.ErrStillLooking):
		return w.s.WhenFound()
	case err != nil:
		e.Add(err.Error())
		w.s.Events.Record(e, unix.ENETUNREACH)
		return session.Answer(unix.ENETUNREACH)
	}
	if x.Route.Kind == policy.UnixPath || !again {
		return w.SwapStream(&swap.Swap{Call: c, Event: e, Old: old, Socket: sock, Crossing: x}, x.To[:])
	}
	if out := w.MayConnect(c, e, sock); !out.IsUndecided() {
		return out
	}
	if errno := x.Scope(old); errno != 0 {
		return w.Fail(e, "interface "+x.Zone, errno)
	}
	if errno := x.Pass.PutOn6(old); errno != 0 {
		return w.Fail(e, "setsockopt IP_OPTIONS", errno)
	}
	return w.ConnectInPlace(c, e, old, sock, x.To[:])
}

// datagram is connect(2), or a send with MSG_FASTOPEN, on a socket that is not a stream. old is a
// copy of it, or -1.
func (w *Worker) datagram(c *session.Call, e *event.Pending, family int, sa []byte, old int) session.Outcome {
	if c.FastOpen.On {
		return w.resend(c)
	}
	e.Proto, e.Decision = policy.UDP, w.DecideDatagram(e.Dst)
	if old < 0 {
		if c.View != nil && family == unix.AF_INET {
			if out := w.PlaceUntouched(c, e, sa); !out.IsUndecided() {
				return out
			}
		}
		var out session.Outcome
		if old, out = w.Fetch(c, e); !out.IsUndecided() {
			return out
		}
	}
	return w.Place(c, e, family, sa, old)
}

// sendsDatagrams reports whether the call is about a datagram socket. Where it has not been seen,
// it says so only if asked to fetch it; then fd is a copy, which Tidy closes, else -1.
func (w *Worker) sendsDatagrams(c *session.Call, seen, fetch bool) (fd int, is bool) {
	switch {
	case seen:
		return -1, c.View.Mode&unix.S_IFMT == unix.S_IFSOCK && linux.IsDatagramType(c.View.Type)
	case !fetch:
		return -1, false
	}
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	if errno != 0 {
		return -1, false // as whoever fetches it next will say
	}
	if w.Done = append(w.Done, fd); !linux.IsDatagramType(linux.TypeOf(fd)) {
		w.CloseNow(fd)
		return -1, false
	}
	return fd, true
}

// connectCall handles a stopped connect(2).
func (w *Worker) connectCall(c *session.Call) session.Outcome {
	if w.s.Restricted.IsDecoy(c.TID) {
		return session.CarryOn
	}
	c.Addr, c.AddrLen = c.Args[1], uint32(c.Args[2])
	return w.connect(c)
}
