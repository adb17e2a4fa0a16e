package linux

import (
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TypeOf returns SO_TYPE, 0 for what is not a socket.
func TypeOf(fd int) int {
	var kind int32
	Getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&kind), 4)
	return int(kind)
}

// DomainOf returns SO_DOMAIN, 0 for what is not a socket.
func DomainOf(fd int) int {
	var domain int32
	Getsockopt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4)
	return int(domain)
}

// ProtocolOf returns SO_PROTOCOL, 0 for what is not a socket.
func ProtocolOf(fd int) int {
	var proto int32
	Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4)
	return int(proto)
}

// KindOf returns the type of the sockets of a protocol.
func KindOf(proto int) int {
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_MPTCP:
		return unix.SOCK_STREAM
	}
	return unix.SOCK_DGRAM
}

// IsInet reports whether an address family is that of IPv4 or IPv6.
func IsInet(family int) bool { return family == unix.AF_INET || family == unix.AF_INET6 }

// IsDatagramType reports whether sockets of a type send datagrams over IP.
func IsDatagramType(kind int) bool { return kind == unix.SOCK_DGRAM || kind == unix.SOCK_RAW }

// IsConnected reports whether a socket has a peer.
func IsConnected(fd int) bool {
	var name [SizeofSockaddrStorage]byte
	return SocketName(fd, true, &name)
}

// OnlyIPv6 reports whether an AF_INET6 socket takes no IPv4-mapped addresses.
func OnlyIPv6(fd int) bool {
	var only int32
	return Getsockopt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unsafe.Pointer(&only), 4) == 0 && only != 0
}

// CookieOf returns SO_COOKIE, which no other socket of this machine has; 0 for what is not a
// socket.
func CookieOf(fd int) (cookie uint64) {
	Getsockopt(fd, unix.SOL_SOCKET, unix.SO_COOKIE, unsafe.Pointer(&cookie), 8)
	return cookie
}

// NetnsCookie returns SO_NETNS_COOKIE, 0 for what is not a socket.
func NetnsCookie(fd int) (cookie uint64) {
	Getsockopt(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, unsafe.Pointer(&cookie), 8)
	return cookie
}

// SameNetns reports whether two sockets are in one network namespace.
func SameNetns(a, b int) bool { return NetnsCookie(a) == NetnsCookie(b) }

// InodeOf returns the inode number of an open file, 0 if there is none.
func InodeOf(fd int) uint64 {
	var stat unix.Stat_t
	unix.Fstat(fd, &stat)
	return stat.Ino
}

// TimeoutOf returns SO_SNDTIMEO, which is how long sends and connect(2) may take, or SO_RCVTIMEO; 0
// for as long as they want. A time that is too long for a time.Duration is as long as that can be.
func TimeoutOf(fd, option int) time.Duration {
	var t unix.Timeval
	Getsockopt(fd, unix.SOL_SOCKET, option, unsafe.Pointer(&t), unsafe.Sizeof(t))
	if t.Sec >= math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(t.Nano())
}

// SocketName reads the name of a socket, or of its peer.
func SocketName(fd int, peer bool, to *[SizeofSockaddrStorage]byte) (ok bool) {
	call := uintptr(unix.SYS_GETSOCKNAME)
	if peer {
		call = unix.SYS_GETPEERNAME
	}
	length := uint32(len(to))
	_, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&length)))
	return errno == 0
}

// CopyBuffer gives the buffer of to the size of that of from. A size above rmem_max or wmem_max was
// set with a privilege; without it, as much as is allowed.
func CopyBuffer(from, to, name, privileged int) (same bool) {
	var size, got int32
	Getsockopt(from, unix.SOL_SOCKET, name, unsafe.Pointer(&size), 4)
	half := size / 2 // socket(7): the kernel doubles what is set
	if Setsockopt(to, unix.SOL_SOCKET, privileged, unsafe.Pointer(&half), 4) != 0 {
		Setsockopt(to, unix.SOL_SOCKET, name, unsafe.Pointer(&half), 4)
	}
	Getsockopt(to, unix.SOL_SOCKET, name, unsafe.Pointer(&got), 4)
	return got == size
}
