package calls

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// decideSendto decides about a sendto(2): one with MSG_FASTOPEN, or one that has an address.
func (w *Worker) decideSendto(c *session.Call) session.Outcome {
	c.Addr, c.AddrLen = c.Args[4], uint32(c.Args[5])
	flags := uint32(c.Args[3])
	if flags&unix.MSG_FASTOPEN != 0 {
		if w.IgnoresFastOpen(c) {
			if out := w.sendtoDatagram(c); !out.CarriesOn() || !w.Guards(c) {
				return out
			}
			// It is a stream by now.
		}
		c.FastOpen = session.FastOpen{On: true, Flags: flags}
		if c.Args[2] > 0 {
			c.FastOpen.Vector = []unix.RemoteIovec{{Base: uintptr(c.Args[1]), Len: int(min(c.Args[2], session.MaxSent))}}
		}
		return w.connect(c)
	}
	return w.sendtoDatagram(c)
}

// sendtoDatagram decides about a sendto(2) that may be of a datagram with an address.
func (w *Worker) sendtoDatagram(c *session.Call) session.Outcome {
	switch short := c.Addr == 0 || c.AddrLen < linux.SizeofSockaddrIn; {
	case !w.s.Needs.Sends:
		return session.CarryOn
	case (short || c.AddrLen > linux.SizeofSockaddrStorage) && !(c.Indirect && w.Guards(c)) && !w.GuardsSends(c):
		return session.CarryOn
	case c.Addr == 0:
		c.AddrLen = 0
	case c.AddrLen > linux.SizeofSockaddrStorage:
		return session.Answer(unix.EINVAL)
	}
	o := &w.Out
	o.Begin(uint32(c.Args[3]))
	length := c.Args[2]
	const together = 4096 // not so much that it would be a pity to have read it for nothing
	first := int(length)
	if length > together {
		first = 0
	}
	buffer := o.Room(int(c.AddrLen) + first)
	m := &o.All[0]
	*m = datagram.Parcel{Name: buffer[:c.AddrLen], Payload: buffer[c.AddrLen:]}
	o.Vectors = append(o.Vectors[:0], unix.RemoteIovec{Base: uintptr(c.Addr), Len: int(c.AddrLen)}, unix.RemoteIovec{Base: uintptr(c.Args[1]), Len: first})
	n, errno := o.Gather(c.TID, buffer, o.Vectors)
	if errno != 0 || n < int(c.AddrLen) {
		return w.Unreadable(c, errno)
	}
	o.Messages = o.All[:1]
	if out := w.NotElsewhere(c); !out.IsUndecided() {
		return out
	}
	switch {
	case length > datagram.MaxLength:
		m.TooLong = true
	case n < len(buffer):
		return w.BadData(c, unix.EFAULT)
	case length > together:
		buffer = o.Room(int(c.AddrLen) + int(length))
		m.Name = append(buffer[:0:len(buffer)], m.Name...)
		m.Payload = buffer[c.AddrLen:]
		if errno := target.ReadMemory(c.TID, c.Args[1], m.Payload); errno != 0 {
			return w.BadData(c, errno)
		}
	}
	return w.SendAll(c)
}

// decideSendmsg decides about a sendmsg(2).
func (w *Worker) decideSendmsg(c *session.Call) session.Outcome {
	return w.sendMessages(c, uint32(c.Args[2]), 1, 0)
}

// decideSendmmsg decides about a sendmmsg(2).
func (w *Worker) decideSendmmsg(c *session.Call) session.Outcome {
	return w.sendMessages(c, uint32(c.Args[3]), int(min(uint32(c.Args[2]), linux.MaxIovecs)), c.MmsghdrSize())
}

// sendMessages decides about a send of count messages, whose headers are stride bytes from each
// other. A stride of 0 stands for sendmsg(2).
func (w *Worker) sendMessages(c *session.Call, flags uint32, count, stride int) session.Outcome {
	if count == 0 {
		return session.CarryOn
	}
	if flags&unix.MSG_FASTOPEN == 0 {
		return w.sendDatagrams(c, flags, count, stride)
	}
	if w.IgnoresFastOpen(c) {
		if out := w.sendDatagrams(c, flags, count, stride); !out.CarriesOn() || !w.Guards(c) {
			return out
		}
		// It is a stream by now.
	}
	return w.sendFastOpen(c, flags, stride)
}

