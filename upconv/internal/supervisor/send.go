package supervisor

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// parcel is one datagram that a program sends. All of it is copied from the target's memory once.
type parcel struct {
	name    []byte // the destination, as the program gave it; empty: none
	payload []byte
	control []byte // as struct cmsghdr of this process
	tooLong bool   // longer than any datagram can be: the payload is left out
	result  uint64 // where the target wants to know how much of it was sent, as sendmmsg(2) does; 0: nowhere
	to      [linux.SizeofSockaddrIn6]byte
}

// outgoing is what a send sends. Its memory is reused.
type outgoing struct {
	flags    uint32
	messages []parcel // those that remain to be sent
	all      [maxBatch]parcel
	sent     int // of sendmmsg(2): how many are

	run   int                 // how many of messages go the same way
	fd    int                 // a copy of the target's socket, if there is one yet; else -1
	known bool                // that it is a datagram socket
	netns uint64              // what settledIn says of it
	as    *target.Credentials // who sends, where that is not upconv itself: to a Unix socket

	parts   [maxBatch]parts
	headers [maxBatch]mmsghdr
	locals  [maxBatch]unix.Iovec
	vectors []unix.RemoteIovec // what is read of the target's memory
	payload []byte             // headers at first, then what is sent
	more    []byte             // names, vectors and control messages
	target.Gathering
}

// parts is how long the parts of a message are in the target's memory.
type parts struct {
	name, iovecs, control, payload int
	vectors                        []byte // its array of struct iovec
}

// mmsghdr is struct mmsghdr, sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

const (
	maxBatch    = 64
	maxControl  = 1 << 16         // far more than net.core.optmem_max usually lets pass
	maxLength   = 0xffff          // what fits into the length of a packet
	maxPayload4 = 0xffff - 20 - 8 // IPv6 would take more
	maxTogether = 1 << 20         // of payload, read at once
)

// sendto handles a stopped sendto(2): one with MSG_FASTOPEN, or one that has an address.
func (w *worker) sendto(c *call) outcome { return w.sendOrGuard(c, (*worker).decideSendto) }

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
	case !w.s.needs.sends, (short || c.addrLen > linux.SizeofSockaddrStorage) && !(c.indirect && w.guards(c)):
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

// sendmsg handles a stopped sendmsg(2).
func (w *worker) sendmsg(c *call) outcome { return w.sendOrGuard(c, (*worker).decideSendmsg) }

func (w *worker) decideSendmsg(c *call) outcome {
	return w.sendMessages(c, uint32(c.args[2]), 1, 0)
}

// sendmmsg handles a stopped sendmmsg(2).
func (w *worker) sendmmsg(c *call) outcome { return w.sendOrGuard(c, (*worker).decideSendmmsg) }

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

// readMessages reads up to n messages into o.messages. Where it cannot read any, it returns what
// becomes of the call.
func (w *worker) readMessages(c *call, n, stride int) outcome {
	o := &w.out
	o.messages = nil
	n, total, out := w.readHeaders(c, n, stride)
	if n == 0 {
		return out
	}
	if n, out = w.readNames(c, n, total); n == 0 {
		return out
	}
	o.messages = o.all[:n]
	out = w.notElsewhere(c)
	if o.messages = nil; !out.isUndecided() {
		return out
	}
	n, out = w.readPayloads(c, n)
	o.messages = o.all[:n]
	return out
}

