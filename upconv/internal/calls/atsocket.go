package calls

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/swap"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// Swapping at socket(2): the program is given a socket of the egress to begin with, so that in a
// connect(2) that goes there nothing is swapped any more. What turns out to be about the origin
// takes the socket back there before the kernel makes the call: bind(2) to anything that means a
// server or an address of one's own, listen(2), an interface.
//
// A socket of the egress that is not connected could reach whatever is there, its loopback, say. So
// no call that has an address is left to the kernel while it is about such a socket: see guard.go,
// and the package datagram. The exception is what the user has chosen with policy.UDPConnected:
// that nothing is stopped where datagrams are sent.

// sockTypeMask is what of the type of a socket is not flags: SOCK_TYPE_MASK, linux/net.h.
const sockTypeMask = 0xf

// Options of IP about multicast, the first and the last: linux/in.h.
const (
	mcastJoin     = 42 // MCAST_JOIN_GROUP
	mcastMSFilter = 48 // MCAST_MSFILTER
)

// socketCall handles a stopped socket(2). Whatever is not made in the egress, or cannot be, is left
// to the kernel: the policy is then followed at connect(2).
func (w *Worker) socketCall(c *session.Call) session.Outcome {
	kind, proto := int(int32(c.Args[1])), int(int32(c.Args[2]))
	flags := kind &^ sockTypeMask
	kind &= sockTypeMask
	if int32(c.Args[0]) == linux.AFSMC || proto == sockstate.IPProtoSMC {
		w.s.Used.Others.Store(true)
		return session.CarryOn
	}
	switch {
	case int32(c.Args[0]) != unix.AF_INET || flags&^(unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC) != 0:
		return session.CarryOn
	case kind == unix.SOCK_STREAM && w.s.Needs.Streams:
		if proto == 0 {
			proto = unix.IPPROTO_TCP
		}
		if proto != unix.IPPROTO_TCP && !(proto == unix.IPPROTO_MPTCP && w.s.Origin.Egress != nil) {
			return session.CarryOn
		}
	case kind == unix.SOCK_DGRAM && w.s.Needs.Datagrams && w.s.Origin.Egress != nil:
		if proto == 0 {
			proto = unix.IPPROTO_UDP
		}
		if proto != unix.IPPROTO_UDP && proto != unix.IPPROTO_UDPLITE {
			return session.CarryOn
		}
	default:
		return session.CarryOn
	}
	of := policy.TCP
	if kind == unix.SOCK_DGRAM {
		of = policy.UDP
	}
	rules := w.s.Rules.Load()
	route := rules.Policy.NamespaceFor(of)
	if route == nil {
		return session.CarryOn
	}
	egress := rules.Egress[route.Target]
	if !w.MayWait() {
		w.Pin(uint32(c.TID))
	}
	uid, gid, ok := w.s.Targets.InNamespace(c.TID, w.s.Origin.Inode, w.Scratch[:])
	if !ok {
		return session.CarryOn // the target went to a namespace of its own: not ours there
	}
	fd, errno := w.Socket(egress, unix.AF_INET, kind, proto)
	if errno != 0 {
		return session.CarryOn
	}
	w.Done = append(w.Done, fd)
	if uid != w.s.UID || gid != w.s.GID {
		unix.RawSyscall(unix.SYS_FCHOWN, uintptr(fd), uintptr(uid), uintptr(gid))
	}
	if flags&unix.SOCK_NONBLOCK == 0 {
		linux.SetFlags(fd, unix.O_RDWR)
	}
	// Before the program can do anything with it.
	w.s.Swapped.Store(true)
	if kind == unix.SOCK_DGRAM {
		w.s.Moved.Store(true)
	}
	if egress.Cookie == w.s.Origin.Cookie {
		w.s.Made.Add(fd)
	}
	_, err := w.s.Listener.AddFD(c.ID, seccompx.AddFD{Source: fd, CloseOnExec: flags&unix.SOCK_CLOEXEC != 0, Send: true})
	w.CloseNow(fd)
	switch errno := linux.ErrnoOf(err); errno {
	case 0:
		return session.Elsewhere // the number is the answer
	case unix.ENOENT, unix.ESRCH:
		return session.CarryOn // the target is gone; nobody will read the answer
	default: // EMFILE
		return session.Answer(errno)
	}
}

