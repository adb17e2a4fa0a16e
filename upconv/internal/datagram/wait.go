package datagram

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// Sends that wait until there is room, as long as the program would.

// lacksPort reports whether EAGAIN, which a send with the socket fd has said, is for want of a port
// and not of room: who waits would wait for ever, and natively nobody does. See inet_autobind in
// net/ipv4/af_inet.c.
func lacksPort(fd int, onUnix bool) bool {
	if onUnix {
		return false
	}
	var s sockstate.Socket
	return linux.TypeOf(fd) == unix.SOCK_DGRAM && s.ReadName(fd) && s.Port() == 0
}

// maxFutile is how often in a row a send may say EAGAIN though there is room. It does if others
// take that in between. If it goes on doing so there is another reason, for which the kernel would
// not wait.
const maxFutile = 100

// WaitToSend waits until the socket fd may have room, on a worker that may wait. Where that is a
// Unix socket which sends to a path, peer is that; else nil. The errno is what the send says if
// something ends the wait before: EAGAIN after SO_SNDTIMEO.
func (w *Worker) WaitToSend(fd int, peer *crossing.UnixPath) unix.Errno {
	if timeout := linux.TimeoutOf(fd, unix.SO_SNDTIMEO); w.SendDeadline.IsZero() {
		w.SendDeadline = time.Now().Add(365 * 24 * time.Hour)
		if timeout != 0 {
			w.SendDeadline = time.Now().Add(timeout)
		}
		w.Aside.Held.Timed.Store(timeout != 0)
	}
	waited, errno := w.waitWritable(fd)
	if errno == 0 && peer != nil {
		// It tells of its own room. That of the peer is told by a socket that is connected to it:
		// unix_dgram_poll in net/unix/af_unix.c.
		probe, failed := linux.NewSocket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if peer.Raw[2] == 0 { // an abstract name, which is one of the origin
			linux.Close(probe)
			probe, failed = w.InOrigin(w.Aside.Held.TID, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		}
		if failed == 0 {
			defer linux.Close(probe)
			if peer.Connect(probe) == 0 {
				var also bool
				also, errno = w.waitWritable(probe)
				waited = waited || also
			}
		}
	}
	if waited || errno != 0 {
		w.Futile = 0
		return errno
	}
	if w.Futile++; w.Futile > maxFutile {
		return unix.EAGAIN
	}
	if w.Futile > maxFutile/10 {
		time.Sleep(time.Millisecond)
	}
	return 0
}

// waitWritable waits until a socket has room. waited is whether it had none before.
func (w *Worker) waitWritable(fd int) (waited bool, errno unix.Errno) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	unix.Poll(fds, 0)
	for slice := trap.ShortSlice; fds[0].Revents&unix.POLLOUT == 0; slice = min(2*slice, trap.LongSlice) {
		watched := fds
		if fds[0].Revents != 0 { // as long as its error queue is not empty poll(2) does not wait
			watched, slice = nil, trap.ShortSlice
		}
		length := min(slice, max(time.Until(w.SendDeadline), time.Millisecond))
		switch ended := w.Aside.Stop.During(func() { unix.Poll(watched, int(length.Milliseconds())) }); {
		case ended != 0:
			return true, ended
		case time.Now().After(w.SendDeadline):
			return true, unix.EAGAIN
		}
		unix.Poll(fds, 0)
		waited = true
	}
	return waited, 0
}
