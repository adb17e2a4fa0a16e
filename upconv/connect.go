package upconv

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// connect handles a stopped connect(2): it decides from one copy of the address, and where the
// destination takes another way puts an equivalent socket under the target's descriptor and
// connects that.
//
// Whatever upconv has nothing to say about goes on as it stands, so that the kernel itself gives
// the native result: bad pointers and descriptors, other families, sockets in other states.
func (w *worker) connect(c *call) outcome {
	w.sighted, c.sa = false, nil
	e := event.Pending{Call: c.name, TID: c.tid, FD: c.fd, Proto: policy.TCP, Recorded: c.made} // it begins later
	c.made = false                                                                              // if it was, it is decided anew, see aside
	out := w.connectAnywhere(c, &e)
	if !c.made && out.carriesOn() {
		return w.guard(c, &e)
	}
	return out
}

// connectAnywhere is connect, but what it leaves to the kernel may have to be made by upconv, see
// guard.
func (w *worker) connectAnywhere(c *call, e *event.Pending) outcome {
	if c.addrLen < linux.SizeofSockaddrIn || c.addrLen > linux.SizeofSockaddrStorage {
		return carryOn
	}
	e.Began = w.now()
	if !c.since.IsZero() {
		e.Began = c.since
	}

	// One copy of the address decides and is what is connected to: the target's other threads can
	// change the original at any time.
	sa := w.sockaddr[:c.addrLen]
	if errno := target.ReadMemory(c.tid, c.addr, sa); errno != 0 {
		if errno == unix.EPERM {
			w.unserved(e, "its memory cannot be read", errno)
		}
		return carryOn
	}
	c.sa = sa
	family, dst, ok := linux.Destination(sa)
	var decision policy.Decision
	switch {
	case ok:
		decision = w.s.rules.Load().policy.Decide(dst, policy.TCP, w.s.origin.assigned)
	case family == unix.AF_INET6 && len(sa) >= linux.SizeofSockaddrIn6Min && w.s.swapped.Load():
		// Not an IPv4 destination; but the socket may be in an egress, from an earlier connect(2)
		// to one.
		dst, decision = linux.Inet6Destination(sa), policy.DirectDefault
	default:
		return carryOn
	}
	e.Dst, e.Decision = dst, decision
	if decision.Route.Kind == policy.Direct && !w.s.swapped.Load() && (!w.s.needs.udp || w.decideDatagram(dst).Route.Kind == policy.Direct) {
		// Nobody is harmed if another thread changes the address of this call: the socket is one
		// of the origin, from where nothing else can be reached than what the program may reach.
		w.stays(c, e)
		return carryOn
	}

	// The program's other threads can close the descriptor or put another file in its place, until
	// the very end. Then everything is looked at anew.
	for range maxRaces {
		out, raced := w.route(c, e, family, sa)
		if !raced {
			return out
		}
		e.Note, e.Proto, e.Decision = "", policy.TCP, decision // it may have been a datagram socket
	}
	return answer(unix.EBADF) // which it is, now and then
}

const maxRaces = 8

