package upconv

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// tcpClose is TCP_CLOSE (netinet/tcp.h): not connected, not connecting, not listening.
const tcpClose = 7

// socket is what a swap needs to know of the target's socket.
type socket struct {
	domain, proto int
	netns         uint64 // SO_NETNS_COOKIE
	flags         int    // file status flags, F_GETFL
	// name is its struct sockaddr_in or sockaddr_in6, getsockname(2); bound is whether it has one.
	name    [sizeofSockaddrIn6]byte
	nameLen uint32
	bound   bool
}

// examine reads what a swap needs to know, with as few calls as will do. idle is false where fd is not
// a TCP or MPTCP socket, or is one that is connected, connecting or listening.
func examine(fd int, s *socket) (idle bool) {
	var proto int32
	if getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 ||
		proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP {
		return false
	}
	s.proto = int(proto)
	s.nameLen = uint32(len(s.name))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.name)), uintptr(unsafe.Pointer(&s.nameLen)))
	if errno != 0 || s.nameLen < sizeofSockaddrIn {
		return false
	}
	s.domain = int(binary.NativeEndian.Uint16(s.name[:]))
	port := s.port() != 0
	s.bound = port || !allZero(s.address())
	if port || proto == unix.IPPROTO_MPTCP { // only a socket with a port can be in another state
		var state uint8
		if getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&state), 1) != 0 || state != tcpClose {
			return false
		}
	}
	if getsockopt(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, unsafe.Pointer(&s.netns), 8) != 0 {
		return false
	}
	flags, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	s.flags = int(flags)
	return errno == 0
}

func (s *socket) port() uint16 { return binary.BigEndian.Uint16(s.name[2:]) }

// address is the bytes of the IP address within name.
func (s *socket) address() []byte {
	if s.domain == unix.AF_INET6 {
		return s.name[8:24] // sin6_addr
	}
	return s.name[4:8] // sin_addr
}

// bindLike binds the socket to as s is bound. An address that the egress does not have becomes any
// address; the port is kept.
func (s *socket) bindLike(to int, origin uint64) unix.Errno {
	// A socket that has been swapped before has a port of the kernel's choice, which means nothing now.
	if !s.bound || s.netns != origin {
		return 0
	}
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(to), uintptr(unsafe.Pointer(&s.name)), uintptr(s.nameLen))
	if errno == unix.EADDRNOTAVAIL {
		anywhere := *s
		clear(anywhere.address())
		if anywhere.port() == 0 {
			return 0
		}
		_, _, errno = unix.RawSyscall(unix.SYS_BIND, uintptr(to), uintptr(unsafe.Pointer(&anywhere.name)), uintptr(s.nameLen))
	}
	return errno
}

// socket makes a non-blocking stream socket in the egress; the caller owns it.
func (w *worker) socket(e *egress, domain, proto int) (int, unix.Errno) {
	fd, errno := w.trySocket(e, domain, proto)
	if w.s.targets.makeRoom(errno) {
		fd, errno = w.trySocket(e, domain, proto)
	}
	return fd, errno
}

func (w *worker) trySocket(e *egress, domain, proto int) (int, unix.Errno) {
	if e == w.home {
		if spare := w.spare(domain, proto); spare != nil && *spare >= 0 {
			fd := *spare
			*spare = -1
			return fd, 0
		}
		return newSocket(domain, proto)
	}
	// Going there and back costs a tenth of handing the work to a thread that lives there.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(e.ns.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		return -1, errno
	}
	fd, errno := newSocket(domain, proto)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(w.home.ns.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		// This thread's next sockets would be made in the wrong namespace. Better none: without its
		// supervisor the command is killed.
		w.s.log.Error("return to "+w.home.ns.String(), "error", errno)
		os.Exit(ExitFailed)
	}
	return fd, errno
}

const streamType = unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

func newSocket(domain, proto int) (int, unix.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), streamType, uintptr(proto))
	return int(fd), errno
}

// spare returns where the worker keeps a socket of this kind ready, or nil if it does not.
func (w *worker) spare(domain, proto int) *int {
	switch {
	case proto != unix.IPPROTO_TCP:
		return nil
	case domain == unix.AF_INET:
		return &w.spare4
	}
	return &w.spare6
}

// tidy does what need not be done while the target waits: it closes the sockets of the last swap and
// makes the next one.
func (w *worker) tidy() {
	for _, fd := range w.done {
		closeFD(fd)
	}
	w.done = w.done[:0]
	if w.used == 0 {
		return
	}
	if spare := w.spare(w.used, unix.IPPROTO_TCP); *spare < 0 {
		if fd, errno := newSocket(w.used, unix.IPPROTO_TCP); errno == 0 {
			*spare = fd
		}
	}
	w.used = 0
}

// install puts fd under the number of the socket that the target is connecting.
//
// The target itself does it, while this thread waits. The kernel would take the occasion to move this
// thread to an idle processor, away from the target that it is in the middle of a conversation with;
// waking up there costs more than all the rest. So it is made to stay until the target is done.
func (w *worker) install(c *call, fd int, cloexec bool) unix.Errno {
	pinned := w.pin()
	_, err := w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, Target: c.fd, SetTarget: true, CloseOnExec: cloexec})
	if pinned {
		setAffinity(&w.cpus)
	}
	return errnoOf(err)
}

// pin keeps this thread on the processor that it is on.
func (w *worker) pin() bool {
	if !w.mayPin {
		return false
	}
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return false
	}
	var here unix.CPUSet
	here.Set(int(cpu))
	return setAffinity(&here) == 0
}

func setAffinity(cpus *unix.CPUSet) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(*cpus), uintptr(unsafe.Pointer(cpus)))
	return errno
}

// setFlags gives the file the status flags that fcntl(F_SETFL) takes.
func setFlags(fd, flags int) {
	unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFL, uintptr(flags))
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
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
