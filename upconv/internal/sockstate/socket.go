package sockstate

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
)

// TCPClose is TCP_CLOSE (netinet/tcp.h): not connected, not connecting, not listening.
const TCPClose = 7

// Socket is what a swap needs to know of the target's socket.
type Socket struct {
	Domain, Proto int
	Kind          int    // SOCK_STREAM, SOCK_DGRAM or SOCK_RAW
	Netns         uint64 // SO_NETNS_COOKIE
	Flags         int    // file status flags, F_GETFL
	// Name is its struct sockaddr_in or sockaddr_in6, getsockname(2); Bound is whether it has one.
	Name    [linux.SizeofSockaddrIn6]byte
	nameLen uint32
	Bound   bool
	// Chosen is whether the kernel has chosen its port, and nobody has asked for it.
	Chosen bool
	// Connected is whether a datagram socket was when it was moved.
	Connected bool
	// Headers is whether it is a raw one that sends with IP headers of the program's making.
	Headers bool
	// Untouched is whether nothing has been done to it, but for what Often says: see sight.go.
	Untouched bool
	Often     int
	// Resets is whether the connection that it has is reset: see disconnect.go.
	Resets bool
	// Inode is of the file, from make on.
	Inode Inode
	// Reads is what has been read besides, in a volley; nil: nothing.
	Reads *Reads
}

// Inode is what fstat(2) tells of a socket: its owner, its mode, and the number that no other one
// has as long as there is a copy of it.
type Inode struct {
	UID, GID int
	Mode     uint32
	Number   uint64
}

// InodeIn returns what stat says.
func InodeIn(stat *unix.Stat_t) Inode {
	return Inode{int(stat.Uid), int(stat.Gid), stat.Mode, stat.Ino}
}

// ExamineStream reads what a swap needs to know of a stream, with as few calls as will do. idle is
// false where it is not a TCP or MPTCP socket, or is one that is connected, connecting or
// listening.
func ExamineStream(fd int, s *Socket) (idle bool) {
	return s.ReadStream(fd) && s.ReadIdle(fd) && s.ReadFlags(fd)
}

// ReadIdle reads netns, if it is not known. It is false for a stream that is connected, connecting
// or listening.
func (s *Socket) ReadIdle(fd int) (idle bool) {
	if s.Port() != 0 || s.Proto == unix.IPPROTO_MPTCP { // only a socket with a port can be in another state
		var state uint8
		if linux.Getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&state), 1) != 0 || state != TCPClose {
			return false
		}
	}
	return s.Netns != 0 || s.readNetns(fd)
}

// ReadStream reads what a TCP or MPTCP socket is, and its name. It is false for any other stream;
// whoever calls it knows that fd is one.
func (s *Socket) ReadStream(fd int) bool {
	*s = Socket{}
	var proto int32
	if linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 ||
		proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP {
		return false
	}
	s.Proto, s.Kind = int(proto), unix.SOCK_STREAM
	if !s.ReadName(fd) {
		return false
	}
	s.named()
	return true
}

// named derives domain and bound of a stream from name.
func (s *Socket) named() {
	s.Domain = int(binary.NativeEndian.Uint16(s.Name[:]))
	s.Bound = s.Port() != 0 || !linux.AllZero(s.Address())
}

// ReadName reads what getsockname(2) tells: name, and with it domain. It is false for what has no
// name of IPv4 or IPv6.
func (s *Socket) ReadName(fd int) bool {
	s.nameLen = uint32(len(s.Name))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.Name)), uintptr(unsafe.Pointer(&s.nameLen)))
	if errno != 0 || s.nameLen < linux.SizeofSockaddrIn {
		return false
	}
	s.Domain = int(binary.NativeEndian.Uint16(s.Name[:]))
	return true
}

// ReadPlace reads netns and flags.
func (s *Socket) ReadPlace(fd int) (ok bool) { return s.readNetns(fd) && s.ReadFlags(fd) }

// readNetns reads netns. It is false for what is not a socket.
func (s *Socket) readNetns(fd int) (ok bool) {
	s.Netns = linux.NetnsCookie(fd)
	return s.Netns != 0
}