// readHeaders reads up to n struct msghdr, and puts what they lead to into o.vectors: total bytes
// of names, vectors and control messages. If it returns n as 0, out is what becomes of the call.
func (w *worker) readHeaders(c *call, n, stride int) (read, total int, out outcome) {
	o := &w.out
	hsize := c.MsghdrSize()
	at := c.args[1] + uint64(o.sent*stride)
	size := (n-1)*stride + hsize
	raw, errno := o.ReadAround(c.tid, o.room(size+2*target.Reach), uintptr(at), size)
	switch {
	case errno != 0 || len(raw) < hsize:
		return 0, 0, w.unreadable(c, errno)
	case len(raw) < size:
		n = (len(raw)-hsize)/stride + 1
	}
	o.vectors = o.vectors[:0]
	add := func(at uint64, length int) {
		if length > 0 {
			o.vectors = append(o.vectors, unix.RemoteIovec{Base: uintptr(at), Len: length})
			total += length
		}
	}
	named, iovecs := false, 0
	for i := range n {
		h := c.Msghdr(raw[i*stride:])
		m, p := &o.all[i], &o.parts[i]
		*m = parcel{}
		if stride > 0 {
			m.result = at + uint64(i*stride+hsize)
		}
		if p.name = 0; h.Name != 0 {
			p.name = min(int(h.NameLen), linux.SizeofSockaddrStorage)
		}
		if p.name < 0 || h.Count > linux.MaxIovecs || h.ControlLen > maxControl || iovecs+int(h.Count) > linux.MaxIovecs {
			if i > 0 {
				n = i // as far as that; then it is the first
				break
			}
			if !w.guardsSend(c) {
				return 0, 0, carryOn
			}
			if out := w.isStream(c); !out.isUndecided() {
				return 0, 0, out
			}
			switch {
			case p.name < 0:
				return 0, 0, answer(unix.EINVAL)
			case h.Count > linux.MaxIovecs:
				return 0, 0, answer(unix.EMSGSIZE)
			}
			return 0, 0, answer(unix.ENOBUFS)
		}
		p.iovecs, p.control = int(h.Count), int(h.ControlLen)
		iovecs += p.iovecs
		named = named || p.name >= linux.SizeofSockaddrIn
		add(h.Name, p.name)
		add(h.Iovecs, p.iovecs*c.IovecSize())
		add(h.Control, p.control)
	}
	if !named {
		if !w.guardsSend(c) || w.seesStream(c) {
			return 0, 0, carryOn
		}
		if out := w.isStream(c); !out.isUndecided() {
			return 0, 0, out
		}
	}
	return n, total, out
}

// readNames reads what the headers of n messages lead to. It returns how many it could be read for;
// if for none, out is what becomes of the call.
func (w *worker) readNames(c *call, n, total int) (read int, out outcome) {
	o := &w.out
	more := o.roomFor(&o.more, total)
	got, errno := o.GatherAround(c.tid, more, o.vectors)
	if errno != 0 && total > 0 {
		return 0, w.unreadable(c, errno)
	}
	take := func(length int) (part []byte) {
		part, more = more[:length], more[length:]
		return part
	}
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		vectors := p.iovecs * c.IovecSize()
		if got -= p.name + vectors + p.control; got < 0 {
			n = i
			break
		}
		m.name, p.vectors, m.control = take(p.name), take(vectors), take(p.control)
	}
	if n == 0 {
		return 0, w.unreadable(c, unix.EFAULT)
	}
	return n, out
}

// readPayloads reads what n messages send, and returns as readNames does.
func (w *worker) readPayloads(c *call, n int) (read int, out outcome) {
	o := &w.out
	o.vectors = o.vectors[:0]
	total, size := 0, c.IovecSize()
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		p.payload = 0
		for v := p.vectors; len(v) > 0; v = v[size:] {
			_, length := c.Iovec(v, 0)
			if c.Negative(length) && i == 0 {
				return 0, answer(unix.EINVAL)
			}
			p.payload += int(min(length, maxLength+1))
		}
		if m.tooLong = p.payload > maxLength; m.tooLong {
			p.payload, p.vectors = 0, nil
		}
		if total+p.payload > maxTogether && i > 0 {
			n = i
			break
		}
		total += p.payload
		for v := p.vectors; len(v) > 0; v = v[size:] {
			base, length := c.Iovec(v, 0)
			o.vectors = append(o.vectors, unix.RemoteIovec{Base: uintptr(base), Len: int(length)})
		}
	}
	payload := o.room(total)
	got, errno := o.Gather(c.tid, payload, o.vectors)
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		if got -= p.payload; got < 0 {
			n = i
			break
		}
		m.payload, payload = payload[:p.payload], payload[p.payload:]
	}
	if n == 0 {
		return 0, w.badData(c, errno)
	}
	return n, out
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
// one of another address family: of that nothing is sent elsewhere. If it is about one, the outcome is
// undecided, and a copy is in w.out.fd.
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

