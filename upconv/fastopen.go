package upconv

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fastOpen is what a send with MSG_FASTOPEN (RFC 7413) sends: on a TCP socket that is not connected it is a
// connect(2) and a send in one.
type fastOpen struct {
	on    bool
	flags uint32
	// vector is where the data is in the target's memory, as struct iovec.
	vector []unix.RemoteIovec
	// result is where the number of bytes goes, besides being returned; 0: nowhere. sendmmsg(2) returns messages.
	result uint64
}

// maxFastOpen is more than a SYN can carry.
const maxFastOpen = 64 << 10

// sendFastOpen is sendmsg(2) or, if stride is not 0, sendmmsg(2) with MSG_FASTOPEN. Of the latter the first message connects,
// and is all that is sent.
func (w *worker) sendFastOpen(c *call, flags uint32, stride int) outcome {
	c.fastOpen = fastOpen{on: true, flags: flags}
	if stride > 0 {
		c.fastOpen.result = c.args[1] + uint64(c.msghdrSize()) // msg_len of struct mmsghdr
	}
	var header [sizeofMsghdr]byte
	if readMemory(c.tid, c.args[1], header[:c.msghdrSize()]) != 0 {
		if w.s.needs.atSocket() {
			if _, idle := w.idleInEgress(c); idle {
				return answer(unix.EFAULT) // for it could be read the next time
			}
		}
		return carryOn // the kernel will say EFAULT
	}
	h := c.msghdr(header[:])
	c.addr, c.addrLen = h.name, uint32(h.nameLen)
	count := int(min(h.count, 16))
	if h.controlLen != 0 {
		count = 0 // control messages: they go with what is sent when the connection is there
	}
	var raw [16 * 16]byte
	room := maxFastOpen
	if count > 0 && readMemory(c.tid, h.iovecs, raw[:count*c.iovecSize()]) == 0 {
		for i := range count {
			base, full := c.iovec(raw[:], i)
			length := int(min(full, uint64(room)))
			room -= length
			if length > 0 {
				c.fastOpen.vector = append(c.fastOpen.vector, unix.RemoteIovec{Base: uintptr(base), Len: length})
			}
		}
	}
	return w.connect(c)
}

// open connects a non-blocking socket for a send that must not wait, with as much data in the SYN as goes. Without a
// cookie for the destination that is none, and EINPROGRESS. Without an address it only sends.
func (w *worker) open(c *call, fd int, sa []byte) outcome {
	f := &c.fastOpen
	length := 0
	if len(f.vector) > 0 {
		if len(w.long) < maxFastOpen {
			w.long = make([]byte, maxFastOpen)
		}
		var errno unix.Errno
		if length, errno = readVectors(c.tid, w.long[:maxFastOpen], f.vector); errno != 0 {
			return answer(unix.EFAULT)
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
	if errno != 0 || f.result == 0 {
		return outcome{answered: true, errno: errno, value: int64(n)}
	}
	var result [4]byte
	binary.NativeEndian.PutUint32(result[:], uint32(n))
	writeMemory(c.tid, f.result, result[:])
	return outcome{answered: true, value: 1}
}
