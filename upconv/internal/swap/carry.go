package swap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// What the program has done to a socket is done to the one that is to take its place.

// Carry gives the new socket what the program has done to the old one, of which from is a copy; -1:
// nothing. kept is as for carryOver.
func (w *Worker) Carry(s *Swap, from int, kept bool) unix.Errno {
	switch {
	case s.Crossing != nil:
		return w.carryAcross(s, from, kept)
	case from >= 0:
		return w.carryOver(s, from, kept)
	}
	return 0
}

// carryOver gives the new socket what the program has done to the old one. kept is whether it is
// one that has been in use before.
func (w *Worker) carryOver(s *Swap, old int, kept bool) unix.Errno {
	e, sock, replacement := s.Event, s.Socket, s.FD
	if lost := w.s.Fresh.Of(sock.Domain).CopyOptions(&w.s.Used, old, replacement, sock, kept); lost != "" {
		e.Add("not carried over: " + lost)
	}
	if !kept {
		if errno := w.bindOver(s, old); errno != 0 {
			return errno
		}
	} else {
		sock.Resume(replacement)
	}
	if w.s.Used.Owner.Load() || sock.Flags&unix.O_ASYNC != 0 {
		sockstate.CopyOwner(old, replacement)
	}
	if one := int32(1); sock.Headers {
		linux.Setsockopt(replacement, unix.IPPROTO_IP, unix.IP_HDRINCL, unsafe.Pointer(&one), 4)
	}
	if !sock.Resets { // a disconnection ends a shutdown(2), too
		w.shutLike(s, old)
	}
	return 0
}

// carryAcross is carryOver for a socket of another family, with the same kept. old is -1 where
// nothing has been done to the program's.
func (w *Worker) carryAcross(s *Swap, old int, kept bool) unix.Errno {
	e, sock, x, replacement := s.Event, s.Socket, s.Crossing, s.FD
	switch {
	case old < 0: // nothing has been done to it
	case x.Family() == unix.AF_UNIX:
		sockstate.CopyBuffers(nil, old, replacement)
	default:
		if lost := w.s.Fresh.Of(sock.Domain).CopyOptions(&w.s.Used, old, replacement, sock, kept); lost != "" {
			e.Add("not carried over: " + lost)
		}
	}
	if errno := w.FinishCrossed(x, e, old, replacement, sock); errno != 0 {
		return errno
	}
	if old >= 0 && (w.s.Used.Owner.Load() || sock.Flags&unix.O_ASYNC != 0) {
		sockstate.CopyOwner(old, replacement)
	}
	if x.Family() == unix.AF_INET6 {
		w.shutLike(s, old)
	}
	if kept {
		return 0
	}
	sock.Chosen = sock.Kind == unix.SOCK_STREAM && w.portChosen(s) // of datagrams, old itself has the port
	return s.bindAcross(old, w.s.Origin.Cookie)
}

// shutLike has the new socket remember a shutdown(2) of the old one from before it was connected:
// that fails with ENOTCONN, and yet has its effect.
func (w *Worker) shutLike(s *Swap, old int) {
	shut := uint8(0)
	if v := s.Call.View; v != nil {
		shut = v.Shutdown
	} else if s.Socket.Kind != unix.SOCK_STREAM && old >= 0 {
		shut = shutdownOf(old)
	}
	if shut != 0 {
		unix.Syscall(unix.SYS_SHUTDOWN, uintptr(s.FD), uintptr(shut-1), 0)
	}
}

// shutdownOf returns what poll(2) tells of sk_shutdown of a datagram socket: RCV_SHUTDOWN 1, with
// SEND_SHUTDOWN 3; nothing of SEND_SHUTDOWN alone. See datagram_poll in net/core/datagram.c.
func shutdownOf(fd int) uint8 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(fds, 0); n <= 0 || err != nil {
		return 0
	}
	switch events := fds[0].Revents; {
	case events&unix.POLLHUP != 0:
		return 3
	case events&unix.POLLRDHUP != 0:
		return 1
	}
	return 0
}
