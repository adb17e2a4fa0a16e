package stream

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// ConnectEarly connects the non-blocking socket fd for a send that must not wait, with as much data
// in the SYN as goes. Without a cookie for the destination that is none, and EINPROGRESS. Without
// an address it only sends.
func (w *Worker) ConnectEarly(c *session.Call, fd int, sa []byte) session.Outcome {
	f := &c.FastOpen
	length := 0
	if len(f.Vector) > 0 && f.ControlLength == 0 { // control messages go with what is sent when the connection is there
		var errno unix.Errno
		if length, errno = w.readEarly(c, f.Vector); errno != 0 {
			return session.Answer(errno)
		}
	}
	var data unsafe.Pointer
	if length > 0 {
		data = unsafe.Pointer(&w.Long[0])
	}
	flags := f.Flags&^unix.MSG_ZEROCOPY | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	var to unsafe.Pointer
	if len(sa) > 0 {
		to = unsafe.Pointer(&sa[0])
	} else {
		flags &^= unix.MSG_FASTOPEN
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(data), uintptr(length), uintptr(flags), uintptr(to), uintptr(len(sa)))
	return sentEarly(c, int(n), errno)
}

// readEarly reads data of a send with MSG_FASTOPEN into w.Long, as much as is sent at a time, and
// returns how much that is. The error is EFAULT.
func (w *Worker) readEarly(c *session.Call, vectors []unix.RemoteIovec) (length int, errno unix.Errno) {
	if len(w.Long) < maxFastOpen {
		w.Long = make([]byte, maxFastOpen)
	}
	if length, errno = target.ReadVectors(c.TID, w.Long[:maxFastOpen], vectors); errno != 0 {
		return 0, unix.EFAULT
	}
	return length, 0
}

// beginEarly sends what a call with MSG_FASTOPEN sends that waits and must not be left to the
// kernel. errno is what connecting the stream fd has said.
func (w *Worker) beginEarly(c *session.Call, e *event.Pending, fd int, errno unix.Errno) session.Outcome {
	w.s.Events.Record(e, underWay(errno))
	switch {
	case errno == unix.EALREADY:
		return session.Aside // which will find it connecting
	case errno == 0:
		return w.sendEarly(c, fd)
	case e.Decision.Route.Crosses():
		errno = siit.InetErrno(errno)
	}
	return session.Answer(errno)
}

// sentEarly answers a send with MSG_FASTOPEN that has sent n bytes.
func sentEarly(c *session.Call, n int, errno unix.Errno) session.Outcome {
	if errno != 0 || c.FastOpen.Result == 0 {
		return session.Outcome{State: session.StateReturns, Errno: errno, Value: int64(n)}
	}
	var result [4]byte
	binary.NativeEndian.PutUint32(result[:], uint32(n))
	target.WriteMemory(c.TID, c.FastOpen.Result, result[:])
	return session.AnswerValue(1)
}

// sendEarly sends all data of a send with MSG_FASTOPEN through the stream fd, which is connected by
// now, and waits for room as the program would.
func (w *Worker) sendEarly(c *session.Call, fd int) session.Outcome {
	f := &c.FastOpen
	flags, _ := linux.FlagsOf(fd)
	patient := w.Patient(c, flags)
	for {
		n, more, errno := w.sendPiece(c, fd)
		switch f.Sent += n; {
		case errno == 0 && !more:
			return sentEarly(c, f.Sent, 0)
		case errno == unix.EAGAIN && patient && !w.MayWait():
			f.Cookie = linux.CookieOf(fd)
			return session.AsideBy(sendEarlyAgain)
		case errno == unix.EAGAIN && patient:
			errno = w.WaitToSend(fd, nil)
		}
		switch {
		case errno != 0 && f.Sent > 0:
			return sentEarly(c, f.Sent, 0)
		case errno != 0:
			return session.Answer(errno)
		}
	}
}

// sendEarlyAgain is sendEarly on a thread that may wait.
func sendEarlyAgain(d session.Decider, c *session.Call) session.Outcome {
	w := workerOf(d)
	e := w.NewEvent(c, policy.TCP)
	fd, out := w.Fetch(c, &e)
	ok := out.IsUndecided()
	switch {
	case ok && linux.CookieOf(fd) == c.FastOpen.Cookie:
		return w.sendEarly(c, fd)
	case c.FastOpen.Sent > 0: // another thread has put another file there
		return sentEarly(c, c.FastOpen.Sent, 0)
	case ok:
		return session.Answer(unix.EBADF)
	}
	return out
}

// sendPiece sends some of what sendEarly has not sent yet. more says whether there was more than it
// tried to send.
func (w *Worker) sendPiece(c *session.Call, fd int) (n int, more bool, errno unix.Errno) {
	f := &c.FastOpen
	var vectors []unix.RemoteIovec
	left, skip := 0, f.Sent
	for _, v := range f.Vector {
		passed := min(skip, v.Len)
		skip -= passed
		if v.Len -= passed; v.Len > 0 {
			v.Base += uintptr(passed)
			vectors = append(vectors, v)
			left += v.Len
		}
	}
	length, errno := w.readEarly(c, vectors)
	if errno != 0 {
		return 0, false, errno
	}
	part := unix.Iovec{Base: &w.Long[0], Len: uint64(length)}
	header := unix.Msghdr{Iov: &part, Iovlen: 1}
	if f.ControlLength > 0 && f.Sent == 0 {
		raw := make([]byte, f.ControlLength)
		if target.ReadMemory(c.TID, f.Control, raw) != 0 {
			return 0, false, unix.EFAULT
		}
		control, errno := w.PackControl(c, raw, nil)
		if errno != 0 {
			return 0, false, errno
		}
		if len(control) > 0 {
			header.Control, header.Controllen = &control[0], uint64(len(control))
		}
	}
	flags := f.Flags&^(unix.MSG_ZEROCOPY|unix.MSG_FASTOPEN) | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	sent, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), uintptr(flags))
	if errno != 0 {
		return 0, false, errno
	}
	return int(sent), int(sent) < left, 0
}

// maxFastOpen is more than a SYN can carry, and how much is sent at a time.
const maxFastOpen = 64 << 10