// unreadable is for a call whose memory cannot be read: the kernel will say EFAULT.
func (w *worker) unreadable(c *call, errno unix.Errno) outcome {
	switch {
	case errno == unix.EPERM:
		e := w.newEvent(c, policy.UDP)
		w.unserved(&e, "its memory cannot be read", errno)
		return carryOn
	case w.guardsSend(c):
		if out := w.isStream(c); !out.isUndecided() {
			return out
		}
		return answer(unix.EFAULT) // for it could be read the next time
	}
	return carryOn
}

// badData is for what is to be sent elsewhere and cannot be read.
func (w *worker) badData(c *call, errno unix.Errno) outcome {
	if errno == unix.EPERM {
		return w.unreadable(c, errno)
	}
	if out := w.isStream(c); !out.isUndecided() {
		return out
	}
	return answer(unix.EFAULT)
}

// sendAll sends o.messages, as far as it gets. For sendmmsg(2) o.sent is how many have been.
func (w *worker) sendAll(c *call) outcome {
	o := &w.out
	c.sends = true
	for {
		m := &o.messages[0]
		family, dst, ok := sendDestination(m.name)
		e := w.newEvent(c, policy.UDP)
		e.Dst, e.Decision = dst, policy.DirectDefault
		switch {
		case ok:
			e.Decision = w.decideDatagram(dst)
		case family == unix.AF_INET6 && len(m.name) >= linux.SizeofSockaddrIn6Min:
			e.Dst = linux.Inet6Destination(m.name)
		}
		// As many as go the same way.
		o.run = 1
		for o.run < len(o.messages) && e.Decision.Route.Kind != policy.Reject {
			as, next, is := sendDestination(o.messages[o.run].name)
			if is != ok || as != family || len(o.messages[o.run].name) == 0 != (len(m.name) == 0) || is && w.decideDatagram(next).Route != e.Decision.Route || o.messages[o.run].tooLong {
				break
			}
			o.run++
		}
		before := o.sent
		out := w.sendRun(c, &e, family, ok)
		if o.sent == before || !out.returns() || out.errno != 0 {
			return out
		}
		if o.messages = o.messages[o.sent-before:]; len(o.messages) == 0 || o.sent-before < o.run {
			return out
		}
	}
}

// sendDestination is destination for a send: there AF_UNSPEC stands for AF_INET, udp_sendmsg in
// net/ipv4/udp.c.
func sendDestination(name []byte) (family int, dst netip.AddrPort, ok bool) {
	if len(name) >= linux.SizeofSockaddrIn && binary.NativeEndian.Uint16(name) == unix.AF_UNSPEC {
		return unix.AF_UNSPEC, netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), binary.BigEndian.Uint16(name[2:])), true
	}
	return linux.Destination(name)
}

// sendRun sends the first o.run messages, which go the same way.
func (w *worker) sendRun(c *call, e *event.Pending, family int, ok bool) (out outcome) {
	o := &w.out
	for range maxRaces {
		old := o.fd
		if o.fd = -1; old < 0 {
			o.known = false
			if old, out = w.fetch(c, e); !out.isUndecided() {
				return out
			}
			o.netns = w.settledIn(old)
		}
		if !o.known && o.netns == 0 && !linux.IsDatagramType(linux.TypeOf(old)) {
			return carryOn // a stream is not sent elsewhere by a send
		}
		if w.isThere(e.Decision.Route, ok, family, old) {
			return w.stay(c, e, old, nil, o.messages[0].name)
		}
		if !ok && !e.Dst.IsValid() {
			return w.sendAsIs(c, e, old)
		}
		if out = w.place(c, e, family, o.messages[0].name, old); !out.isRaced() {
			return out
		}
		e.Note = ""
	}
	return answer(unix.EBADF)
}