// route looks at the socket and sends it on its way. raced is true where the descriptor has become
// another one's meanwhile, and nothing has been done.
func (w *worker) route(c *call, e *event.Pending, family int, sa []byte) (out outcome, raced bool) {
	route := e.Decision.Route
	if route.Kind != policy.Direct && route.Kind != policy.Reject && !w.alone {
		w.pin(uint32(c.tid)) // now, so that nothing is between seeing the socket and replacing it
	}
	seen, is := w.see(c), false
	if w.s.needs.udp {
		var fd int
		if fd, is = w.sendsDatagrams(c, seen, route.Kind == policy.Reject); is {
			decision, fastOpen := e.Decision, c.fastOpen
			out, raced := w.datagram(c, e, family, sa, fd)
			if route.Kind != policy.Reject || raced || !out.carriesOn() {
				return out, raced
			}
			// It may be a stream by the time the kernel looks.
			e.Proto, e.Decision, c.fastOpen = policy.TCP, decision, fastOpen
		}
	}
	if route.Kind == policy.Reject {
		return w.reject(c, e, family, seen, is, sa)
	}
	if seen && w.sight.File == 0 {
		return carryOn, false // EBADF; or the thread is gone
	}
	crosses := w.s.needs.crosses()
	// A socket of another family that took the place of the program's has its passport in what
	// these are about.
	plain := seen && !(crosses && w.s.anyCrossed.Load() && w.sight.Family != family)
	if crosses && family == unix.AF_INET6 {
		plain = seen && !w.s.anyCrossed.Load()
	}
	if plain && route.Kind == policy.Direct && !w.s.inEgress(w.sight.NetNS) {
		w.stays(c, e)
		return carryOn, false
	}
	if plain && !w.idle(family) {
		return carryOn, false // not TCP; or EISCONN, EALREADY, the wait for a connect already begun, a wrong family
	}
	if seen && (route.Kind == policy.Netns && !w.s.mayBeMade(route) || route.Crosses() && family == unix.AF_INET && !w.alone) && w.untouched(family) {
		w.socketInfo = socket{domain: family, kind: unix.SOCK_STREAM, proto: unix.IPPROTO_TCP, netns: w.sight.NetNS, flags: w.sight.Flags}
		if route.Kind == policy.Netns {
			return w.swap(c, e, -1, &w.socketInfo, w.s.egressOf(route), nil, sa)
		}
		return w.cross(c, e, -1, &w.socketInfo, false)
	}

	if seen && w.s.needs.streams && route.Kind == policy.Netns && w.s.inEgress(w.sight.NetNS) && w.sight.NetNS == w.s.egressOf(route).cookie {
		return w.there(c, e, sa)
	}

	old, out, ok := w.fetch(c, e)
	switch {
	case !ok:
		return out, false
	case seen && !w.saw(old):
		return carryOn, true
	}
	sock := &w.socketInfo
	if route.Kind != policy.Direct && w.readTCP(old, sock) {
		return w.routeCopy(c, e, family, sa, old)
	}
	*sock = socket{}
	switch kind := linux.TypeOf(old); {
	case !seen && w.s.needs.udp && linux.IsDatagramType(kind):
		return w.datagram(c, e, family, sa, old)
	case kind == unix.SOCK_STREAM:
		return w.routeCopy(c, e, family, sa, old)
	case route.Kind == policy.Direct:
		w.stays(c, e)
	}
	return carryOn, false
}

// routeCopy is route for a stream that does not tell enough when it is only looked at. old is a
// copy of it, and w.socketInfo what readTCP has said, or nothing.
func (w *worker) routeCopy(c *call, e *event.Pending, family int, sa []byte, old int) (out outcome, raced bool) {
	route, crosses := e.Decision.Route, w.s.needs.crosses()
	sock, origin := &w.socketInfo, w.s.origin
	if route.Kind == policy.Direct {
		if netns := linux.NetnsCookie(old); !w.s.inEgress(netns) || w.livesIn(c.tid, netns) {
			crossed := false
			if crosses {
				_, crossed = w.hasPassport(old)
			}
			if !crossed {
				w.stays(c, e)
				return carryOn, false
			}
		}
	}
	idle, crossed := (sock.reads != nil || sock.readStream(old)) && sock.readIdle(old), false
	if crosses && (!idle || sock.domain == unix.AF_INET6) {
		var busy bool
		if crossed, busy = w.crossed(old, sock, idle); busy && crossed {
			return answer(unix.EISCONN), false // a Unix socket, which would say something else
		}
	}
	if !idle && family == unix.AF_INET {
		if out, busy, raced := w.busyCrossed(c, old); busy {
			return out, raced
		}
	}
	if !idle || sock.domain != family {
		return carryOn, false // not TCP; or EISCONN, EALREADY, the wait for a connect already begun, a wrong family
	}
	if crossed {
		// It may have failed while nobody waited. This fetches the error, or does nothing.
		if errno, idle := probeConnect(old, unix.AF_INET6); !idle {
			return answer(inetErrno(errno)), false
		}
	}
	if sock.netns != origin.cookie && !w.s.isEgress(sock.netns) {
		return carryOn, false // the target went to a namespace of its own: not ours there
	}
	if w.sighted || crossed || route.Kind == policy.UnixPath {
		sock.readFlags(old) // else lookLast tells them
	}
	switch route.Kind {
	case policy.Direct:
		return w.swap(c, e, old, sock, nil, nil, sa)
	case policy.NAT64, policy.Inet6, policy.UnixPath:
		return w.cross(c, e, old, sock, crossed)
	}
	egress := w.s.egressOf(route)
	if sock.netns == egress.cookie && (sock.netns != origin.cookie || w.s.mayBeMade(route) && w.s.made.has(old)) {
		sock.readFlags(old)
		return w.again(c, e, old, sock, sa), false
	}
	return w.swap(c, e, old, sock, egress, nil, sa)
}

