package swap

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// A new socket is bound as the program has bound its own. A port that the program has asked for
// must be that one. For one that the kernel has chosen in the origin (bind(2) to port 0), another
// will do where it is taken: the choice that counts is the egress's.

// portChosen reports whether the kernel has chosen the port of a socket.
func (w *Worker) portChosen(s *Swap) bool {
	sock := s.Socket
	if v := s.Call.View; v != nil && sock.Proto != unix.IPPROTO_MPTCP { // of whose port a subflow knows
		return !v.BoundPort
	}
	return !w.s.AskedPorts.Has(sock.Port())
}

// bindOver binds the new socket as the old one is bound.
func (w *Worker) bindOver(s *Swap, old int) unix.Errno {
	e, sock, replacement := s.Event, s.Socket, s.FD
	sock.Chosen = w.portChosen(s)
	if sock.Resets {
		if !sock.Chosen { // as after a native disconnection, which keeps the port that was asked for
			sock.BindAgain(replacement)
		}
		return 0
	}
	if w.s.Needs.AtSocket() && sock.Netns != w.s.Origin.Cookie && linux.NetnsCookie(replacement) == w.s.Origin.Cookie {
		sock.BindAgain(replacement)
		return 0
	}
	anywhere, errno := sock.BindLike(old, replacement, w.s.Origin.Cookie)
	if yields(sock, e, errno, " in the egress") {
		clear(sock.Name[2:4])
		anywhere, errno = sock.BindLike(old, replacement, w.s.Origin.Cookie)
	}
	if errno != 0 || w.s.Events == nil {
		return errno
	}
	if anywhere {
		addr, _ := netip.AddrFromSlice(sock.Address())
		e.Add("bound to any address: the egress does not have " + addr.Unmap().String())
	}
	if now := (sockstate.Socket{}); sock.Chosen && sock.Port() != 0 && now.ReadName(replacement) && now.Port() != sock.Port() {
		e.Add("from another port: " + strconv.Itoa(int(sock.Port())) + " is not one that the egress chooses from")
	}
	return 0
}

// yields reports whether a port is done without that is taken, as errno says, or that only a
// privilege would give upconv: a send does not fail for want of a port, nor does a connect(2) for
// want of one that nobody has asked for; and bind(2) has given the program what its own namespace
// allows. where is for the event.
func yields(s *sockstate.Socket, e *event.Pending, errno unix.Errno, where string) bool {
	port := strconv.Itoa(int(s.Port()))
	switch {
	case errno == unix.EADDRINUSE && (s.Kind != unix.SOCK_STREAM || s.Chosen):
		e.Add("from another port: " + port + " is taken" + where)
	case errno == unix.EACCES && s.Port() != 0:
		e.Add("from another port: " + port + " takes a privilege" + where + " (net.ipv4.ip_unprivileged_port_start)")
	default:
		return false
	}
	return true
}

// bindAcross binds the new socket, if it is an AF_INET6 one, as the program has bound its own: to
// the port, if there is one.
func (s *Swap) bindAcross(old int, origin uint64) unix.Errno {
	e, sock, x, to := s.Event, s.Socket, s.Crossing, s.FD
	if !sock.Bound || sock.Netns != origin && sock.Kind == unix.SOCK_STREAM && sock.Chosen || x.Family() == unix.AF_UNIX { // see sockstate.Socket.BindLike
		return 0
	}
	name := [linux.SizeofSockaddrIn6]byte{}
	binary.NativeEndian.PutUint16(name[:], unix.AF_INET6)
	binary.BigEndian.PutUint16(name[2:], sock.Port())
	if addr, _ := netip.AddrFromSlice(sock.Address()); addr.Is6() && !addr.Is4In6() {
		copy(name[8:24], sock.Address())
	} else if !addr.Unmap().IsUnspecified() {
		e.Add("bound to any address: " + addr.Unmap().String() + " is an IPv4 one")
	}
	if sock.Port() == 0 && linux.AllZero(name[8:24]) {
		return 0
	}
	if sock.Domain == unix.AF_INET && sock.Kind == unix.SOCK_STREAM {
		one := int32(1) // the port of the AF_INET6 socket then has nothing to do with that of the old one
		linux.Setsockopt(to, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unsafe.Pointer(&one), 4)
	}
	errno := sock.BindTo(old, to, name[:])
	if yields(sock, e, errno, "") { // a port that a Unix socket was said to have can be anybody's
		clear(name[2:4])
		clear(sock.Name[2:4])
		errno = sock.BindTo(old, to, name[:])
	}
	return errno
}
