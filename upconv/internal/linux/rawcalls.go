package linux

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// Getsockopt is getsockopt(2). value is where size bytes of the option go.
func Getsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) unix.Errno {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	return errno
}

// Setsockopt is setsockopt(2). value is where the size bytes of the option are.
func Setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0)
	return errno
}

// Connect is connect(2), made again where a signal for this process has ended it.
func Connect(fd int, sa []byte) unix.Errno {
	for {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// Bind is bind(2). sa, a struct sockaddr, is not empty.
func Bind(fd int, sa []byte) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	return errno
}

// Disconnect has a socket be connected no more: connect(2) with AF_UNSPEC.
func Disconnect(fd int) { Connect(fd, make([]byte, SizeofSockaddrIn)) }

// NewSocket makes a non-blocking socket that is closed on execve(2), which is the caller's then.
func NewSocket(domain, kind, proto int) (int, unix.Errno) {
	kind |= unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), uintptr(kind), uintptr(proto))
	return int(fd), errno
}

// Close closes a descriptor. The last one of a stream with SO_LINGER waits; so not a RawSyscall.
func Close(fd int) { unix.Syscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// Dup returns another descriptor of the file, which is closed on execve(2) and the caller's.
func Dup(fd int) (int, unix.Errno) {
	copied, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return int(copied), errno
}

// FlagsOf returns the status flags of a file, F_GETFL.
func FlagsOf(fd int) (flags int, ok bool) {
	n, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	return int(n), errno == 0
}

// SetFlags gives the file the status flags that fcntl(F_SETFL) takes. The kernel may wait for the
// lock of a socket then (sock_fasync in net/socket.c); so not a RawSyscall.
func SetFlags(fd, flags int) {
	unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFL, uintptr(flags))
}

// Blocks reports whether calls on a file wait.
func Blocks(fd int) bool {
	flags, ok := FlagsOf(fd)
	return ok && flags&unix.O_NONBLOCK == 0
}

// SetAffinity has the calling thread run on some processors only.
func SetAffinity(cpus *unix.CPUSet) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(*cpus), uintptr(unsafe.Pointer(cpus)))
	return errno
}

// EpollAdd puts a file into an epoll set. It is no raw call, as a set of a program's is locked
// while epoll_wait(2) writes into the program's memory.
func EpollAdd(set, fd int, event *unix.EpollEvent) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(event)), 0, 0)
	return errno
}

// ErrnoOf finds the errno in an error: EIO where there is none, 0 for nil.
func ErrnoOf(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := err.(unix.Errno); ok {
		return errno
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	if errors.Is(err, seccompx.ErrTargetGone) {
		return unix.ENOENT
	}
	return unix.EIO
}

// ErrnoName returns the kernel's name of an errno.
func ErrnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return errno.Error()
}

// AllZero reports whether all bytes are 0.
func AllZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
