package upconv

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// tcpClose is TCP_CLOSE (netinet/tcp.h): not connected, not connecting, not listening.
const tcpClose = 7

// socket is what a swap needs to know of the target's socket.
type socket struct {
	domain, typ, proto int
	netns              uint64       // SO_NETNS_COOKIE
	state              uint8        // tcpi_state of TCP_INFO
	flags              int          // file status flags, F_GETFL
	sendTimeout        unix.Timeval // SO_SNDTIMEO
}

// examine reads what a swap needs to know. ok is false where fd is not a TCP or MPTCP socket.
func (w *worker) examine(fd int) (s socket, ok bool) {
	var domain, typ, proto int32
	if getsockopt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4) != 0 ||
		domain != unix.AF_INET && domain != unix.AF_INET6 ||
		getsockopt(fd, unix.SOL_SOCKET, unix.SO_TYPE, unsafe.Pointer(&typ), 4) != 0 || typ != unix.SOCK_STREAM ||
		getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 ||
		proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP {
		return s, false
	}
	s.domain, s.typ, s.proto = int(domain), int(typ), int(proto)
	if getsockopt(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, unsafe.Pointer(&s.netns), 8) != 0 ||
		getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&s.state), 1) != 0 ||
		getsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&s.sendTimeout), unsafe.Sizeof(s.sendTimeout)) != 0 {
		return s, false
	}
	flags, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	s.flags = int(flags)
	return s, errno == 0
}

// socket makes a socket in the egress; the caller owns it.
func (w *worker) socket(e *egress, domain, typ, proto int) (int, unix.Errno) {
	if e == w.home {
		fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), uintptr(typ), uintptr(proto))
		return int(fd), errno
	}
	fd, err := e.ns.Socket(domain, typ, proto)
	return fd, errnoOf(err)
}

// install puts fd under the number of the socket that the target is connecting.
func (w *worker) install(c *call, fd int, cloexec bool) unix.Errno {
	_, err := w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, Target: c.fd, SetTarget: true, CloseOnExec: cloexec})
	return errnoOf(err)
}

// setFlags gives the file the status flags that fcntl(F_SETFL) takes.
func setFlags(fd, flags int) {
	unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFL, uintptr(flags))
}

func closeFD(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func getsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) unix.Errno {
	length := uint32(size)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	return errno
}

func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0)
	return errno
}