// stays records that a socket of the origin is left alone.
func (w *worker) stays(c *call, e *event.Pending) {
	if w.s.events == nil || !e.Dst.Addr().Is4() { // others come here only to be looked at
		return
	}
	// What kind of socket it is has not mattered yet.
	fd, is := w.sendsDatagrams(c, w.sighted || w.see(c), true)
	if fd >= 0 {
		w.retag(c, fd)
		w.closeNow(fd)
	}
	if is {
		e.Proto, e.Decision = policy.UDP, w.decideDatagram(e.Dst)
		if e.Decision.Route.Kind != policy.Direct { // it is left alone for another reason: UDPOff
			return
		}
	}
	w.s.events.Record(e, 0)
}

// swap replaces the target's socket by one made in the egress, or in the origin where that is nil,
// and connects that to sa. old is a copy of the target's socket, or -1 where it has been seen to be
// as good as new and nobody else's. If x is not nil the new socket is one of another family, in the
// origin.
func (w *worker) swap(c *call, e *event.Pending, old int, sock *socket, egress *egress, x *crossing, sa []byte) (out outcome, raced bool) {
	if sock.kind == unix.SOCK_STREAM && !c.back {
		if out, done := w.mayConnect(c, e, sock); done {
			return out, false
		}
	}
	replacement, out, raced, ok := w.equivalent(c, e, old, sock, egress, x)
	if !ok {
		return out, raced
	}
	if x != nil {
		if x.family() == unix.AF_UNIX && sock.kind == unix.SOCK_STREAM {
			if out, done := w.connectUnix(c, e, x, replacement, sock); done {
				return out, false
			}
		}
		w.s.anyCrossed.Store(true) // before anybody can ask the new socket for its names
	}
	leaves := w.leaves(sock, egress, x)
	if leaves {
		if out, ok := w.depart(c, sock, w.to(egress, x), replacement); !ok {
			return out, false
		}
	}
	places, lost := w.registrations(c, old)
	defer w.closeSets()
	if lost != "" {
		e.Add(lost)
	}

	last, out, raced, ok := w.lookLast(c, e, old, sock)
	if !ok {
		if last.watched {
			w.acquit(old)
		}
		if leaves {
			w.s.ports.stays(sock.port(), w.to(egress, x))
		}
		w.notUsed(sock, replacement)
		return out, raced
	}
	if old >= 0 && sock.kind == unix.SOCK_STREAM && sock.flags&unix.O_ASYNC != 0 {
		copyOwner(old, replacement) // carry may not have known the flags
	}
	early := 0
	if sock.kind != unix.SOCK_STREAM {
		linux.SetFlags(replacement, sock.flags&^unix.O_ASYNC) // another thread may begin to receive at once, and to wait
		// Or to say anew what it waits for: the program's epoll_ctl(2) must find the socket in the
		// very moment in which it has it.
		early = len(places)
		w.register(c, e, places, replacement)
	}
	if old >= 0 && sock.kind == unix.SOCK_DGRAM && !(w.sighted && w.sight.OwnTable) { // other threads find it as soon as it is installed
		defer w.s.companions.arrived(w.s.companions.arrives(replacement))
	}
	// Install first, connect second: installing puts the socket into the target's net_cls and
	// net_prio cgroups, and its first packet must already carry them.
	if errno := w.install(c, c.fd, replacement, last.closesOnExec); errno != 0 {
		if last.watched {
			w.acquit(old)
		}
		if leaves {
			w.s.ports.stays(sock.port(), w.to(egress, x))
		}
		w.notUsed(sock, replacement)
		if errno == unix.ENOENT || errno == unix.ESRCH {
			return carryOn, false // the target is gone; nobody will read the answer
		}
		return w.fail(e, "SECCOMP_IOCTL_NOTIF_ADDFD", errno), false
	}
	w.s.swapped.Store(true)
	if sock.resets {
		resetOnClose(old)
	}
	if sock.kind != unix.SOCK_STREAM {
		w.s.companions.settle(replacement)
		w.noteMoved(replacement)
		if sock.connected && egress == nil && x == nil {
			w.s.returned.add(replacement)
		}
		if egress != nil && sock.kind == unix.SOCK_DGRAM {
			w.noteSettled(replacement, egress.cookie)
		}
	}
	was := w.former(c.tid, old, sock, w.to(egress, x))
	places = w.retire(c, e, &was, replacement, sock, egress, places, early, last.watched)
	if sock.flags&unix.O_ASYNC != 0 {
		// Before it connects: this is what it is to be told of.
		flags := sock.flags
		if sock.kind == unix.SOCK_STREAM {
			flags |= unix.O_NONBLOCK
		}
		if errno := w.async(c, replacement, flags); errno != 0 {
			e.Add("O_ASYNC not carried over: " + linux.ErrnoName(errno))
		}
	}
	e.Held = sock.kind == unix.SOCK_STREAM // others have their places by now
	switch {
	case c.back:
		linux.SetFlags(replacement, sock.flags)
		out = carryOn
	case sock.kind != unix.SOCK_STREAM:
		out = w.act(c, e, replacement, sock, x, sa)
	case x != nil && x.family() == unix.AF_UNIX:
		out = w.connected(c, e, replacement, sock)
	default:
		out = w.begin(c, e, replacement, sock, sa)
	}
	// Only now: before, a poll of a stream would have said EPOLLHUP.
	w.register(c, e, places[early:], replacement)
	if wait, is := out.wait.(*wait); is {
		wait.event.Note = e.Note
	}
	e.Release(w.s.events)
	if was.aside {
		w.disown(old)
		w.setAside(c, &was, replacement, egress)
	}
	if out.wait == nil {
		w.closeNow(replacement) // before the target goes on: what it closes then shall be closed
	}
	return out, false
}

