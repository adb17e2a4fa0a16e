package supervisor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// A connect(2) of a Unix socket is the program's own: its server is told who has made it. But once
// a socket is in an egress, another thread could put that under the number, and an IPv4 address
// into memory. So a thread that shares its descriptors has it made by upconv then, as the program's
// user and by its rights, from its directories. Only the process ID that the server is told is
// upconv's.

// connectOther makes a connect(2) on a copy of a file that is no IPv4 or IPv6 socket.
func (w *guardWorker) connectOther(c *call, fd, domain int) outcome {
	switch {
	case domain == 0: // no socket
		return answer(linux.Connect(fd, c.sa))
	case domain != unix.AF_UNIX:
		return w.connectAside(c, fd)
	}
	path := &w.crossing.path
	errno := path.find(w.s.targets, c.tid, c.sa)
	if errno == 0 {
		flags, _ := linux.FlagsOf(fd)
		linux.SetFlags(fd, flags|unix.O_NONBLOCK)
		errno = path.connect(fd)
		if errno == unix.EAGAIN && w.patient(c, flags) {
			if !w.alone {
				linux.SetFlags(fd, flags)
				path.close()
				return aside
			}
			if errno = w.waitForRoom(fd, &w.crossing, linux.TimeoutOf(fd, unix.SO_SNDTIMEO)); errno == unix.EINPROGRESS {
				errno = unix.EAGAIN // its time is over
			}
		}
		linux.SetFlags(fd, flags)
	}
	path.close()
	return answer(errno)
}

// connectAside makes a connect(2) on a copy of a stream that is neither TCP nor MPTCP, by a thread
// that may wait.
func (w *guardWorker) connectAside(c *call, fd int) outcome {
	if flags, _ := linux.FlagsOf(fd); w.patient(c, flags) {
		if !w.alone {
			return aside
		}
		errno := unix.EINTR
		ended := w.aside.stop.During(func() {
			_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&c.sa[0])), uintptr(len(c.sa)))
		})
		if errno == unix.EINTR && ended != 0 {
			errno = ended
		}
		return answer(errno)
	}
	return answer(linux.Connect(fd, c.sa))
}
