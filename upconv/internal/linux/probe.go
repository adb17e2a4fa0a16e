package linux

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProbeConnect calls connect(2) with an address that no socket of the family domain can be
// connected to, so that nothing comes of it, even if the program disconnects the socket at this
// moment. One that is not idle takes no notice of the address, and says what it does to any other:
// EISCONN, EALREADY, or what has become of a connect(2) that nobody has waited for. idle is true
// where it was the address that is wrong.
//
// Each family's connect looks at the length, then at the family: tcp_v4_connect in
// net/ipv4/tcp_ipv4.c, tcp_v6_connect in net/ipv6/tcp_ipv6.c. SELinux knows both of these
// addresses.
func ProbeConnect(fd, domain int) (errno unix.Errno, idle bool) {
	var sa [SizeofSockaddrIn6]byte
	length, wrong := SizeofSockaddrIn6, unix.EAFNOSUPPORT
	binary.NativeEndian.PutUint16(sa[:], unix.AF_INET6)
	if domain == unix.AF_INET6 {
		length, wrong = SizeofSockaddrIn, unix.EINVAL
		binary.NativeEndian.PutUint16(sa[:], unix.AF_INET)
		// IPV6_ADDRFORM turns sockets into those of AF_INET. They would say ENETUNREACH.
		copy(sa[4:], []byte{255, 255, 255, 255})
	}
	// Should the program have begun another connect this very moment it waits; so not a RawSyscall.
	_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(length))
	return errno, errno == wrong
}

// TCPState returns the state of a TCP or MPTCP socket, 0 where it does not say.
func TCPState(fd int) (state uint8) {
	Getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&state), 1)
	return state
}

// States of a TCP socket, netinet/tcp.h, in which connect(2) waits, or is told off.
const (
	TCPSynSent = 2
	TCPSynRecv = 3
	TCPListen  = 10
)
