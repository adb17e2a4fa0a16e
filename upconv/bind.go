package upconv

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// A new socket is bound as the program has bound its own. A port that the program has asked for
// must be that one. For one that the kernel has chosen in the origin (bind(2) to port 0), another
// will do where it is taken: the choice that counts is the egress's.

// portChosen reports whether the kernel has chosen the port of a socket.
func (w *worker) portChosen(s *swap) bool {
	sock := s.sock
	if v := s.c.view; v != nil && sock.proto != unix.IPPROTO_MPTCP { // of whose port a subflow knows
		return !v.BoundPort
	}
	return !w.s.ports.asked.has(sock.port())
}

// bindOver binds the new socket as the old one is bound.
func (w *worker) bindOver(s *swap, old int) unix.Errno {
	e, sock, replacement := s.e, s.sock, s.fd
	sock.chosen = w.portChosen(s)
	if sock.resets {
		if !sock.chosen { // as after a native disconnection, which keeps the port that was asked for
			sock.bindAgain(replacement)
		}
		return 0
	}
	if w.s.needs.atSocket() && sock.netns != w.s.origin.Cookie && linux.NetnsCookie(replacement) == w.s.origin.Cookie {
		sock.bindAgain(replacement)
		return 0
	}
	anywhere, errno := sock.bindLike(old, replacement, w.s.origin.Cookie)
	if sock.yields(e, errno, " in the egress") {
		clear(sock.name[2:4])
		anywhere, errno = sock.bindLike(old, replacement, w.s.origin.Cookie)
	}
	if errno != 0 || w.s.events == nil {
		return errno
	}
	if anywhere {
		addr, _ := netip.AddrFromSlice(sock.address())
		e.Add("bound to any address: the egress does not have " + addr.Unmap().String())
	}
	if now := (socket{}); sock.chosen && sock.port() != 0 && now.readName(replacement) && now.port() != sock.port() {
		e.Add("from another port: " + strconv.Itoa(int(sock.port())) + " is not one that the egress chooses from")
	}
	return 0
}

// yields reports whether a port is done without that is taken, as errno says, or that only a
// privilege would give upconv: a send does not fail for want of a port, nor does a connect(2) for
// want of one that nobody has asked for; and bind(2) has given the program what its own namespace
// allows. where is for the event.
func (s *socket) yields(e *event.Pending, errno unix.Errno, where string) bool {
	port := strconv.Itoa(int(s.port()))
	switch {
	case errno == unix.EADDRINUSE && (s.kind != unix.SOCK_STREAM || s.chosen):
		e.Add("from another port: " + port + " is taken" + where)
	case errno == unix.EACCES && s.port() != 0:
		e.Add("from another port: " + port + " takes a privilege" + where + " (net.ipv4.ip_unprivileged_port_start)")
	default:
		return false
	}
	return true
}

// bindLike binds the socket to as s, of which old is a copy, is bound. An address that the egress
// does not have becomes any address, which is reported; the port is kept.
func (s *socket) bindLike(old, to int, origin uint64) (anywhere bool, errno unix.Errno) {
	// A stream that has been swapped before may have a port of the kernel's choice, which means
	// nothing now. That of datagrams is the same whomever they are for.
	if !s.bound || s.netns != origin && s.kind == unix.SOCK_STREAM && s.chosen {
		return false, 0
	}
	name := s.name
	errno = s.bindTo(old, to, name[:s.nameLen])
	if errno != unix.EADDRNOTAVAIL {
		return false, errno
	}
	clear(linux.AddressIn(s.domain, &name))
	if s.port() == 0 {
		return true, 0
	}
	return true, s.bindTo(old, to, name[:s.nameLen])
}

// bindTo binds the socket to to a name with the port of s, of which old is a copy.
func (s *socket) bindTo(old, to int, name []byte) unix.Errno {
	switch {
	case s.port() == 0 && s.kind == unix.SOCK_STREAM:
		return bindAddress(to, name)
	case s.port() != 0 && s.chosen:
		if errno := bindChosen(to, name); errno != unix.ENOPROTOOPT && (errno != unix.EADDRINUSE || !linux.SameNetns(old, to)) {
			return errno
		}
	}
	errno := linux.Bind(to, name)
	if errno == unix.EADDRINUSE && s.port() != 0 && linux.SameNetns(old, to) {
		// The port is taken by the old socket itself.
		errno = bindBeside(old, to, name)
	}
	return errno
}

// bindAgain binds the socket to to the port that s has, which is one of an egress: the program may
// know it. If somebody has it where to is, that gets another one.
func (s *socket) bindAgain(to int) {
	name := s.name
	if s.port() == 0 || s.chosen && bindChosen(to, name[:s.nameLen]) == 0 {
		return
	}
	clear(linux.AddressIn(s.domain, &name))
	linux.Bind(to, name[:s.nameLen])
}

