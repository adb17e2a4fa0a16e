package supervisor

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// open connects a non-blocking socket for a send that must not wait, with as much data in the SYN
// as goes. Without a cookie for the destination that is none, and EINPROGRESS. Without an address
// it only sends.
func (w *streamWorker) open(c *call, fd int, sa []byte) outcome {
	f := &c.fastOpen
	length := 0
	if len(f.vector) > 0 && f.controlLength == 0 { // control messages go with what is sent when the connection is there
		var errno unix.Errno
		if length, errno = w.readEarly(c, f.vector); errno != 0 {
			return answer(errno)
		}
	}
	var data unsafe.Pointer
	if length > 0 {
		data = unsafe.Pointer(&w.long[0])
	}
	flags := f.flags&^unix.MSG_ZEROCOPY | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	var to unsafe.Pointer
	if len(sa) > 0 {
		to = unsafe.Pointer(&sa[0])
	} else {
		flags &^= unix.MSG_FASTOPEN
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(data), uintptr(length), uintptr(flags), uintptr(to), uintptr(len(sa)))
	return sentEarly(c, int(n), errno)
}

// readEarly reads data of a send with MSG_FASTOPEN into w.long, as much as is sent at a time, and
// returns how much that is. The error is EFAULT.
func (w *streamWorker) readEarly(c *call, vectors []unix.RemoteIovec) (length int, errno unix.Errno) {
	if len(w.long) < maxFastOpen {
		w.long = make([]byte, maxFastOpen)
	}
	if length, errno = target.ReadVectors(c.tid, w.long[:maxFastOpen], vectors); errno != 0 {
		return 0, unix.EFAULT
	}
	return length, 0
}

// beginEarly sends what a call with MSG_FASTOPEN sends that waits and must not be left to the
// kernel. errno is what connecting the stream fd has said.
func (w *streamWorker) beginEarly(c *call, e *event.Pending, fd int, errno unix.Errno) outcome {
	w.s.events.Record(e, underWay(errno))
	switch {
	case errno == unix.EALREADY:
		return aside // which will find it connecting
	case errno == 0:
		return w.sendEarly(c, fd)
	case e.Decision.Route.Crosses():
		errno = siit.InetErrno(errno)
	}
	return answer(errno)
}

// sentEarly answers a send with MSG_FASTOPEN that has sent n bytes.
func sentEarly(c *call, n int, errno unix.Errno) outcome {
	if errno != 0 || c.fastOpen.result == 0 {
		return outcome{state: stateReturns, errno: errno, value: int64(n)}
	}
	var result [4]byte
	binary.NativeEndian.PutUint32(result[:], uint32(n))
	target.WriteMemory(c.tid, c.fastOpen.result, result[:])
	return answerValue(1)
}

// sendEarly sends all data of a send with MSG_FASTOPEN through the stream fd, which is connected by
// now, and waits for room as the program would.
func (w *streamWorker) sendEarly(c *call, fd int) outcome {
	f := &c.fastOpen
	flags, _ := linux.FlagsOf(fd)
	patient := w.patient(c, flags)
	for {
		n, more, errno := w.sendPiece(c, fd)
		switch f.sent += n; {
		case errno == 0 && !more:
			return sentEarly(c, f.sent, 0)
		case errno == unix.EAGAIN && patient && !w.alone:
			f.cookie = linux.CookieOf(fd)
			return asideBy(sendEarlyAgain)
		case errno == unix.EAGAIN && patient:
			errno = w.waitToSend(fd, nil)
		}
		switch {
		case errno != 0 && f.sent > 0:
			return sentEarly(c, f.sent, 0)
		case errno != 0:
			return answer(errno)
		}
	}
}

// sendEarlyAgain is sendEarly on a thread that may wait.
func sendEarlyAgain(d decider, c *call) outcome {
	w := streamWorkerOf(d)
	e := w.newEvent(c, policy.TCP)
	fd, out := w.fetch(c, &e)
	ok := out.isUndecided()
	switch {
	case ok && linux.CookieOf(fd) == c.fastOpen.cookie:
		return w.sendEarly(c, fd)
	case c.fastOpen.sent > 0: // another thread has put another file there
		return sentEarly(c, c.fastOpen.sent, 0)
	case ok:
		return answer(unix.EBADF)
	}
	return out
}

// sendPiece sends some of what sendEarly has not sent yet. more says whether there was more than it
// tried to send.
func (w *streamWorker) sendPiece(c *call, fd int) (n int, more bool, errno unix.Errno) {
	f := &c.fastOpen
	var vectors []unix.RemoteIovec
	left, skip := 0, f.sent
	for _, v := range f.vector {
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
	part := unix.Iovec{Base: &w.long[0], Len: uint64(length)}
	header := unix.Msghdr{Iov: &part, Iovlen: 1}
	if f.controlLength > 0 && f.sent == 0 {
		raw := make([]byte, f.controlLength)
		if target.ReadMemory(c.tid, f.control, raw) != 0 {
			return 0, false, unix.EFAULT
		}
		control, errno := w.packControl(c, raw, nil)
		if errno != 0 {
			return 0, false, errno
		}
		if len(control) > 0 {
			header.Control, header.Controllen = &control[0], uint64(len(control))
		}
	}
	flags := f.flags&^(unix.MSG_ZEROCOPY|unix.MSG_FASTOPEN) | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	sent, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), uintptr(flags))
	if errno != 0 {
		return 0, false, errno
	}
	return int(sent), int(sent) < left, 0
}

// maxFastOpen is more than a SYN can carry, and how much is sent at a time.
const maxFastOpen = 64 << 10