// notUsed is for a socket that did not come into the place of the target's.
func (w *worker) notUsed(sock *socket, fd int) {
	if sock.kind != unix.SOCK_STREAM && w.s.companions.putBack(fd) {
		w.disown(fd)
	}
}

// lookLast looks at the target's descriptor for the last time before another socket takes its
// place: whether it is closed on execve(2), and whether it is yet the socket that old is a copy of.
// If not, ok is false, out is what becomes of the call, and raced as for swap. Of a socket that was
// not seen sock gets the flags. If others may have old it is put among the worker's witnesses
// before.
func (w *worker) lookLast(c *call, e *event.Pending, old int, sock *socket) (last lastSeen, out outcome, raced, ok bool) {
	if w.sighted {
		last.watched = old >= 0 && !w.single() && w.witness(old)
		if old >= 0 && w.replaced(c, old) {
			return last, carryOn, true, false
		}
		last.closesOnExec = w.sight.CloseOnExec
		return last, out, false, true
	}
	// One read says all: an inode number is the socket's own as long as there is a copy of it.
	info, errno := w.s.targets.FdinfoBy(c.tid, c.fd, w.scratch[:], func(file int, to []byte) (n int, errno unix.Errno) {
		last.watched, n, errno = w.watchAndRead(old, file, to)
		return n, errno
	})
	switch errno {
	case 0:
		same := info.Ino == w.sight.Ino
		sock.flags = info.Flags &^ unix.O_CLOEXEC
		last.closesOnExec = info.ClosesOnExec()
		return last, carryOn, !same, same
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return last, w.fail(e, "open /proc/TID/fdinfo/FD", errno), false, false
	case unix.ENOENT, unix.ESRCH: // closed meanwhile, so EBADF; or the target is gone, or hidden
		raced = w.replaced(c, old)
		if dir, errno := target.OpenDir(c.tid, w.scratch[:]); errno == 0 { // it was closed for a moment only
			linux.Close(dir)
			raced = true
		}
		return last, carryOn, raced, false
	}
	w.unserved(e, "its descriptors cannot be read in /proc", errno)
	return last, carryOn, false, false
}