// sendDatagrams is sendMessages where those are datagrams.
func (w *Worker) sendDatagrams(c *session.Call, flags uint32, count, stride int) session.Outcome {
	if !w.s.Needs.Sends {
		return session.CarryOn
	}
	o := &w.Out
	o.Begin(flags)
	for {
		out := w.ReadMessages(c, min(count-o.Sent, datagram.MaxBatch), stride)
		read := len(o.Messages)
		if read > 0 {
			before := o.Sent
			if out = w.SendAll(c); stride == 0 || o.Sent == 0 {
				return out
			}
			if o.Sent-before == read && o.Sent < count {
				continue
			}
		}
		if o.Sent == 0 {
			return out
		}
		return session.AnswerValue(int64(o.Sent))
	}
}

// resend makes a send with MSG_FASTOPEN that is about a datagram socket, to which this flag means
// nothing.
func (w *Worker) resend(c *session.Call) session.Outcome {
	if !w.s.Needs.Sends {
		return session.CarryOn
	}
	before := *c
	c.FastOpen = session.FastOpen{}
	if c.Name == "sendmsg" {
		c.Args[2] &^= unix.MSG_FASTOPEN
	} else { // sendto, sendmmsg
		c.Args[3] &^= unix.MSG_FASTOPEN
	}
	out := w.decideSend(c)
	if out.CarriesOn() && w.Guards(c) {
		*c = before
		return session.Raced // it is a stream by now
	}
	return out
}

// decideSend decides about a send that upconv may leave to the kernel.
func (w *Worker) decideSend(c *session.Call) session.Outcome {
	c.Sends, c.Decide = false, sendAnew
	switch c.Name {
	case "sendto":
		return w.decideSendto(c)
	case "sendmsg":
		return w.decideSendmsg(c)
	}
	return w.decideSendmmsg(c)
}

// send handles a stopped sendto(2), sendmsg(2) or sendmmsg(2), or takes it up again on a thread
// that may wait. What is to be left to the kernel upconv makes itself if it must not be left.
func (w *Worker) send(c *session.Call) session.Outcome {
	for range session.MaxRaces {
		if c.Progress == nil {
			if out := w.decideSend(c); !out.CarriesOn() || !w.GuardsSends(c) {
				return out
			}
		}
		c.Decide = sendAnew
		if out := w.SendInPlace(c); !out.IsRaced() {
			return out
		}
		c.Progress, c.FastOpen = nil, session.FastOpen{}
	}
	return session.Answer(unix.EBADF)
}

// sendFastOpen is sendmsg(2) or, if stride is not 0, sendmmsg(2) with MSG_FASTOPEN. Of the latter
// the first message connects, and is all that is sent.
func (w *Worker) sendFastOpen(c *session.Call, flags uint32, stride int) session.Outcome {
	c.FastOpen = session.FastOpen{On: true, Flags: flags}
	if stride > 0 {
		c.FastOpen.Result = c.Args[1] + uint64(c.MsghdrSize()) // msg_len of struct mmsghdr
	}
	var header [linux.SizeofMsghdr]byte
	if target.ReadMemory(c.TID, c.Args[1], header[:c.MsghdrSize()]) != 0 {
		if w.s.Needs.AtSocket() {
			if _, sock := w.idleInEgress(c); sock != nil {
				return session.Answer(unix.EFAULT) // for it could be read the next time
			}
		}
		if w.Guards(c) {
			return session.Answer(unix.EFAULT)
		}
		return session.CarryOn // the kernel will say EFAULT
	}
	h := c.Msghdr(header[:])
	c.Addr, c.AddrLen = h.Name, uint32(h.NameLen)
	if h.NameLen > linux.SizeofSockaddrStorage {
		c.AddrLen = linux.SizeofSockaddrStorage // as the kernel cuts it
	}
	c.FastOpen.Control, c.FastOpen.ControlLength = h.Control, int(min(h.ControlLen, datagram.MaxControl))
	raw := make([]byte, int(min(h.Count, linux.MaxIovecs))*c.IovecSize())
	if len(raw) > 0 && target.ReadMemory(c.TID, h.Iovecs, raw) != 0 {
		if w.Guards(c) {
			return session.Answer(unix.EFAULT)
		}
	} else {
		for i := range len(raw) / c.IovecSize() {
			if base, length := c.Iovec(raw, i); length > 0 {
				c.FastOpen.Vector = append(c.FastOpen.Vector, unix.RemoteIovec{Base: uintptr(base), Len: int(min(length, session.MaxSent))})
			}
		}
	}
	return w.connect(c)
}
