package supervisor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// decideSendto decides about a sendto(2): one with MSG_FASTOPEN, or one that has an address.
func (w *worker) decideSendto(c *call) outcome {
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
func (w *worker) sendtoDatagram(c *call) outcome {
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

func (w *worker) decideSendmsg(c *call) outcome {
	return w.sendMessages(c, uint32(c.args[2]), 1, 0)
}

func (w *worker) decideSendmmsg(c *call) outcome {
	return w.sendMessages(c, uint32(c.args[3]), int(min(uint32(c.args[2]), linux.MaxIovecs)), c.MmsghdrSize())
}

// sendMessages handles a send of count messages, whose headers are stride bytes from each other. A
// stride of 0 stands for sendmsg(2).
func (w *worker) sendMessages(c *call, flags uint32, count, stride int) outcome {
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
func (w *worker) sendDatagrams(c *call, flags uint32, count, stride int) outcome {
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

// guardsSend reports whether a send must not be left to the kernel, which would look up the
// descriptor and the address anew: a datagram socket has been moved, or may be by another thread
// meanwhile, which can then put it under the number.
func (w *worker) guardsSend(c *call) bool {
	return w.s.moved.Load() || w.sharesTable(c) || w.s.moved.Load()
}

// meansNothing reports whether MSG_FASTOPEN does: the socket is one for datagrams, and not left to
// the kernel.
func (w *worker) meansNothing(c *call) bool {
	if !w.s.needs.sends {
		return false
	}
	w.out.begin(0)
	if !w.guardsSend(c) {
		return false
	}
	out := w.isStream(c)
	stream := !out.isUndecided()
	return !stream
}

// isStream returns what becomes of a call that is about something that is not a datagram socket, or
// one of another address family: of that nothing is sent elsewhere. If it is about one, the outcome
// is undecided, and a copy is in w.out.fd.
func (w *worker) isStream(c *call) outcome {
	o := &w.out
	if o.fd < 0 {
		e := w.newEvent(c, policy.UDP)
		fd, out := w.fetch(c, &e)
		if !out.isUndecided() {
			return out
		}
		o.fd, o.known = fd, false // what was known is of the one before
	}
	if !o.known {
		if o.netns = w.settledIn(o.fd); o.netns == 0 {
			var domain int32
			if errno := linux.Getsockopt(o.fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4); errno != 0 {
				w.closeNow(o.fd)
				o.fd = -1
				return answer(errno) // ENOTSOCK; or EBADF, for O_PATH
			}
			if !linux.IsInet(int(domain)) && !w.tookDatagrams(o.fd, int(domain)) || !linux.IsDatagramType(linux.TypeOf(o.fd)) {
				w.closeNow(o.fd)
				o.fd = -1
				return carryOn
			}
		}
	}
	o.known = true
	return undecided
}

// tookDatagrams reports whether a Unix socket has taken the place of a datagram socket of the
// program's. Others are the program's own, as what it sends there is.
func (w *worker) tookDatagrams(fd, domain int) bool {
	if domain != unix.AF_UNIX || !w.s.needs.unix {
		return false
	}
	_, crossed := w.hasPassport(fd)
	return crossed && linux.KindOf(w.crossing.pass.Proto) == unix.SOCK_DGRAM
}

// notElsewhere returns what becomes of a call that has nothing to do with other sockets than the
// program's: nothing has been moved yet, and nothing of it is to go anywhere but to where they are.
// The outcome of others is undecided.
func (w *worker) notElsewhere(c *call) outcome {
	o := &w.out
	if w.guardsSend(c) {
		return w.isStream(c)
	}
	for i := range o.messages {
		if _, dst, ok := sendDestination(o.messages[i].name); ok && w.decideDatagram(dst).Route.Kind != policy.Direct {
			return undecided
		}
	}
	if w.s.events != nil {
		// Which socket it is has not mattered yet.
		if out := w.isStream(c); !out.isUndecided() {
			return out
		}
		for i := range o.messages {
			if _, dst, ok := sendDestination(o.messages[i].name); ok {
				e := w.newEvent(c, policy.UDP)
				e.Dst, e.From, e.Decision = dst, o.fd, w.decideDatagram(dst)
				w.recordSend(&e, 0)
			}
		}
		w.retag(c, o.fd)
		w.closeNow(o.fd)
		o.fd = -1
	}
	return carryOn
}

// resend makes a send with MSG_FASTOPEN that is about a datagram socket, to which this flag means
// nothing.
func (w *worker) resend(c *call) outcome {
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
func (w *worker) decideSend(c *call) outcome {
	c.sends = false
	switch c.name {
	case "sendto":
		return w.decideSendto(c)
	case "sendmsg":
		return w.decideSendmsg(c)
	}
	return w.decideSendmmsg(c)
}