// isThere reports, for most datagrams of a program that sends many, whether the socket fd is where
// its destination is reached: an IPv4 one if ipv4, else one of an address family, or none.
func (w *worker) isThere(route *policy.Route, ipv4 bool, family, fd int) bool {
	o := &w.out
	if !ipv4 && family != unix.AF_INET6 { // it goes where the socket is
		return o.netns != 0
	}
	switch route.Kind {
	case policy.Netns:
	case policy.Direct:
		return family != unix.AF_INET6 && w.staysHome(fd)
	default:
		return false
	}
	cookie := w.s.egressOf(route).Cookie
	if o.netns != 0 {
		return o.netns == cookie
	}
	if cookie == w.s.origin.Cookie || linux.NetnsCookie(fd) != cookie || !linux.IsInet(linux.DomainOf(fd)) { // a Unix socket may be of any
		return false
	}
	if linux.TypeOf(fd) != unix.SOCK_DGRAM { // what a raw one may send can change
		return !sockstate.SendsHeaders(fd)
	}
	w.noteSettled(fd, cookie)
	return true
}

// staysHome is isThere for what is direct: the socket fd is of the origin.
func (w *worker) staysHome(fd int) bool {
	origin := w.s.origin.Cookie
	if netns := w.out.netns; netns != 0 {
		return netns == origin
	}
	if linux.NetnsCookie(fd) != origin || linux.DomainOf(fd) != unix.AF_INET || linux.TypeOf(fd) != unix.SOCK_DGRAM {
		return false
	}
	w.noteSettled(fd, origin)
	return true
}

// settledSockets are, by their cookies, AF_INET and AF_INET6 datagram sockets of an egress that is
// not the origin, and AF_INET ones of the origin if that is no egress, with the namespaces they are
// in: nothing of that ever changes, and SO_COOKIE alone tells the rest. It may forget.
type settledSockets [64]struct{ cookie, netns uint64 }

// settledIn returns the namespace of the socket fd, if that is known to be a datagram socket that
// stays there; else 0.
func (w *worker) settledIn(fd int) (netns uint64) {
	cookie := linux.CookieOf(fd)
	known := &w.known[cookie%uint64(len(w.known))]
	if cookie == 0 || known.cookie != cookie || !w.settles(known.netns) {
		return 0
	}
	return known.netns
}

// settles reports whether sockets of a namespace are noted in settledSockets.
func (w *worker) settles(netns uint64) bool {
	return (netns == w.s.origin.Cookie) != w.s.isEgress(netns)
}

// noteSettled is for a datagram socket that is in an egress, or an AF_INET one in the origin.
func (w *worker) noteSettled(fd int, netns uint64) {
	if w.settles(netns) {
		cookie := linux.CookieOf(fd)
		known := &w.known[cookie%uint64(len(w.known))]
		known.cookie, known.netns = cookie, netns
	}
}

// sendAsIs sends what has no address, or none that upconv knows, with the socket old as it is.
func (w *worker) sendAsIs(c *call, e *event.Pending, old int) outcome {
	sock, o := &w.socketInfo, &w.out
	var x *crossing
	known := sockstate.ExamineDatagram(old, sock)
	if w.s.needs.crosses() && (!known || sock.Domain == unix.AF_INET6) {
		if family, crossed := w.hasPassport(old); crossed && linux.KindOf(w.crossing.pass.Proto) == unix.SOCK_DGRAM {
			switch n := len(o.messages[0].name); {
			case n > 0 && (n < linux.SizeofSockaddrIn || w.crossing.pass.Family == unix.AF_INET6):
				return answer(unix.EINVAL)
			case n > 0:
				return answer(unix.EAFNOSUPPORT)
			}
			known, x = true, &w.crossing
			x.route, x.mapped = someInet6, false
			if family == unix.AF_UNIX {
				x.route, x.path.length = someUnix, 0
			}
		}
	}
	switch {
	case x != nil: // whatever namespace a Unix socket is of
	case sock.Headers && w.s.inEgress(sock.Netns): // to its peer, if it has one
	case !known || sock.Netns != w.s.origin.Cookie && !w.s.isEgress(sock.Netns): // none of ours
	case sock.Kind == unix.SOCK_DGRAM && (sock.Domain == unix.AF_INET || sock.Netns != w.s.origin.Cookie):
		w.noteSettled(old, sock.Netns)
	}
	return w.stay(c, e, old, x, nil)
}