// ReadFlags reads flags.
func (s *Socket) ReadFlags(fd int) (ok bool) {
	s.Flags, ok = linux.FlagsOf(fd)
	return ok
}

// Port returns the port in Name, 0 for none.
func (s *Socket) Port() uint16 { return binary.BigEndian.Uint16(s.Name[2:]) }

// Address is the bytes of the IP address within name.
func (s *Socket) Address() []byte { return linux.AddressIn(s.Domain, &s.Name) }

// ExamineDatagram reads what a swap needs to know. ok is false where fd is no socket that datagrams
// are moved for: another protocol, or a raw socket, but for ICMP's, with which ping(8) and
// traceroute(8) work.
func ExamineDatagram(fd int, s *Socket) (ok bool) {
	*s = Socket{}
	var proto, kind int32
	if linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&kind), 4) != 0 ||
		linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 {
		return false
	}
	switch {
	case kind == unix.SOCK_DGRAM && (proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_UDPLITE || proto == unix.IPPROTO_ICMP):
	case kind == unix.SOCK_DGRAM && proto == unix.IPPROTO_ICMPV6: // so is one that took the place of an ICMP socket
	case kind == unix.SOCK_RAW && proto == unix.IPPROTO_ICMP:
		s.Headers = SendsHeaders(fd) // it could say that it is anybody
	default:
		return false
	}
	s.Proto, s.Kind = int(proto), int(kind)
	if !s.ReadName(fd) {
		return false
	}
	if s.Kind == unix.SOCK_RAW { // the "port" of a raw socket is its protocol
		s.Name[2], s.Name[3] = 0, 0
	}
	s.Bound = s.Port() != 0 || !linux.AllZero(s.Address())
	return s.ReadPlace(fd) && !s.Headers
}

// SendsHeaders reports whether a raw socket sends with IP headers of the program's making.
func SendsHeaders(fd int) bool {
	var on int32
	return linux.Getsockopt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, unsafe.Pointer(&on), 4) != 0 || on != 0
}

// AsMade has s, an AF_INET6 socket that took the place of another, be what the program made.
func (s *Socket) AsMade(p *passport.Passport) {
	s.Proto = p.Proto
	if s.Domain == p.Family {
		s.Bound = s.Port() != 0
	} else {
		s.setName(p.Family, s.Port()) // its address means nothing in the other family
	}
}

// setName gives s a family, and a name of that which has no address.
func (s *Socket) setName(family int, port uint16) {
	s.Domain, s.Bound = family, port != 0
	s.Name, s.nameLen = [linux.SizeofSockaddrIn6]byte{}, linux.SizeofSockaddrIn
	if family == unix.AF_INET6 {
		s.nameLen = linux.SizeofSockaddrIn6
	}
	binary.NativeEndian.PutUint16(s.Name[:], uint16(family))
	binary.BigEndian.PutUint16(s.Name[2:], port)
}

// AsMadeUnix has s be what the program made that the Unix socket fd took the place of, which was in
// the namespace netns.
func (s *Socket) AsMadeUnix(fd int, p *passport.Passport, netns uint64) (ok bool) {
	*s = Socket{Kind: linux.KindOf(p.Proto), Proto: p.Proto, Netns: netns}
	s.setName(p.Family, p.LocalPort)
	s.Flags, ok = linux.FlagsOf(fd)
	return ok
}

// ForgetPort has s have no port. It is false if the socket fd, which s tells of, has one. A
// connect(2) that fails gives the port up, but getsockname(2) goes on saying its number. So fd,
// which is about to be replaced, is bound to any other port: that says EINVAL if it has one.
func (s *Socket) ForgetPort(fd int) bool {
	if s.Port() == 0 {
		return true
	}
	var anywhere [linux.SizeofSockaddrIn6]byte
	binary.NativeEndian.PutUint16(anywhere[:], uint16(s.Domain))
	if linux.Bind(fd, anywhere[:]) != 0 {
		return false
	}
	clear(s.Name[2:4]) // sin_port
	s.Bound = false
	return true
}
