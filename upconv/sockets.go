package upconv

import (
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func typeOf(fd int) int {
	var kind int32
	getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&kind), 4)
	return int(kind)
}

func domainOf(fd int) int {
	var domain int32
	getsockopt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4)
	return int(domain)
}

// kindOf returns the type of the sockets of a protocol.
func kindOf(proto int) int {
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_MPTCP:
		return unix.SOCK_STREAM
	}
	return unix.SOCK_DGRAM
}

func isInet(family int) bool { return family == unix.AF_INET || family == unix.AF_INET6 }

func isDatagramType(kind int) bool { return kind == unix.SOCK_DGRAM || kind == unix.SOCK_RAW }

// isConnected reports whether a socket has a peer.
func isConnected(fd int) bool {
	var name [sizeofSockaddrStorage]byte
	return socketName(fd, true, &name)
}

func cookieOf(fd int) (cookie uint64) {
	getsockopt(fd, unix.SOL_SOCKET, unix.SO_COOKIE, unsafe.Pointer(&cookie), 8)
	return cookie
}

// netnsCookie returns SO_NETNS_COOKIE, 0 for what is not a socket.
func netnsCookie(fd int) (cookie uint64) {
	getsockopt(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, unsafe.Pointer(&cookie), 8)
	return cookie
}

func sameNetns(a, b int) bool { return netnsCookie(a) == netnsCookie(b) }

// inodeOf returns the inode number of an open file, 0 if there is none.
func inodeOf(fd int) uint64 {
	var stat unix.Stat_t
	unix.Fstat(fd, &stat)
	return stat.Ino
}

// timeoutOf returns SO_SNDTIMEO, which is how long sends and connect(2) may take, or SO_RCVTIMEO; 0
// for as long as they want. A time that is too long for a time.Duration is as long as that can be.
func timeoutOf(fd, option int) time.Duration {
	var t unix.Timeval
	getsockopt(fd, unix.SOL_SOCKET, option, unsafe.Pointer(&t), unsafe.Sizeof(t))
	if t.Sec >= math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(t.Nano())
}

// socketName reads the name of a socket, or of its peer.
func socketName(fd int, peer bool, to *[sizeofSockaddrStorage]byte) (ok bool) {
	call := uintptr(unix.SYS_GETSOCKNAME)
	if peer {
		call = unix.SYS_GETPEERNAME
	}
	length := uint32(len(to))
	_, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&length)))
	return errno == 0
}