// transmit sends the first o.run messages with the socket fd. x is not nil if it is one of another
// family.
func (w *worker) transmit(c *call, e *event.Pending, fd int, x *crossing) outcome {
	o := &w.out
	o.as = nil
	onUnix := x != nil && x.family() == unix.AF_UNIX
	switch m := &o.messages[0]; {
	case m.tooLong || x != nil && len(m.payload) > maxPayload4:
		return answer(unix.EMSGSIZE)
	case x != nil && o.flags&unix.MSG_OOB != 0:
		return answer(unix.EOPNOTSUPP) // of which IPv6 knows nothing
	case x != nil && !x.mapped && o.flags&unix.MSG_DONTROUTE != 0:
		return w.sent(e, unix.ENETUNREACH) // nobody behind a NAT64 is on the link, and IPv6 does not look at this flag
	case onUnix && len(m.name) > 0:
		if errno := x.path.open(w.s, x.route, c.tid); errno != 0 {
			return w.sent(e, x.asInet(e, errno))
		}
		defer x.path.close()
		o.as = x.path.as
	case onUnix:
		var errno unix.Errno
		if o.as, errno = w.s.targets.CredentialsOf(c.tid); errno != 0 {
			return w.sent(e, errno)
		}
	}
	for n := range o.run {
		if errno := w.pack(c, e, x, n); errno != 0 {
			if n == 0 {
				return w.sent(e, errno)
			}
			o.run = n // it will be the first of the next
			break
		}
	}
	flags := o.flags&^unix.MSG_ZEROCOPY | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if o.flags&unix.MSG_ZEROCOPY != 0 && !onUnix {
		if lent := o.lend(fd); lent != nil {
			flags |= unix.MSG_ZEROCOPY
			defer o.takeBack(lent)
		}
	}
	value, errno := o.submit(fd, flags)
	for errno == unix.EAGAIN && o.flags&unix.MSG_DONTWAIT == 0 && linux.Blocks(fd) && !lacksPort(fd, onUnix) {
		// The program waits until there is room. Not in the middle of a move: workers may want that
		// lock, and what comes for the old socket would not be handed on.
		if !w.alone || w.moving {
			return aside(sendAgain)
		}
		if errno = w.waitToSend(fd, x.unixPeer()); errno != 0 {
			break
		}
		value, errno = o.submit(fd, flags)
	}
	if errno != 0 {
		if onUnix {
			errno = x.asInet(e, errno)
		}
		return w.sent(e, errno)
	}
	if !o.many() {
		w.recordSent(e, 1)
		o.sent++
		return answerValue(int64(value))
	}
	w.recordSent(e, value)
	o.sent += value
	w.tellLengths(c, value)
	return answer(0)
}

