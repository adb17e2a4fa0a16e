package supervisor

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// Swapping at socket(2): the program is given a socket of the egress to begin with, so that in a
// connect(2) that goes there nothing is swapped any more. What turns out to be about the origin
// takes the socket back there before the kernel makes the call: bind(2) to anything that means a
// server or an address of one's own, listen(2), an interface.
//
// A socket of the egress that is not connected could reach whatever is there, its loopback, say. So
// no call that has an address is left to the kernel while it is about such a socket: see guard, and
// datagram.go. The exception is what the user has chosen with UDPConnected: that nothing is stopped
// where datagrams are sent.

// sockTypeMask is what of the type of a socket is not flags: SOCK_TYPE_MASK, linux/net.h.
const sockTypeMask = 0xf

// Options of IP about multicast, the first and the last: linux/in.h.
const (
	mcastJoin     = 42 // MCAST_JOIN_GROUP
	mcastMSFilter = 48 // MCAST_MSFILTER
)

// socketCall handles a stopped socket(2). Whatever is not made in the egress, or cannot be, is left
// to the kernel: the policy is then followed at connect(2).
func (w *callsWorker) socketCall(c *call) outcome {
	kind, proto := int(int32(c.args[1])), int(int32(c.args[2]))
	flags := kind &^ sockTypeMask
	kind &= sockTypeMask
	if int32(c.args[0]) == afSMC || proto == sockstate.IPProtoSMC {
		w.s.used.Others.Store(true)
		return carryOn
	}
	switch {
	case int32(c.args[0]) != unix.AF_INET || flags&^(unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC) != 0:
		return carryOn
	case kind == unix.SOCK_STREAM && w.s.needs.streams:
		if proto == 0 {
			proto = unix.IPPROTO_TCP
		}
		if proto != unix.IPPROTO_TCP && !(proto == unix.IPPROTO_MPTCP && w.s.origin.Egress != nil) {
			return carryOn
		}
	case kind == unix.SOCK_DGRAM && w.s.needs.datagrams && w.s.origin.Egress != nil:
		if proto == 0 {
			proto = unix.IPPROTO_UDP
		}
		if proto != unix.IPPROTO_UDP && proto != unix.IPPROTO_UDPLITE {
			return carryOn
		}
	default:
		return carryOn
	}
	of := policy.TCP
	if kind == unix.SOCK_DGRAM {
		of = policy.UDP
	}
	rules := w.s.rules.Load()
	route := rules.policy.NamespaceFor(of)
	if route == nil {
		return carryOn
	}
	egress := rules.egress[route.Target]
	if !w.alone {
		w.pin(uint32(c.tid))
	}
	uid, gid, ok := w.s.targets.InNamespace(c.tid, w.s.origin.Inode, w.scratch[:])
	if !ok {
		return carryOn // the target went to a namespace of its own: not ours there
	}
	fd, errno := w.socket(egress, unix.AF_INET, kind, proto)
	if errno != 0 {
		return carryOn
	}
	w.done = append(w.done, fd)
	if uid != w.s.uid || gid != w.s.gid {
		unix.RawSyscall(unix.SYS_FCHOWN, uintptr(fd), uintptr(uid), uintptr(gid))
	}
	if flags&unix.SOCK_NONBLOCK == 0 {
		linux.SetFlags(fd, unix.O_RDWR)
	}
	// Before the program can do anything with it.
	w.s.swapped.Store(true)
	if kind == unix.SOCK_DGRAM {
		w.s.moved.Store(true)
	}
	if egress.Cookie == w.s.origin.Cookie {
		w.s.made.add(fd)
	}
	_, err := w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, CloseOnExec: flags&unix.SOCK_CLOEXEC != 0, Send: true})
	w.closeNow(fd)
	switch errno := linux.ErrnoOf(err); errno {
	case 0:
		return elsewhere // the number is the answer
	case unix.ENOENT, unix.ESRCH:
		return carryOn // the target is gone; nobody will read the answer
	default: // EMFILE
		return answer(errno)
	}
}

// bindAtSocket is bind(2).
func (w *callsWorker) bindAtSocket(c *call) outcome {
	c.addr, c.addrLen = c.args[1], uint32(c.args[2])
	for range maxRaces {
		old, ok := -1, false
		if c.addrLen >= linux.SizeofSockaddrIn && c.addrLen <= linux.SizeofSockaddrStorage {
			old, ok = w.idleInEgress(c)
		}
		if !ok {
			out := w.guardBind(c)
			if out.isRaced() {
				continue
			}
			return out
		}
		sa := w.sockaddr[:c.addrLen]
		if target.ReadMemory(c.tid, c.addr, sa) != 0 {
			return answer(unix.EFAULT) // for it could be read the next time
		}
		family, dst, ok := sendDestination(sa)
		if family == unix.AF_INET6 && len(sa) >= linux.SizeofSockaddrIn6Min {
			dst, ok = linux.Inet6Destination(sa), w.socketInfo.Domain == unix.AF_INET6
		}
		if !ok || family == unix.AF_UNSPEC && !dst.Addr().IsUnspecified() || dst.Addr().IsUnspecified() && dst.Port() == 0 {
			// To no address that it could be bound to; or to any port, of which nobody knows yet.
			errno := linux.Bind(old, sa)
			w.closeNow(old)
			return answer(errno)
		}
		if !w.socketInfo.ForgetPort(old) {
			return answer(unix.EINVAL) // as it is bound already
		}
		if out := w.bringBack(c, old, dst); !out.isRaced() && !(out.carriesOn() && w.guards(c)) {
			return out
		}
	}
	return answer(unix.EBADF)
}

