package upconv

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

func getsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) unix.Errno {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	return errno
}

func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0)
	return errno
}

func connect(fd int, sa []byte) unix.Errno {
	for {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

func bind(fd int, sa []byte) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	return errno
}

// disconnect has a socket be connected no more: connect(2) with AF_UNSPEC.
func disconnect(fd int) { connect(fd, make([]byte, sizeofSockaddrIn)) }

func newSocket(domain, kind, proto int) (int, unix.Errno) {
	kind |= unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), uintptr(kind), uintptr(proto))
	return int(fd), errno
}

// closeFD closes a descriptor. The last one of a stream with SO_LINGER waits; so not a RawSyscall.
func closeFD(fd int) { unix.Syscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func dup(fd int) (int, unix.Errno) {
	copied, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return int(copied), errno
}

// flagsOf returns the status flags of a file, F_GETFL.
func flagsOf(fd int) (flags int, ok bool) {
	n, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	return int(n), errno == 0
}

// setFlags gives the file the status flags that fcntl(F_SETFL) takes. The kernel may wait for the
// lock of a socket then (sock_fasync in net/socket.c); so not a RawSyscall.
func setFlags(fd, flags int) {
	unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFL, uintptr(flags))
}

// blocks reports whether calls on a file wait.
func blocks(fd int) bool {
	flags, ok := flagsOf(fd)
	return ok && flags&unix.O_NONBLOCK == 0
}

func setAffinity(cpus *unix.CPUSet) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(*cpus), uintptr(unsafe.Pointer(cpus)))
	return errno
}

// errnoOf finds the errno in an error: EIO where there is none, 0 for nil.
func errnoOf(err error) unix.Errno {
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

// errnoName returns the kernel's name of an errno.
func errnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return errno.Error()
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