// pack puts the n-th message into o.headers as the socket is to send it; x is as for transmit. The
// errno is what is wrong with it.
func (w *worker) pack(c *call, e *event.Pending, x *crossing, n int) unix.Errno {
	o := &w.out
	m, h := &o.messages[n], &o.headers[n].header
	*h = unix.Msghdr{}
	onUnix := x != nil && x.family() == unix.AF_UNIX
	name := m.name
	switch {
	case x != nil && len(m.payload) > maxPayload4:
		return unix.EMSGSIZE
	case len(name) == 0:
	case onUnix:
		name = x.path.sa()
	case x != nil:
		if n == 0 {
			m.to = x.to
		} else if !w.translateMessage(x, m) {
			return unix.ENETUNREACH
		}
		name = m.to[:]
	}
	if len(name) > 0 {
		h.Name, h.Namelen = &name[0], uint32(len(name))
	}
	if len(m.payload) > 0 {
		o.locals[n] = unix.Iovec{Base: &m.payload[0], Len: uint64(len(m.payload))}
		h.Iov, h.Iovlen = &o.locals[n], 1
	}
	if len(m.control) > 0 {
		control, errno := w.packControl(c, m.control, x)
		if errno != 0 {
			return errno
		}
		if o.run > 1 && len(control) > 0 && &control[0] != &m.control[0] {
			control = slices.Clone(control) // the next one's would overwrite it
		}
		if len(control) > 0 && !onUnix {
			h.Control, h.Controllen = &control[0], uint64(len(control))
		}
	}
	if o.as != nil {
		control := appendCredentials(nil, w.s.pid, o.as)
		h.Control, h.Controllen = &control[0], uint64(len(control))
	}
	// In its place, so only when nothing else is wrong with it: it may be the first of the next.
	if x != nil && x.pass.Proto == unix.IPPROTO_ICMP && !siit.ICMP4To6(m.payload) {
		if len(m.payload) < siit.SizeofICMPHeader || m.payload[0] != siit.ICMPExtEcho {
			return unix.EINVAL // as the kernel says of all but echo requests: ping_supported in net/ipv4/ping.c
		}
		if n == 0 {
			e.Add("only echo requests go along " + x.route.String())
		}
		return unix.ENETUNREACH
	}
	return 0
}

// packControl returns the control messages to send for those that the program sends, as toSend
// does; x is as for transmit.
func (w *worker) packControl(c *call, raw []byte, x *crossing) (control []byte, errno unix.Errno) {
	translates := x != nil && !x.mapped
	from := 0
	if translates {
		from = x.pass.Family // for a Unix socket only to see what is wrong with them: they are left out
	}
	control, errno = w.control.ToSend(raw, c.Compat, from)
	switch {
	case w.lacksPrivilege(c, control):
		errno = unix.EPERM
	case errno != 0 && len(control) > 0 && x.family() == unix.AF_INET6:
		errno = 0 // the kernel looks at them in order, and may say something else to one before
	case errno != 0:
	case translates:
		errno = w.fromElsewhere(raw, c.Compat, x)
	}
	return control, errno
}

// submit makes the call that the program has made, with what pack has put into o.headers.
func (o *outgoing) submit(fd int, flags uint32) (value int, errno unix.Errno) {
	if errno := o.as.Become(); errno != 0 {
		return 0, errno
	}
	var n uintptr
	if o.many() {
		n, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.headers)), uintptr(o.run), uintptr(flags), 0, 0)
	} else {
		n, _, errno = unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.headers[0].header)), uintptr(flags))
	}
	o.as.Revert()
	return int(n), errno
}

// many reports whether the call is sendmmsg(2).
func (o *outgoing) many() bool { return o.messages[0].result != 0 }

// lend copies what is sent to memory that is not used again, if the socket fd says when it has been
// sent (SO_ZEROCOPY, Documentation/networking/msg_zerocopy.rst): the kernel may read it for long.
// It keeps the pages, so the caller takes them back at once. What is sent later, and again, is
// still in messages. nil: the flag means nothing.
func (o *outgoing) lend(fd int) []byte {
	var on int32
	total := 0
	for i := range o.run {
		total += len(o.messages[i].payload)
	}
	if total == 0 || linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, unsafe.Pointer(&on), 4) != 0 || on == 0 {
		return nil
	}
	memory, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil
	}
	at := 0
	for i := range o.run {
		if payload := o.messages[i].payload; len(payload) > 0 {
			o.locals[i].Base = &memory[at]
			at += copy(memory[at:], payload)
		}
	}
	return memory
}