// toOrigin has a call made by the kernel, on a socket of the origin.
func (w *callsWorker) toOrigin(c *call) outcome {
	for range maxRaces {
		old, ok := w.idleInEgress(c)
		if !ok {
			return carryOn
		}
		if out := w.bringBack(c, old, netip.AddrPort{}); !out.isRaced() {
			return out
		}
	}
	return answer(unix.EBADF)
}

// listen handles a stopped listen(2).
func (w *callsWorker) listen(c *call) outcome {
	for range maxRaces {
		out := w.toOrigin(c)
		if !out.carriesOn() {
			return out
		}
		if out := w.guardListen(c); !out.isRaced() {
			return out
		}
	}
	return answer(unix.EBADF)
}

// ioctl handles a stopped ioctl(2).
func (w *callsWorker) ioctl(c *call) outcome {
	switch request := uint32(c.args[1]); request {
	case fioSetOwn, siocSPGrp:
		return w.setOwner(c)
	}
	return w.toOrigin(c)
}

// namesInterface reports whether a socket option is about interfaces, which are those of the
// origin.
func namesInterface(level, name int) bool {
	switch level {
	case unix.SOL_SOCKET:
		return name == unix.SO_BINDTODEVICE || name == unix.SO_BINDTOIFINDEX
	case unix.IPPROTO_IP:
		switch name {
		case unix.IP_UNICAST_IF, unix.IP_MULTICAST_IF, unix.IP_ADD_MEMBERSHIP, unix.IP_DROP_MEMBERSHIP, unix.IP_ADD_SOURCE_MEMBERSHIP,
			unix.IP_DROP_SOURCE_MEMBERSHIP, unix.IP_BLOCK_SOURCE, unix.IP_UNBLOCK_SOURCE, unix.IP_MSFILTER:
			return true
		}
		return name >= mcastJoin && name <= mcastMSFilter
	}
	return false
}

// idleInEgress returns a copy of the target's socket, which tidy closes, if it is one of the egress
// that is not connected, and the target is elsewhere. What it is, is then in w.socketInfo.
func (w *callsWorker) idleInEgress(c *call) (fd int, ok bool) { return w.copyInEgress(c, false) }

// copyInEgress is idleInEgress if all is false, and else for whatever connect(2) may connect there.
func (w *callsWorker) copyInEgress(c *call, all bool) (fd int, ok bool) {
	if !w.s.swapped.Load() {
		return -1, false
	}
	seen := w.see(c)
	if v := c.view; seen && (v.Mode&unix.S_IFMT != unix.S_IFSOCK || !linux.IsInet(v.Family) || !w.s.inEgress(v.NetNS)) {
		return -1, false
	}
	fd, errno := w.s.targets.Getfd(c.tid, c.fd)
	if errno != 0 {
		return -1, false
	}
	w.done = append(w.done, fd)
	sock := &w.socketInfo
	switch {
	case seen && !w.saw(c.view, fd), !w.s.inEgress(linux.NetnsCookie(fd)):
	case linux.TypeOf(fd) == unix.SOCK_STREAM:
		ok = sockstate.ExamineStream(fd, sock)
	case all:
		ok = sockstate.ExamineDatagram(fd, sock) || sock.Headers
	default:
		ok = sockstate.ExamineDatagram(fd, sock) && sock.Proto != unix.IPPROTO_ICMP && sock.Proto != unix.IPPROTO_ICMPV6 && !linux.IsConnected(fd)
	}
	if !ok || w.livesIn(c.tid, sock.Netns) {
		w.closeNow(fd)
		return -1, false
	}
	if !w.alone {
		w.pin(uint32(c.tid))
	}
	return fd, true
}

// bringBack replaces the target's socket, of which old is a copy and w.socketInfo tells, by one of
// the origin. The target's call then goes on.
func (w *callsWorker) bringBack(c *call, old int, dst netip.AddrPort) outcome {
	c.back = true
	e := w.newEvent(c, policy.TCP)
	e.Dst, e.Decision = dst, policy.DirectLocal
	s := &swap{c: c, e: &e, old: old, sock: &w.socketInfo}
	if s.sock.Kind == unix.SOCK_STREAM {
		return w.swapStream(s, nil)
	}
	e.Proto = policy.UDP
	return w.swapDatagram(s, nil)
}

// there connects a socket that has been seen to be one of the egress and idle.
func (w *callsWorker) there(c *call, e *event.Pending, sa []byte) outcome {
	fd, out := w.fetch(c, e)
	if !out.isUndecided() {
		return out
	}
	if !w.saw(c.view, fd) {
		w.closeNow(fd)
		return raced
	}
	w.socketInfo = sockstate.Socket{Domain: c.view.Family, Kind: unix.SOCK_STREAM, Proto: c.view.Protocol, Netns: c.view.NetNS, Flags: c.view.Flags}
	return w.again(c, e, fd, &w.socketInfo, sa)
}
