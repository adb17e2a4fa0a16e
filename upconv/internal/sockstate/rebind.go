package sockstate

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// BindLike binds the socket to as s, of which old is a copy, is bound. An address that the egress
// does not have becomes any address, which is reported; the port is kept.
func (s *Socket) BindLike(old, to int, origin uint64) (anywhere bool, errno unix.Errno) {
	// A stream that has been swapped before may have a port of the kernel's choice, which means
	// nothing now. That of datagrams is the same whomever they are for.
	if !s.Bound || s.Netns != origin && s.Kind == unix.SOCK_STREAM && s.Chosen {
		return false, 0
	}
	name := s.Name
	errno = s.BindTo(old, to, name[:s.nameLen])
	if errno != unix.EADDRNOTAVAIL {
		return false, errno
	}
	clear(linux.AddressIn(s.Domain, &name))
	if s.Port() == 0 {
		return true, 0
	}
	return true, s.BindTo(old, to, name[:s.nameLen])
}

// BindTo binds the socket to to a name with the port of s, of which old is a copy.
func (s *Socket) BindTo(old, to int, name []byte) unix.Errno {
	switch {
	case s.Port() == 0 && s.Kind == unix.SOCK_STREAM:
		return bindAddress(to, name)
	case s.Port() != 0 && s.Chosen:
		if errno := bindChosen(to, name); errno != unix.ENOPROTOOPT && (errno != unix.EADDRINUSE || !linux.SameNetns(old, to)) {
			return errno
		}
	}
	errno := linux.Bind(to, name)
	if errno == unix.EADDRINUSE && s.Port() != 0 && linux.SameNetns(old, to) {
		// The port is taken by the old socket itself.
		errno = bindBeside(old, to, name)
	}
	return errno
}

// BindAgain binds the socket to to the port that s has, which is one of an egress: the program may
// know it. If somebody has it where to is, that gets another one.
func (s *Socket) BindAgain(to int) {
	name := s.Name
	if s.Port() == 0 || s.Chosen && bindChosen(to, name[:s.nameLen]) == 0 {
		return
	}
	clear(linux.AddressIn(s.Domain, &name))
	linux.Bind(to, name[:s.nameLen])
}

// Resume has a socket that was kept be in use again, in the place of s: with no peer, and with its
// port. The kernel takes a port that it has chosen itself from who is disconnected, see
// __udp_disconnect in net/ipv4/udp.c. One that was not used before it was put aside has none yet.
func (s *Socket) Resume(kept int) {
	var was Socket
	switch {
	case !was.ReadName(kept):
	case was.Port() == 0:
		s.Chosen = true
		s.BindAgain(kept)
	case linux.IsConnected(kept):
		linux.Disconnect(kept)
		was.Chosen = true
		was.BindAgain(kept)
	}
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

// CopyOwner gives the file to the owner and the signal of the file from: fcntl(2), F_SETOWN_EX and
// F_SETSIG. Who that is in the target's pid namespace does not matter: the kernel keeps a
// reference.
func CopyOwner(from, to int) {
	var owner struct{ kind, pid int32 } // struct f_owner_ex
	if _, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(from), unix.F_GETOWN_EX, uintptr(unsafe.Pointer(&owner))); errno == 0 && owner.pid != 0 {
		unix.RawSyscall(unix.SYS_FCNTL, uintptr(to), unix.F_SETOWN_EX, uintptr(unsafe.Pointer(&owner)))
	}
	if sig, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(from), unix.F_GETSIG, 0); errno == 0 && sig != 0 {
		unix.RawSyscall(unix.SYS_FCNTL, uintptr(to), unix.F_SETSIG, sig)
	}
}
