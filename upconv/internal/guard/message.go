package guard

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// guardedMessage is a message of a guardedSend, as it was read from the target's memory. Of what it
// sends there is only where that is.
type guardedMessage struct {
	name    []byte             // where it goes; empty: no address
	control []byte             // control messages, in the target's layout
	vectors []unix.RemoteIovec // where the data is
	length  int                // of the data
	result  uint64             // where msg_len of sendmmsg(2) is; 0: nowhere
	at      uint64             // where the name is
	array   uint64             // where its struct iovec are
	count   int                // of those
}

// readGuarded reads the next message of a call, as ___sys_sendmsg in net/socket.c does. It is valid
// until the next one is read.
func (w *Worker) readGuarded(c *session.Call) (m *guardedMessage, errno unix.Errno) {
	m = &guardedMessage{}
	if c.Name == "sendto" {
		return m, w.readSendto(c, m)
	}
	g, o := sendUnderWay(c), &w.Out
	at, size := c.Args[1]+uint64(g.done*g.stride), c.MsghdrSize()
	raw, errno := o.ReadAround(c.TID, o.Room(size+2*target.Reach), uintptr(at), size)
	if errno != 0 || len(raw) < size {
		return nil, unix.EFAULT
	}
	if g.stride > 0 {
		m.result = at + uint64(size)
	}
	h := c.Msghdr(raw)
	named := 0
	if h.Name != 0 {
		named = min(int(h.NameLen), linux.SizeofSockaddrStorage)
	}
	switch {
	case named < 0:
		return nil, unix.EINVAL
	case h.Count > linux.MaxIovecs:
		return nil, unix.EMSGSIZE
	case h.ControlLen > datagram.MaxControl:
		return nil, tooMuchControl(c, h.Control)
	}
	o.Vectors = o.Vectors[:0]
	total := 0
	for _, part := range [...]unix.RemoteIovec{
		{Base: uintptr(h.Name), Len: named},
		{Base: uintptr(h.Control), Len: int(h.ControlLen)},
		{Base: uintptr(h.Iovecs), Len: int(h.Count) * c.IovecSize()},
	} {
		if part.Len > 0 {
			o.Vectors = append(o.Vectors, part)
			total += part.Len
		}
	}
	parts := o.RoomFor(&o.More, total)
	if total > 0 {
		if got, errno := o.GatherAround(c.TID, parts, o.Vectors); errno != 0 || got < total {
			return nil, unix.EFAULT
		}
	}
	m.at, m.array, m.count = h.Name, h.Iovecs, int(h.Count)
	m.name, m.control = parts[:named], parts[named:][:h.ControlLen]
	return m, m.addVectors(c, parts[named+int(h.ControlLen):], int(h.Count))
}

// tooMuchControl returns what the kernel says to more control messages than there can be. Those of
// i386 it looks at before it has memory for them: cmsghdr_from_user_compat_to_kern in net/compat.c.
func tooMuchControl(c *session.Call, at uint64) unix.Errno {
	var header [12]byte
	if !c.Compat {
		return unix.ENOBUFS
	}
	if target.ReadMemory(c.TID, at, header[:]) != 0 {
		return unix.EFAULT
	}
	if binary.NativeEndian.Uint32(header[:]) < uint32(len(header)) {
		return unix.EINVAL
	}
	return unix.ENOBUFS
}

// readSendto is readGuarded for sendto(2).
func (w *Worker) readSendto(c *session.Call, m *guardedMessage) unix.Errno {
	m.add(c.Args[1], c.Args[2])
	length := int32(c.Args[5])
	if c.Args[4] == 0 || length == 0 {
		return 0
	}
	if length < 0 || length > linux.SizeofSockaddrStorage {
		return unix.EINVAL
	}
	m.name, m.at = w.Sockaddr[:length], c.Args[4]
	if target.ReadMemory(c.TID, c.Args[4], m.name) != 0 {
		return unix.EFAULT
	}
	return 0
}

// addVectors adds the vectors of an array of struct iovec.
func (m *guardedMessage) addVectors(c *session.Call, raw []byte, count int) unix.Errno {
	for i := range count {
		base, length := c.Iovec(raw, i)
		if c.Negative(length) {
			return unix.EINVAL
		}
		m.add(base, length)
	}
	return 0
}

// add adds a vector. What is longer than one call sends is left out.
func (m *guardedMessage) add(base, length uint64) {
	n := int(min(length, uint64(session.MaxSent-m.length)))
	if n > 0 {
		m.vectors = append(m.vectors, unix.RemoteIovec{Base: uintptr(base), Len: n})
		m.length += n
	}
}

// readPiece reads up to so much of what is not sent yet of a message. On error, EFAULT, it returns
// what could be read.
func (w *Worker) readPiece(c *session.Call, m *guardedMessage, size int) (piece []byte, errno unix.Errno) {
	if len(w.Long) < size {
		w.Long = make([]byte, size)
	}
	vectors, skip, left := w.Out.Vectors[:0], sendUnderWay(c).sent, size
	for _, v := range m.vectors {
		passed := min(skip, v.Len)
		skip -= passed
		if v.Len = min(v.Len-passed, left); v.Len > 0 {
			v.Base += uintptr(passed)
			left -= v.Len
			vectors = append(vectors, v)
		}
	}
	w.Out.Vectors = vectors
	n, errno := target.ReadVectors(c.TID, w.Long[:size], vectors)
	if errno != 0 || n < size {
		return w.Long[:n], unix.EFAULT
	}
	return w.Long[:n], 0
}