// bindAtSocket decides about a bind(2) where sockets may be in an egress: an idle one goes back to
// the origin first, and what must not be left to the kernel upconv makes.
func (w *Worker) bindAtSocket(c *session.Call) session.Outcome {
	c.Addr, c.AddrLen = c.Args[1], uint32(c.Args[2])
	for range session.MaxRaces {
		old, sock := -1, (*sockstate.Socket)(nil)
		if c.AddrLen >= linux.SizeofSockaddrIn && c.AddrLen <= linux.SizeofSockaddrStorage {
			old, sock = w.idleInEgress(c)
		}
		if sock == nil {
			out := w.guardBind(c)
			if out.IsRaced() {
				continue
			}
			return out
		}
		sa := w.Sockaddr[:c.AddrLen]
		if target.ReadMemory(c.TID, c.Addr, sa) != 0 {
			return session.Answer(unix.EFAULT) // for it could be read the next time
		}
		family, dst, ok := datagram.SendDestination(sa)
		if family == unix.AF_INET6 && len(sa) >= linux.SizeofSockaddrIn6Min {
			dst, ok = linux.Inet6Destination(sa), sock.Domain == unix.AF_INET6
		}
		if !ok || family == unix.AF_UNSPEC && !dst.Addr().IsUnspecified() || dst.Addr().IsUnspecified() && dst.Port() == 0 {
			// To no address that it could be bound to; or to any port, of which nobody knows yet.
			errno := linux.Bind(old, sa)
			w.CloseNow(old)
			return session.Answer(errno)
		}
		if !sock.ForgetPort(old) {
			return session.Answer(unix.EINVAL) // as it is bound already
		}
		if out := w.bringBack(c, old, sock, dst); !out.IsRaced() && !(out.CarriesOn() && w.Guards(c)) {
			return out
		}
	}
	return session.Answer(unix.EBADF)
}

// toOrigin has a call made by the kernel, on a socket of the origin.
func (w *Worker) toOrigin(c *session.Call) session.Outcome {
	for range session.MaxRaces {
		old, sock := w.idleInEgress(c)
		if sock == nil {
			return session.CarryOn
		}
		if out := w.bringBack(c, old, sock, netip.AddrPort{}); !out.IsRaced() {
			return out
		}
	}
	return session.Answer(unix.EBADF)
}

// ioctl handles a stopped ioctl(2).
func (w *Worker) ioctl(c *session.Call) session.Outcome {
	switch request := uint32(c.Args[1]); request {
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

// idleInEgress returns a copy of the target's socket, which Tidy closes, and what it is, if it is
// one of the egress that is not connected, and the target is elsewhere. Else sock is nil.
func (w *Worker) idleInEgress(c *session.Call) (fd int, sock *sockstate.Socket) {
	return w.copyInEgress(c, false)
}

// copyInEgress is idleInEgress if all is false, and else for whatever connect(2) may connect there.
func (w *Worker) copyInEgress(c *session.Call, all bool) (fd int, sock *sockstate.Socket) {
	if !w.s.Swapped.Load() {
		return -1, nil
	}
	seen := w.See(c)
	if v := c.View; seen && (v.Mode&unix.S_IFMT != unix.S_IFSOCK || !linux.IsInet(v.Family) || !w.s.InEgress(v.NetNS)) {
		return -1, nil
	}
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	if errno != 0 {
		return -1, nil
	}
	w.Done = append(w.Done, fd)
	ok := false
	sock = w.SocketMemory()
	switch {
	case seen && !w.Saw(c.View, fd), !w.s.InEgress(linux.NetnsCookie(fd)):
	case linux.TypeOf(fd) == unix.SOCK_STREAM:
		ok = sockstate.ExamineStream(fd, sock)
	case all:
		ok = sockstate.ExamineDatagram(fd, sock) || sock.Headers
	default:
		ok = sockstate.ExamineDatagram(fd, sock) && sock.Proto != unix.IPPROTO_ICMP && sock.Proto != unix.IPPROTO_ICMPV6 && !linux.IsConnected(fd)
	}
	if !ok || w.LivesIn(c.TID, sock.Netns) {
		w.CloseNow(fd)
		return -1, nil
	}
	if !w.MayWait() {
		w.Pin(uint32(c.TID))
	}
	return fd, sock
}

// bringBack replaces the target's socket, of which old is a copy, by one of the origin. The
// target's call then goes on.
func (w *Worker) bringBack(c *session.Call, old int, sock *sockstate.Socket, dst netip.AddrPort) session.Outcome {
	e := w.NewEvent(c, policy.TCP)
	e.Dst, e.Decision = dst, policy.DirectLocal
	s := &swap.Swap{Call: c, Event: &e, Old: old, Socket: sock}
	if sock.Kind == unix.SOCK_STREAM {
		return w.BringBackStream(s)
	}
	e.Proto = policy.UDP
	return w.BringBackDatagram(s)
}

// connectSeen connects a socket that has been seen to be one of the egress and idle.
func (w *Worker) connectSeen(c *session.Call, e *event.Pending, sa []byte) session.Outcome {
	fd, out := w.Fetch(c, e)
	if !out.IsUndecided() {
		return out
	}
	if !w.Saw(c.View, fd) {
		w.CloseNow(fd)
		return session.Raced
	}
	sock := w.SocketMemory()
	*sock = sockstate.Socket{Domain: c.View.Family, Kind: unix.SOCK_STREAM, Proto: c.View.Protocol, Netns: c.View.NetNS, Flags: c.View.Flags}
	return w.ConnectInPlace(c, e, fd, sock, sa)
}
