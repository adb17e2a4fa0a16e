package upconv

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
)

// tcpClose is TCP_CLOSE (netinet/tcp.h): not connected, not connecting, not listening.
const tcpClose = 7

// socket is what a swap needs to know of the target's socket.
type socket struct {
	domain, proto int
	kind          int    // SOCK_STREAM, SOCK_DGRAM or SOCK_RAW
	netns         uint64 // SO_NETNS_COOKIE
	flags         int    // file status flags, F_GETFL
	// name is its struct sockaddr_in or sockaddr_in6, getsockname(2); bound is whether it has one.
	name    [linux.SizeofSockaddrIn6]byte
	nameLen uint32
	bound   bool
	// chosen is whether the kernel has chosen its port, and nobody has asked for it; see
	// worker.portChosen.
	chosen bool
	// connected is whether a datagram socket was when it was moved.
	connected bool
	// headers is whether it is a raw one that sends with IP headers of the program's making.
	headers bool
	// untouched is whether untouchedUDP says so, and often what else.
	untouched bool
	often     int
	// resets is whether the connection that it has is reset: see disconnectCall.
	resets bool
	// inode is of the file, from make on.
	inode inode
	// reads is what readTCP has read besides; nil: nothing.
	reads *reads
}

// inode is what fstat(2) tells of a socket: its owner, its mode, and the number that no other one has
// as long as there is a copy of it.
type inode struct {
	uid, gid int
	mode     uint32
	number   uint64
}

func inodeIn(stat *unix.Stat_t) inode {
	return inode{int(stat.Uid), int(stat.Gid), stat.Mode, stat.Ino}
}

// examine reads what a swap needs to know of a stream, with as few calls as will do. idle is false
// where it is not a TCP or MPTCP socket, or is one that is connected, connecting or listening.
func examine(fd int, s *socket) (idle bool) {
	return s.readStream(fd) && s.readIdle(fd) && s.readFlags(fd)
}

// readIdle reads netns, if it is not known. It is false for a stream that is connected, connecting
// or listening.
func (s *socket) readIdle(fd int) (idle bool) {
	if s.port() != 0 || s.proto == unix.IPPROTO_MPTCP { // only a socket with a port can be in another state
		var state uint8
		if linux.Getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&state), 1) != 0 || state != tcpClose {
			return false
		}
	}
	return s.netns != 0 || s.readNetns(fd)
}

// readStream reads what a TCP or MPTCP socket is, and its name. It is false for any other stream;
// whoever calls it knows that fd is one.
func (s *socket) readStream(fd int) bool {
	*s = socket{}
	var proto int32
	if linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 ||
		proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP {
		return false
	}
	s.proto, s.kind = int(proto), unix.SOCK_STREAM
	if !s.readName(fd) {
		return false
	}
	s.named()
	return true
}

// named derives domain and bound of a stream from name.
func (s *socket) named() {
	s.domain = int(binary.NativeEndian.Uint16(s.name[:]))
	s.bound = s.port() != 0 || !linux.AllZero(s.address())
}

// readName reads what getsockname(2) tells: name, and with it domain. It is false for what has no
// name of IPv4 or IPv6.
func (s *socket) readName(fd int) bool {
	s.nameLen = uint32(len(s.name))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.name)), uintptr(unsafe.Pointer(&s.nameLen)))
	if errno != 0 || s.nameLen < linux.SizeofSockaddrIn {
		return false
	}
	s.domain = int(binary.NativeEndian.Uint16(s.name[:]))
	return true
}

// readPlace reads netns and flags.
func (s *socket) readPlace(fd int) (ok bool) { return s.readNetns(fd) && s.readFlags(fd) }

// readNetns reads netns. It is false for what is not a socket.
func (s *socket) readNetns(fd int) (ok bool) {
	s.netns = linux.NetnsCookie(fd)
	return s.netns != 0
}

// readFlags reads flags.
func (s *socket) readFlags(fd int) (ok bool) {
	s.flags, ok = linux.FlagsOf(fd)
	return ok
}

func (s *socket) port() uint16 { return binary.BigEndian.Uint16(s.name[2:]) }

// address is the bytes of the IP address within name.
func (s *socket) address() []byte { return linux.AddressIn(s.domain, &s.name) }

// examineDatagram reads what a swap needs to know. ok is false where fd is no socket that datagrams
// are moved for: another protocol, or a raw socket, but for ICMP's, with which ping(8) and
// traceroute(8) work.
func examineDatagram(fd int, s *socket) (ok bool) {
	*s = socket{}
	var proto, kind int32
	if linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&kind), 4) != 0 ||
		linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 {
		return false
	}
	switch {
	case kind == unix.SOCK_DGRAM && (proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_UDPLITE || proto == unix.IPPROTO_ICMP):
	case kind == unix.SOCK_DGRAM && proto == unix.IPPROTO_ICMPV6: // so is one that took the place of an ICMP socket
	case kind == unix.SOCK_RAW && proto == unix.IPPROTO_ICMP:
		s.headers = sendsHeaders(fd) // it could say that it is anybody
	default:
		return false
	}
	s.proto, s.kind = int(proto), int(kind)
	if !s.readName(fd) {
		return false
	}
	if s.kind == unix.SOCK_RAW { // the "port" of a raw socket is its protocol
		s.name[2], s.name[3] = 0, 0
	}
	s.bound = s.port() != 0 || !linux.AllZero(s.address())
	return s.readPlace(fd) && !s.headers
}

// sendsHeaders reports whether a raw socket sends with IP headers of the program's making.
func sendsHeaders(fd int) bool {
	var on int32
	return linux.Getsockopt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, unsafe.Pointer(&on), 4) != 0 || on != 0
}

// asMade has s, an AF_INET6 socket that took the place of another, be what the program made.
func (s *socket) asMade(p *passport.Passport) {
	s.proto = p.Proto
	if s.domain == p.Family {
		s.bound = s.port() != 0
	} else {
		s.setName(p.Family, s.port()) // its address means nothing in the other family
	}
}

// setName gives s a family, and a name of that which has no address.
func (s *socket) setName(family int, port uint16) {
	s.domain, s.bound = family, port != 0
	s.name, s.nameLen = [linux.SizeofSockaddrIn6]byte{}, linux.SizeofSockaddrIn
	if family == unix.AF_INET6 {
		s.nameLen = linux.SizeofSockaddrIn6
	}
	binary.NativeEndian.PutUint16(s.name[:], uint16(family))
	binary.BigEndian.PutUint16(s.name[2:], port)
}

// asMadeUnix has s be what the program made that the Unix socket fd took the place of, which was in
// the namespace netns.
func (s *socket) asMadeUnix(fd int, p *passport.Passport, netns uint64) (ok bool) {
	*s = socket{kind: linux.KindOf(p.Proto), proto: p.Proto, netns: netns}
	s.setName(p.Family, p.LocalPort)
	s.flags, ok = linux.FlagsOf(fd)
	return ok
}

// forgetPort has s have no port. It is false if the socket fd, which s tells of, has one. A
// connect(2) that fails gives the port up, but getsockname(2) goes on saying its number. So fd,
// which is about to be replaced, is bound to any other port: that says EINVAL if it has one.
func (s *socket) forgetPort(fd int) bool {
	if s.port() == 0 {
		return true
	}
	var anywhere [linux.SizeofSockaddrIn6]byte
	binary.NativeEndian.PutUint16(anywhere[:], uint16(s.domain))
	if linux.Bind(fd, anywhere[:]) != 0 {
		return false
	}
	clear(s.name[2:4]) // sin_port
	s.bound = false
	return true
}