// equivalent returns the socket that is to take the place of the target's, with all that the
// program has done to that. The parameters are as for swap; tidy closes it. Where ok is false, out
// is what becomes of the call, and raced as for swap.
func (w *worker) equivalent(c *call, e *event.Pending, old int, sock *socket, egress *egress, x *crossing) (fd int, out outcome, raced, ok bool) {
	from := old // what is carried over is of it
	if sock.untouched {
		from = -1
	}
	fd, kept, errno := w.obtain(c, from, sock, egress, x)
	switch {
	case errno == 0:
	case old >= 0 && w.replaced(c, old): // by another thread, which has taken the one that could be had
		return -1, carryOn, true, false
	default:
		return -1, w.fail(e, "socket for "+e.Decision.Route.String(), errno), false, false
	}
	w.done = append(w.done, fd)
	if x != nil {
		w.usedUnix = sock.kind == unix.SOCK_STREAM && x.family() == unix.AF_UNIX
	}
	switch errno := w.carry(e, from, fd, sock, x, kept); {
	case errno == 0:
	case x != nil && errno != unix.EADDRINUSE && errno != unix.EACCES:
		w.notUsed(sock, fd)
		return -1, w.fail(e, "preparing a socket for "+e.Decision.Route.String(), errno), false, false
	default: // the program's error, natively one of bind(2)
		w.notUsed(sock, fd)
		e.Add("port " + strconv.Itoa(int(sock.port())) + " cannot be had in the egress")
		w.s.events.Record(e, errno)
		return -1, answer(errno), false, false
	}
	if sock.untouched {
		setOften(fd, sock.often, x != nil)
	}
	if lost := w.copyInode(old, fd, sock); lost != "" {
		e.Add("not carried over: " + lost)
	}
	return fd, out, false, true
}

// obtain returns a socket for swap, whose parameters these are, but that from is -1 where nothing
// has been done to the target's. kept is whether it is one that the target had there before, and
// not a new one.
func (w *worker) obtain(c *call, from int, sock *socket, egress *egress, x *crossing) (fd int, kept bool, errno unix.Errno) {
	if sock.kind != unix.SOCK_STREAM && from >= 0 {
		if fd, kept = w.s.companions.take(from, w.to(egress, x)); kept {
			return fd, true, 0
		}
	}
	switch {
	case x != nil:
		fd, errno = x.make(w, c)
	case egress == nil:
		fd, errno = w.inOrigin(c.tid, sock.domain, sock.kind, sock.proto)
	default:
		fd, errno = w.socket(egress, sock.domain, sock.kind, sock.proto)
	}
	return fd, false, errno
}

// retire closes the socket that was there before, whose place the replacement has taken, unless it
// is put aside, and sees to those who have it yet: the copies that the target has of it are
// replaced, where witness is set and says that there are any, and those who wait for datagrams on
// it do so on the other one. The replacement is in the first early of the places in epoll sets
// already. It returns all of them, with those of the copies.
func (w *worker) retire(c *call, e *event.Pending, was *former, replacement int, sock *socket, egress *egress, places []registration, early int, witness bool) []registration {
	old, datagrams := was.fd, sock.kind != unix.SOCK_STREAM
	waitedFor := uint64(0)
	if datagrams {
		waitedFor = w.s.receivers.on(old)
	}
	waited, alive := false, false
	var came unread
	if old >= 0 {
		var late []registration
		waited, late = w.lookBack(c, old, places, witness)
		places = append(places, late...)
		w.settlePlaces(c, places[:early], old, replacement)
		w.unregister(places, old)                  // whoever has a copy: no more events from it
		if was.heard && (!was.aside || !c.sends) { // before it is connected: then it hears its peer only
			came = w.takeOut(c, &was.companion, replacement, egress)
		}
		// All that is left of the old socket should be this copy.
		switch {
		case was.aside:
			alive = true
		case witness:
			alive = w.closeWatched(old) // one that is connecting yet is not ready for writing
		default:
			w.closeNow(old)
		}
	}
	var others []int // numbers of the old socket
	copied := witness && (sock.resets || alive)
	if copied {
		places, others = w.replaceCopies(c, e, replacement, places)
	}
	if datagrams && (waited || !w.single() && (was.aside || !witness || copied)) {
		w.s.receivers.follow(waitedFor, replacement)
		if !w.restartWaiters(c, others, replacement) {
			e.Add("a thread goes on waiting for the socket from before: ptrace(2) is not permitted")
		}
	}
	came.handOver() // now that nobody has the port but this one
	if copied {
		w.noteCopies(e, was.aside)
	}
	return places
}