// takeBack unmaps what lend has returned, and sees that nothing refers to it any more.
func (o *outgoing) takeBack(lent []byte) {
	clear(o.locals[:o.run])
	unix.Munmap(lent)
}

// fromElsewhere returns what is wrong with the source address that control messages ask for
// (IP_PKTINFO): what ip_route_output_key_hash_rcu in net/ipv4/route.c says of it.
func (w *worker) fromElsewhere(control []byte, compat bool, x *crossing) unix.Errno {
	for {
		m, rest, ok, _ := siit.TakeControl(control, compat)
		if !ok {
			return 0
		}
		control = rest
		at := 4 // ipi_spec_dst
		switch {
		case m.Level == unix.IPPROTO_IP && m.Name == unix.IP_PKTINFO && len(m.Data) == siit.SizeofInPktinfo:
		case m.Level == unix.IPPROTO_IPV6 && m.Name == unix.IPV6_PKTINFO && len(m.Data) >= siit.SizeofIn6Pktinfo && x.pass.Family == unix.AF_INET6:
			at = 12 // the end of ipi6_addr, which is IPv4-mapped
		default:
			continue
		}
		switch source := netip.AddrFrom4([4]byte(m.Data[at : at+4])); {
		case source.IsUnspecified():
		case source.IsMulticast(), source == broadcast4, source.IsLoopback():
			return unix.EINVAL // from which nothing that is elsewhere is reached
		case source != x.pass.Local && !w.s.told.has(source) && !w.s.origin.Assigned(source):
			return unix.ENETUNREACH
		}
	}
}

