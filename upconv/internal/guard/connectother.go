package guard

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// A connect(2) of a Unix socket is the program's own: its server is told who has made it. But once
// a socket is in an egress, another thread could put that under the number, and an IPv4 address
// into memory. So a thread that shares its descriptors has it made by upconv then, as the program's
// user and by its rights, from its directories. Only the process ID that the server is told is
// upconv's.

// ConnectOther makes a connect(2) on fd, a copy of a file that is no IPv4 or IPv6 socket; domain is
// its family, 0 if it is no socket.
func (w *Worker) ConnectOther(c *session.Call, fd, domain int) session.Outcome {
	switch {
	case domain == 0: // no socket
		return session.Answer(linux.Connect(fd, c.Sockaddr))
	case domain != unix.AF_UNIX:
		return w.ConnectAside(c, fd)
	}
	path := &w.Crossing.Path
	errno := path.Find(w.s.Targets, c.TID, c.Sockaddr)
	if errno == 0 {
		flags, _ := linux.FlagsOf(fd)
		linux.SetFlags(fd, flags|unix.O_NONBLOCK)
		errno = path.Connect(fd)
		if errno == unix.EAGAIN && w.Patient(c, flags) {
			if !w.MayWait() {
				linux.SetFlags(fd, flags)
				path.Close()
				return session.Aside
			}
			if errno = w.WaitForRoom(fd, &w.Crossing, linux.TimeoutOf(fd, unix.SO_SNDTIMEO)); errno == unix.EINPROGRESS {
				errno = unix.EAGAIN // its time is over
			}
		}
		linux.SetFlags(fd, flags)
	}
	path.Close()
	return session.Answer(errno)
}

// ConnectAside makes a connect(2) on a copy of a stream that is neither TCP nor MPTCP, by a thread
// that may wait.
func (w *Worker) ConnectAside(c *session.Call, fd int) session.Outcome {
	if flags, _ := linux.FlagsOf(fd); w.Patient(c, flags) {
		if !w.MayWait() {
			return session.Aside
		}
		errno := unix.EINTR
		ended := w.Aside.Stop.During(func() {
			_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&c.Sockaddr[0])), uintptr(len(c.Sockaddr)))
		})
		if errno == unix.EINTR && ended != 0 {
			errno = ended
		}
		return session.Answer(errno)
	}
	return session.Answer(linux.Connect(fd, c.Sockaddr))
}
