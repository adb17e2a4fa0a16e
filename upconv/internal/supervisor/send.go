package supervisor

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// decideSendto decides about a sendto(2): one with MSG_FASTOPEN, or one that has an address.
func (w *callsWorker) decideSendto(c *call) outcome {
	c.addr, c.addrLen = c.args[4], uint32(c.args[5])
	flags := uint32(c.args[3])
	if flags&unix.MSG_FASTOPEN != 0 {
		if w.meansNothing(c) {
			if out := w.sendtoDatagram(c); !out.carriesOn() || !w.guards(c) {
				return out
			}
			// It is a stream by now.
		}
		c.fastOpen = fastOpen{on: true, flags: flags}
		if c.args[2] > 0 {
			c.fastOpen.vector = []unix.RemoteIovec{{Base: uintptr(c.args[1]), Len: int(min(c.args[2], maxSent))}}
		}
		return w.connect(c)
	}
	return w.sendtoDatagram(c)
}

// sendtoDatagram is sendto(2) with an address.
func (w *callsWorker) sendtoDatagram(c *call) outcome {
	switch short := c.addr == 0 || c.addrLen < linux.SizeofSockaddrIn; {
	case !w.s.needs.sends:
		return carryOn
	case (short || c.addrLen > linux.SizeofSockaddrStorage) && !(c.indirect && w.guards(c)) && !w.guardsSends(c):
		return carryOn
	case c.addr == 0:
		c.addrLen = 0
	case c.addrLen > linux.SizeofSockaddrStorage:
		return answer(unix.EINVAL)
	}
	o := &w.out
	o.begin(uint32(c.args[3]))
	length := c.args[2]
	const together = 4096 // not so much that it would be a pity to have read it for nothing
	first := int(length)
	if length > together {
		first = 0
	}
	buffer := o.room(int(c.addrLen) + first)
	m := &o.all[0]
	*m = parcel{name: buffer[:c.addrLen], payload: buffer[c.addrLen:]}
	o.vectors = append(o.vectors[:0], unix.RemoteIovec{Base: uintptr(c.addr), Len: int(c.addrLen)}, unix.RemoteIovec{Base: uintptr(c.args[1]), Len: first})
	n, errno := o.Gather(c.tid, buffer, o.vectors)
	if errno != 0 || n < int(c.addrLen) {
		return w.unreadable(c, errno)
	}
	o.messages = o.all[:1]
	if out := w.notElsewhere(c); !out.isUndecided() {
		return out
	}
	switch {
	case length > maxLength:
		m.tooLong = true
	case n < len(buffer):
		return w.badData(c, unix.EFAULT)
	case length > together:
		buffer = o.room(int(c.addrLen) + int(length))
		m.name = append(buffer[:0:len(buffer)], m.name...)
		m.payload = buffer[c.addrLen:]
		if errno := target.ReadMemory(c.tid, c.args[1], m.payload); errno != 0 {
			return w.badData(c, errno)
		}
	}
	return w.sendAll(c)
}

func (w *callsWorker) decideSendmsg(c *call) outcome {
	return w.sendMessages(c, uint32(c.args[2]), 1, 0)
}

func (w *callsWorker) decideSendmmsg(c *call) outcome {
	return w.sendMessages(c, uint32(c.args[3]), int(min(uint32(c.args[2]), linux.MaxIovecs)), c.MmsghdrSize())
}

// sendMessages handles a send of count messages, whose headers are stride bytes from each other. A
// stride of 0 stands for sendmsg(2).
func (w *callsWorker) sendMessages(c *call, flags uint32, count, stride int) outcome {
	if count == 0 {
		return carryOn
	}
	if flags&unix.MSG_FASTOPEN == 0 {
		return w.sendDatagrams(c, flags, count, stride)
	}
	if w.meansNothing(c) {
		if out := w.sendDatagrams(c, flags, count, stride); !out.carriesOn() || !w.guards(c) {
			return out
		}
		// It is a stream by now.
	}
	return w.sendFastOpen(c, flags, stride)
}