// carry gives the new socket, which is of another family if x is not nil, what the program has done
// to the old one. old is -1 if that is nothing. kept is as for carryOver.
func (w *worker) carry(e *event.Pending, old, replacement int, sock *socket, x *crossing, kept bool) unix.Errno {
	switch {
	case x != nil:
		return w.carryAcross(e, old, replacement, sock, x, kept)
	case old >= 0:
		return w.carryOver(e, old, replacement, sock, kept)
	}
	return 0
}

// carryOver gives the new socket what the program has done to the old one.
// kept is whether that is one that has been in use before.
func (w *worker) carryOver(e *event.Pending, old, replacement int, sock *socket, kept bool) unix.Errno {
	if lost := w.s.origin.defaultsOf(sock.domain).copyOptions(&w.s.used, old, replacement, sock, kept); lost != "" {
		e.Add("not carried over: " + lost)
	}
	if !kept {
		if errno := w.bindOver(e, old, replacement, sock); errno != 0 {
			return errno
		}
	} else {
		sock.resume(replacement)
	}
	if w.s.used.owner.Load() || sock.flags&unix.O_ASYNC != 0 {
		copyOwner(old, replacement)
	}
	if one := int32(1); sock.headers {
		linux.Setsockopt(replacement, unix.IPPROTO_IP, unix.IP_HDRINCL, unsafe.Pointer(&one), 4)
	}
	if !sock.resets { // a disconnection ends a shutdown(2), too
		w.shutLike(old, replacement, sock)
	}
	return 0
}

// shutLike has a socket remember a shutdown(2) of the old one from before it was connected: that
// fails with ENOTCONN, and yet has its effect.
func (w *worker) shutLike(old, fd int, sock *socket) {
	shut := uint8(0)
	if w.sighted {
		shut = w.sight.Shutdown
	} else if sock.kind != unix.SOCK_STREAM && old >= 0 {
		shut = shutdownOf(old)
	}
	if shut != 0 {
		unix.Syscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(shut-1), 0)
	}
}

// shutdownOf returns what poll(2) tells of sk_shutdown of a datagram socket: RCV_SHUTDOWN 1, with
// SEND_SHUTDOWN 3; nothing of SEND_SHUTDOWN alone. See datagram_poll in net/core/datagram.c.
func shutdownOf(fd int) uint8 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(fds, 0); n <= 0 || err != nil {
		return 0
	}
	switch events := fds[0].Revents; {
	case events&unix.POLLHUP != 0:
		return 3
	case events&unix.POLLRDHUP != 0:
		return 1
	}
	return 0
}

// carryAcross is carryOver for a socket of another family, with the same kept. old may be -1, as
// for swap.
func (w *worker) carryAcross(e *event.Pending, old, replacement int, sock *socket, x *crossing, kept bool) unix.Errno {
	switch {
	case old < 0: // nothing has been done to it
	case x.family() == unix.AF_UNIX:
		copyBuffers(nil, old, replacement)
	default:
		if lost := w.s.origin.defaultsOf(sock.domain).copyOptions(&w.s.used, old, replacement, sock, kept); lost != "" {
			e.Add("not carried over: " + lost)
		}
	}
	if errno := x.finish(w, e, old, replacement, sock); errno != 0 {
		return errno
	}
	if old >= 0 && (w.s.used.owner.Load() || sock.flags&unix.O_ASYNC != 0) {
		copyOwner(old, replacement)
	}
	if x.family() == unix.AF_INET6 {
		w.shutLike(old, replacement, sock)
	}
	if kept {
		return 0
	}
	sock.chosen = sock.kind == unix.SOCK_STREAM && w.portChosen(sock) // of datagrams, old itself has the port
	return x.bind(e, sock, old, replacement, w.s.origin.cookie)
}

