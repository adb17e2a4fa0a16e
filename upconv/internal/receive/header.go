package receive

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// message is where a datagram is to go, in the target's memory.
type message struct {
	at         uint64 // the struct msghdr, if there is one
	name       uint64 // 0: nobody wants to know
	nameLen    int32
	control    uint64
	controlLen uint64
	vector     []unix.RemoteIovec
	room       int // what the vector has in all

	vectorAt    uint64 // the array of struct iovec
	vectorCount int
}

// msgCompat is MSG_CMSG_COMPAT, which only the kernel itself may give: linux/socket.h.
const msgCompat = 1 << 31

// inUserSpace reports whether memory can be the program's: access_ok.
func inUserSpace(at, size uint64) bool { return at+size >= at && at+size < 1<<63 }

// readHeader reads a struct msghdr.
func (m *message) readHeader(c *session.Call, at uint64) unix.Errno {
	var raw [linux.SizeofMsghdr]byte
	size := c.MsghdrSize() // all of it, like the kernel: what is not there may be at its end
	if target.ReadMemory(c.TID, at, raw[:size]) != 0 {
		return unix.EFAULT
	}
	return m.decodeHeader(c, at, raw[:])
}

// decodeHeader takes what is in a struct msghdr: __copy_msghdr.
func (m *message) decodeHeader(c *session.Call, at uint64, raw []byte) unix.Errno {
	h := c.Msghdr(raw)
	*m = message{at: at, name: h.Name, nameLen: h.NameLen, control: h.Control, controlLen: h.ControlLen, vectorAt: h.Iovecs}
	if m.name != 0 && m.nameLen < 0 {
		return unix.EINVAL
	}
	if h.Count > linux.MaxIovecs {
		return unix.EMSGSIZE
	}
	m.vectorCount = int(h.Count)
	return 0
}

// readVector reads the message's array of struct iovec.
func (m *message) readVector(c *session.Call, b *receiveBuffers) unix.Errno {
	size := m.vectorCount * c.IovecSize()
	if len(b.raw) < size {
		b.raw = make([]byte, max(size, 256))
	}
	if size > 0 && target.ReadMemory(c.TID, m.vectorAt, b.raw[:size]) != 0 {
		return unix.EFAULT
	}
	return m.decodeVector(c, b, b.raw)
}

// decodeVector takes what is in the array of struct iovec: import_iovec.
func (m *message) decodeVector(c *session.Call, b *receiveBuffers, raw []byte) unix.Errno {
	m.vector, m.room = b.vector[:0], 0
	for i := range m.vectorCount {
		base, length := c.Iovec(raw, i)
		if c.Negative(length) {
			return unix.EINVAL
		}
		length = min(length, uint64(maxTransfer-m.room))
		if !inUserSpace(base, length) {
			return unix.EFAULT
		}
		m.vector = append(m.vector, unix.RemoteIovec{Base: uintptr(base), Len: int(length)})
		m.room += int(length)
	}
	b.vector = m.vector
	return 0
}

// controlRoom returns how much room there is for control messages.
func (m *message) controlRoom() int {
	if m.control == 0 {
		return 0
	}
	return int(min(m.controlLen, 1<<30))
}