// sendDatagrams is sendMessages where those are datagrams.
func (w *callsWorker) sendDatagrams(c *call, flags uint32, count, stride int) outcome {
	if !w.s.needs.sends {
		return carryOn
	}
	o := &w.out
	o.begin(flags)
	for {
		out := w.readMessages(c, min(count-o.sent, maxBatch), stride)
		read := len(o.messages)
		if read > 0 {
			before := o.sent
			if out = w.sendAll(c); stride == 0 || o.sent == 0 {
				return out
			}
			if o.sent-before == read && o.sent < count {
				continue
			}
		}
		if o.sent == 0 {
			return out
		}
		return answerValue(int64(o.sent))
	}
}

// resend makes a send with MSG_FASTOPEN that is about a datagram socket, to which this flag means
// nothing.
func (w *callsWorker) resend(c *call) outcome {
	if !w.s.needs.sends {
		return carryOn
	}
	before := *c
	c.fastOpen = fastOpen{}
	if c.name == "sendmsg" {
		c.args[2] &^= unix.MSG_FASTOPEN
	} else { // sendto, sendmmsg
		c.args[3] &^= unix.MSG_FASTOPEN
	}
	out := w.decideSend(c)
	if out.carriesOn() && w.guards(c) {
		*c = before
		return raced // it is a stream by now
	}
	return out
}

// decideSend handles a send that upconv may leave to the kernel.
func (w *callsWorker) decideSend(c *call) outcome {
	c.sends, c.decide = false, sendAnew
	switch c.name {
	case "sendto":
		return w.decideSendto(c)
	case "sendmsg":
		return w.decideSendmsg(c)
	}
	return w.decideSendmmsg(c)
}

// send handles a stopped sendto(2), sendmsg(2) or sendmmsg(2), or takes it up again on a thread
// that may wait. What is to be left to the kernel upconv makes itself if it must not be left.
func (w *callsWorker) send(c *call) outcome {
	for range maxRaces {
		if c.progress == nil {
			if out := w.decideSend(c); !out.carriesOn() || !w.guardsSends(c) {
				return out
			}
		}
		c.decide = sendAnew
		if out := w.sendInPlace(c); !out.isRaced() {
			return out
		}
		c.progress, c.fastOpen = nil, fastOpen{}
	}
	return answer(unix.EBADF)
}

// sendFastOpen is sendmsg(2) or, if stride is not 0, sendmmsg(2) with MSG_FASTOPEN. Of the latter
// the first message connects, and is all that is sent.
func (w *callsWorker) sendFastOpen(c *call, flags uint32, stride int) outcome {
	c.fastOpen = fastOpen{on: true, flags: flags}
	if stride > 0 {
		c.fastOpen.result = c.args[1] + uint64(c.MsghdrSize()) // msg_len of struct mmsghdr
	}
	var header [linux.SizeofMsghdr]byte
	if target.ReadMemory(c.tid, c.args[1], header[:c.MsghdrSize()]) != 0 {
		if w.s.needs.atSocket() {
			if _, idle := w.idleInEgress(c); idle {
				return answer(unix.EFAULT) // for it could be read the next time
			}
		}
		if w.guards(c) {
			return answer(unix.EFAULT)
		}
		return carryOn // the kernel will say EFAULT
	}
	h := c.Msghdr(header[:])
	c.addr, c.addrLen = h.Name, uint32(h.NameLen)
	if h.NameLen > linux.SizeofSockaddrStorage {
		c.addrLen = linux.SizeofSockaddrStorage // as the kernel cuts it
	}
	c.fastOpen.control, c.fastOpen.controlLength = h.Control, int(min(h.ControlLen, maxControl))
	raw := make([]byte, int(min(h.Count, linux.MaxIovecs))*c.IovecSize())
	if len(raw) > 0 && target.ReadMemory(c.tid, h.Iovecs, raw) != 0 {
		if w.guards(c) {
			return answer(unix.EFAULT)
		}
	} else {
		for i := range len(raw) / c.IovecSize() {
			if base, length := c.Iovec(raw, i); length > 0 {
				c.fastOpen.vector = append(c.fastOpen.vector, unix.RemoteIovec{Base: uintptr(base), Len: int(min(length, maxSent))})
			}
		}
	}
	return w.connect(c)
}