// again connects a socket that is one of the egress already, from an earlier connect(2) that has
// failed or whose result is still to be fetched.
func (w *worker) again(c *call, e *event.Pending, fd int, sock *socket, sa []byte) outcome {
	if out, done := w.mayConnect(c, e, sock); done {
		return out
	}
	if sock.flags&unix.O_NONBLOCK == 0 {
		linux.SetFlags(fd, sock.flags|unix.O_NONBLOCK) // until begin gives its flags back
	}
	w.retag(c, fd)
	out := w.begin(c, e, fd, sock, sa)
	if out.wait == nil {
		w.closeNow(fd)
	}
	return out
}

// begin connects a non-blocking socket, which the target has as its own, gives it the status flags
// of the target's socket, and says what the target is to see.
func (w *worker) begin(c *call, e *event.Pending, fd int, sock *socket, sa []byte) outcome {
	e.Local, c.made = fd, true
	waits := sock.flags&unix.O_NONBLOCK == 0
	if c.fastOpen.on && !(waits && c.fastOpen.flags&unix.MSG_DONTWAIT == 0) {
		out := w.open(c, fd, sa)
		if sock.bound {
			w.noteConnection(e, fd, sock, sa)
		}
		linux.SetFlags(fd, sock.flags)
		w.s.events.Record(e, underWay(out.errno))
		return out
	}
	errno := linux.Connect(fd, sa)
	if sock.bound {
		w.noteConnection(e, fd, sock, sa)
	}
	if !waits {
		linux.SetFlags(fd, sock.flags)
		w.s.events.Record(e, underWay(errno))
		return answer(errno)
	}
	if c.fastOpen.on && w.guards(c) {
		return w.beginEarly(c, e, fd, sock, sa, errno)
	}
	if c.fastOpen.on && (errno == 0 || errno == unix.EINPROGRESS) {
		linux.SetFlags(fd, sock.flags)
		w.s.events.Record(e, 0)
		if w.waitsForRestricted(e) {
			return w.s.aside(c, (*worker).connect) // which will find it connecting
		}
		// The target's own call waits for the connection and sends, without data in the SYN; of the
		// address it passes the kernel takes no notice any more.
		return carryOn
	}
	if errno == unix.EINPROGRESS {
		// Over a fast network the handshake may be over. Then a second connect fetches its result
		// and leaves the socket as a blocking connect would have.
		if errno = linux.Connect(fd, sa); e.Decision.Route.Crosses() {
			errno = inetErrno(errno)
		}
	}
	if errno == unix.EALREADY {
		timeout := linux.TimeoutOf(fd, unix.SO_SNDTIMEO)
		if timeout != 0 || c.guarded || w.waitsForRestricted(e) || w.guards(c) {
			// The kernel would wait, but at the end say EALREADY for EINPROGRESS, and begin by
			// looking for the socket anew. So upconv does.
			w.done = w.done[:len(w.done)-1] // the wait owns it
			return outcome{wait: w.s.newWait(c, e, fd, sock.flags, timeout, sa)}
		}
	}
	linux.SetFlags(fd, sock.flags)
	w.s.events.Record(e, underWay(errno))
	if errno == unix.EALREADY {
		// The target's own connect(2) now runs, on a socket in SYN_SENT: the kernel ignores the
		// address it passes and waits as for any other, with signals, restarts and errors its own.
		return carryOn
	}
	return answer(errno)
}

// fail answers that upconv itself could not do something, and says so.
func (w *worker) fail(e *event.Pending, doing string, errno unix.Errno) outcome {
	w.s.warn(e.Call+": "+doing+" failed; the program sees the error", "dst", e.Dst, "tid", e.TID, "error", errno)
	e.Add("upconv failed: " + doing)
	w.s.events.Record(e, errno)
	return answer(errno)
}

// underWay turns the errnos that say "not finished, and nothing is wrong" into success, for events.
func underWay(errno unix.Errno) unix.Errno {
	if errno == unix.EINPROGRESS || errno == unix.EALREADY {
		return 0
	}
	return errno
}