// resume has a socket that was kept be in use again, in the place of s: with no peer, and with its
// port. The kernel takes a port that it has chosen itself from who is disconnected, see
// __udp_disconnect in net/ipv4/udp.c. One that was not used before it was put aside has none yet.
func (s *socket) resume(kept int) {
	var was socket
	switch {
	case !was.readName(kept):
	case was.port() == 0:
		s.chosen = true
		s.bindAgain(kept)
	case linux.IsConnected(kept):
		linux.Disconnect(kept)
		was.chosen = true
		was.bindAgain(kept)
	}
}

// bind binds the socket to, if it is an AF_INET6 one, as the program has bound its own: to the
// port, if there is one.
func (x *crossing) bind(e *event.Pending, sock *socket, old, to int, origin uint64) unix.Errno {
	if !sock.bound || sock.netns != origin && sock.kind == unix.SOCK_STREAM && sock.chosen || x.family() == unix.AF_UNIX { // see bindLike
		return 0
	}
	name := [linux.SizeofSockaddrIn6]byte{}
	binary.NativeEndian.PutUint16(name[:], unix.AF_INET6)
	binary.BigEndian.PutUint16(name[2:], sock.port())
	if addr, _ := netip.AddrFromSlice(sock.address()); addr.Is6() && !addr.Is4In6() {
		copy(name[8:24], sock.address())
	} else if !addr.Unmap().IsUnspecified() {
		e.Add("bound to any address: " + addr.Unmap().String() + " is an IPv4 one")
	}
	if sock.port() == 0 && linux.AllZero(name[8:24]) {
		return 0
	}
	if sock.domain == unix.AF_INET && sock.kind == unix.SOCK_STREAM {
		one := int32(1) // the port of the AF_INET6 socket then has nothing to do with that of the old one
		linux.Setsockopt(to, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unsafe.Pointer(&one), 4)
	}
	errno := sock.bindTo(old, to, name[:])
	if sock.yields(e, errno, "") { // a port that a Unix socket was said to have can be anybody's
		clear(name[2:4])
		clear(sock.name[2:4])
		errno = sock.bindTo(old, to, name[:])
	}
	return errno
}

// bindChosen binds a socket to a name, and has the kernel choose its port out of a range of one
// (ip(7), IP_LOCAL_PORT_RANGE, Linux 6.3): so it is given up when a connect fails. A port that is
// not in the range of the namespace becomes another one.
func bindChosen(to int, name []byte) unix.Errno {
	var before uint32
	port := uint32(binary.BigEndian.Uint16(name[2:]))
	one := port<<16 | port
	if errno := linux.Getsockopt(to, unix.IPPROTO_IP, ipLocalPortRange, unsafe.Pointer(&before), 4); errno != 0 {
		return errno
	}
	if errno := linux.Setsockopt(to, unix.IPPROTO_IP, ipLocalPortRange, unsafe.Pointer(&one), 4); errno != 0 {
		return errno
	}
	var any [linux.SizeofSockaddrIn6]byte
	length := copy(any[:], name)
	clear(any[2:4])
	errno := linux.Bind(to, any[:length])
	linux.Setsockopt(to, unix.IPPROTO_IP, ipLocalPortRange, unsafe.Pointer(&before), 4)
	return errno
}

// bindAddress binds a stream to the address of a name, whose port is 0. It gets a port when it is
// connected, one that need be free for that peer alone. For bind(2) itself one that another
// connection has yet, in TIME_WAIT say, would be taken.
func bindAddress(to int, name []byte) unix.Errno {
	var before int32
	one := int32(1)
	linux.Getsockopt(to, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, unsafe.Pointer(&before), 4)
	linux.Setsockopt(to, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, unsafe.Pointer(&one), 4)
	errno := linux.Bind(to, name)
	linux.Setsockopt(to, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, unsafe.Pointer(&before), 4)
	return errno
}

// bindBeside binds the socket to to a name that old has and is about to lose.
func bindBeside(old, to int, name []byte) unix.Errno {
	var before, beforeOld int32
	one := int32(1)
	linux.Getsockopt(old, unix.SOL_SOCKET, unix.SO_REUSEADDR, unsafe.Pointer(&beforeOld), 4)
	linux.Getsockopt(to, unix.SOL_SOCKET, unix.SO_REUSEADDR, unsafe.Pointer(&before), 4)
	for _, fd := range []int{old, to} {
		if errno := linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, unsafe.Pointer(&one), 4); errno != 0 {
			return errno
		}
	}
	errno := linux.Bind(to, name)
	linux.Setsockopt(to, unix.SOL_SOCKET, unix.SO_REUSEADDR, unsafe.Pointer(&before), 4)
	if errno != 0 {
		linux.Setsockopt(old, unix.SOL_SOCKET, unix.SO_REUSEADDR, unsafe.Pointer(&beforeOld), 4)
	}
	return errno
}

// bind handles a stopped bind(2).
func (w *worker) bind(c *call) outcome {
	w.s.receivers.leave(c)
	if w.s.companions.any() {
		var sa [4]byte // sin_family and sin_port; no port if it cannot be read
		target.ReadMemory(c.tid, c.args[1], sa[:])
		w.s.companions.freePort(sa[:])
	}
	if w.collides(c) {
		return answer(unix.EADDRINUSE)
	}
	if w.s.needs.netns {
		return w.bindAtSocket(c)
	}
	return carryOn
}