// tellLengths gives the target msg_len of the first n messages.
func (w *worker) tellLengths(c *call, n int) {
	o := &w.out
	o.vectors = o.vectors[:0]
	var lengths [4 * maxBatch]byte
	for i := range n {
		binary.NativeEndian.PutUint32(lengths[4*i:], o.headers[i].length)
		o.vectors = append(o.vectors, unix.RemoteIovec{Base: uintptr(o.messages[i].result), Len: 4})
	}
	transfer(c.tid, lengths[:4*n], nil, o.vectors)
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

// sendAgain makes a send on a thread that may wait.
func sendAgain(w *worker, c *call) outcome {
	c.sends = false
	switch c.name {
	case "sendto":
		return w.sendto(c)
	case "sendmsg":
		return w.sendmsg(c)
	}
	return w.sendmmsg(c)
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

// translateMessage puts where a message goes along x into m.to.
func (w *worker) translateMessage(x *crossing, m *parcel) bool {
	_, dst, _ := sendDestination(m.name)
	addr, err := dst.Addr(), error(nil)
	if !x.mapped {
		addr, err = w.s.translate(x.route, dst.Addr())
	}
	if err != nil {
		return false
	}
	m.to = linux.SockaddrIn6(addr, dst.Port())
	copy(m.to[24:], x.to[24:]) // sin6_scope_id
	return true
}

// sent records a send that has failed.
func (w *worker) sent(e *event.Pending, errno unix.Errno) outcome {
	w.recordSend(e, errno)
	return answer(errno)
}

// recordSend records where a socket sends to, when that is new.
func (w *worker) recordSend(e *event.Pending, errno unix.Errno) {
	if w.s.events == nil || !e.Dst.IsValid() {
		return
	}
	fd := e.Local
	if fd == 0 {
		fd = e.From
	}
	key := sendKey{linux.CookieOf(fd), e.Dst, errno, e.Note}
	slot := &w.s.sends[(uint(key.cookie)*7+uint(e.Dst.Port())+uint(e.Dst.Addr().As16()[15]))%uint(len(w.s.sends))]
	if before := slot.Load(); before != nil {
		if key.note == "" {
			key.note = before.note // which has been told
		}
		if *before == key {
			return
		}
		key.note = e.Note
	}
	slot.Store(&key)
	w.s.events.Record(e, errno)
}

// recordSent is recordSend for the first n messages, which have gone the same way as e.dst, the
// first one's.
func (w *worker) recordSent(e *event.Pending, n int) {
	w.recordSend(e, 0)
	if w.s.events == nil || !e.Dst.IsValid() {
		return
	}
	for _, m := range w.out.messages[1:max(n, 1)] {
		if _, dst, ok := sendDestination(m.name); ok && dst != e.Dst {
			e.Dst, e.Decision, e.Note = dst, w.decideDatagram(dst), ""
			e.Recorded = false // it was that of another message
			w.recordSend(e, 0)
		}
	}
}

// sendKey is what one event stands for, however many datagrams follow. The socket is told by its
// cookie.
type sendKey struct {
	cookie uint64
	dst    netip.AddrPort
	errno  unix.Errno
	note   string
}

// begin empties o.
func (o *outgoing) begin(flags uint32) {
	o.flags, o.messages, o.sent, o.fd, o.known, o.netns = flags, nil, 0, -1, false, 0
}

// room returns n bytes, which the next room overwrites.
func (o *outgoing) room(n int) []byte { return o.roomFor(&o.payload, n) }

func (o *outgoing) roomFor(buffer *[]byte, n int) []byte {
	if n > len(*buffer) {
		*buffer = make([]byte, max(n, 4096))
	}
	return (*buffer)[:n:n]
}

// lacksPrivilege reports whether control messages need a capability that upconv has and the target
// has not.
func (w *worker) lacksPrivilege(c *call, control []byte) bool {
	if !privilegedControl(control) || !linux.HasCapability(unix.CAP_NET_ADMIN) && !linux.HasCapability(unix.CAP_NET_RAW) {
		return false
	}
	own, errOwn := os.Readlink("/proc/self/ns/user")
	of, err := os.Readlink("/proc/" + strconv.Itoa(c.tid) + "/ns/user")
	if errOwn != nil || err != nil || own != of {
		return true
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(c.tid) + "/status")
	const either = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	return err != nil || target.StatusField(status, "CapEff:", 16)&either == 0
}

// ordinaryPriority reports whether everybody may set a priority, or nobody: sk_set_prio_allowed in
// include/net/sock.h.
func ordinaryPriority(data []byte) bool {
	return len(data) != 4 || binary.NativeEndian.Uint32(data) <= 6
}

// privilegedControl reports whether there is anything in control messages that takes a capability.
func privilegedControl(control []byte) bool {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		if h.Len < unix.SizeofCmsghdr || h.Len > uint64(len(control)) {
			return false // EINVAL
		}
		switch h.Level {
		case unix.SOL_SOCKET:
			if h.Type == unix.SO_MARK || h.Type == unix.SO_PRIORITY && !ordinaryPriority(control[unix.SizeofCmsghdr:h.Len]) {
				return true
			}
		case unix.IPPROTO_IP:
			if h.Type == unix.IP_RETOPTS {
				return true
			}
		case unix.IPPROTO_IPV6:
			if h.Type == siit.RefusedControl && h.Len == unix.SizeofCmsghdr {
				return false // EINVAL
			}
			switch h.Type {
			case unix.IPV6_PKTINFO, unix.IPV6_HOPLIMIT, unix.IPV6_TCLASS, unix.IPV6_DONTFRAG, sockstate.IPv6FlowInfo:
			default:
				return true
			}
		}
		next := min((h.Len+7)&^7, uint64(len(control)))
		control = control[next:]
	}
	return false
}

// sizeofUcred is struct ucred, unix(7).
const sizeofUcred = 12

// appendCredentials appends the control message that has the receiver of a datagram see c as its sender.
func appendCredentials(control []byte, pid int, c *target.Credentials) []byte {
	var ucred [sizeofUcred]byte
	for i, value := range []int{pid, c.UID, c.GID} {
		binary.NativeEndian.PutUint32(ucred[4*i:], uint32(value))
	}
	return siit.AppendControl(control, unix.SOL_SOCKET, unix.SCM_CREDENTIALS, ucred[:])
}
