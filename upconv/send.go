package upconv

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// parcel is one datagram that a program sends. All of it is copied from the target's memory once.
type parcel struct {
	name    []byte // the destination, as the program gave it; empty: none
	payload []byte
	control []byte // as struct cmsghdr of this process
	tooLong bool   // longer than any datagram can be: the payload is left out
	result  uint64 // where the target wants to know how much of it was sent, as sendmmsg(2) does; 0: nowhere
	to      [sizeofSockaddrIn6]byte
}

// outgoing is what a send sends. Its memory is reused.
type outgoing struct {
	flags    uint32
	messages []parcel // those that remain to be sent
	all      [maxBatch]parcel
	sent     int // of sendmmsg(2): how many are

	run   int    // how many of messages go the same way
	fd    int    // a copy of the target's socket, if there is one yet; else -1
	known bool   // that it is a datagram socket
	netns uint64 // what settledIn says of it

	parts   [maxBatch]parts
	headers [maxBatch]mmsghdr
	locals  [maxBatch]unix.Iovec
	vectors []unix.RemoteIovec // what is read of the target's memory
	payload []byte             // headers at first, then what is sent
	more    []byte             // names, vectors and control messages
	gathering
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
	maxBatch     = 64
	maxIovecs    = 1024                            // UIO_MAXIOV, linux/uio.h
	maxControl   = 1 << 16                         // far more than net.core.optmem_max usually lets pass
	maxLength    = 0xffff                          // what fits into the length of a packet
	maxPayload4  = 0xffff - ipv4Header - udpHeader // IPv6 would take more
	maxTogether  = 1 << 20                         // of payload, read at once
	sizeofMsghdr = 56                              // struct msghdr of user space
	compatMsghdr = 28                              // and that of i386
)

// The first argument of socketcall(2) for sends: linux/net.h.
const (
	sysSendto   = 11
	sysSendmsg  = 16
	sysSendmmsg = 20
)

// sendRules stop the calls that send to an address. That of sendmsg(2) and sendmmsg(2) is in memory, which a filter cannot see.
func sendRules() []seccompx.Rule {
	rules := []seccompx.Rule{
		{
			Syscalls: []string{"sendto"},
			When:     []seccompx.Cond{seccompx.Arg(5).Low32().AtLeast(sizeofSockaddrIn), seccompx.Arg(5).Low32().AtMost(sizeofSockaddrStorage)},
			Do:       seccompx.UserNotify,
		},
		{Syscalls: []string{"sendmsg", "sendmmsg"}, Do: seccompx.UserNotify},
	}
	for _, call := range []uint64{sysSendto, sysSendmsg, sysSendmmsg} {
		rules = append(rules, seccompx.Rule{
			Syscalls: []string{"socketcall"}, When: []seccompx.Cond{seccompx.Arg(0).Low32().Equal(call)}, Do: seccompx.UserNotify,
		})
	}
	return rules
}

// sendto handles a stopped sendto(2): one with MSG_FASTOPEN, or one that has an address.
func (w *worker) sendto(c *call) outcome {
	c.name, c.addr, c.addrLen = "sendto", c.args[4], uint32(c.args[5])
	flags := uint32(c.args[3])
	if flags&unix.MSG_FASTOPEN != 0 && !w.meansNothing(c) {
		c.fastOpen = fastOpen{on: true, flags: flags}
		if c.args[2] > 0 {
			c.fastOpen.vector = []unix.RemoteIovec{{Base: uintptr(c.args[1]), Len: int(min(c.args[2], maxFastOpen))}}
		}
		return w.connect(c)
	}
	return w.sendtoDatagram(c)
}

// sendtoDatagram is sendto(2) with an address.
func (w *worker) sendtoDatagram(c *call) outcome {
	if !w.s.needs.sends || c.addr == 0 || c.addrLen < sizeofSockaddrIn || c.addrLen > sizeofSockaddrStorage {
		return carryOn
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
	n, errno := o.gather(c.tid, buffer, o.vectors)
	if errno != 0 || n < int(c.addrLen) {
		return w.unreadable(c, errno)
	}
	o.messages = o.all[:1]
	if out, done := w.notElsewhere(c); done {
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
		if errno := readMemory(c.tid, c.args[1], m.payload); errno != 0 {
			return w.badData(c, errno)
		}
	}
	return w.sendAll(c)
}

// sendmsg handles a stopped sendmsg(2).
func (w *worker) sendmsg(c *call) outcome {
	c.name = "sendmsg"
	return w.sendMessages(c, uint32(c.args[2]), 1, 0)
}

// sendmmsg handles a stopped sendmmsg(2).
func (w *worker) sendmmsg(c *call) outcome {
	c.name = "sendmmsg"
	return w.sendMessages(c, uint32(c.args[3]), int(min(uint32(c.args[2]), maxIovecs)), c.headerSize()+c.wordSize())
}

// wordSize and headerSize are the sizes of a long and of a struct msghdr in the target.
func (c *call) wordSize() int {
	if c.compat {
		return 4
	}
	return 8
}

func (c *call) headerSize() int {
	if c.compat {
		return compatMsghdr
	}
	return sizeofMsghdr
}

// sendMessages handles a send of count messages, whose headers are stride bytes from each other. A stride of 0
// stands for sendmsg(2).
func (w *worker) sendMessages(c *call, flags uint32, count, stride int) outcome {
	switch {
	case count == 0:
		return carryOn
	case flags&unix.MSG_FASTOPEN != 0 && !w.meansNothing(c):
		return w.sendFastOpen(c, flags, stride)
	case !w.s.needs.sends:
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
		return outcome{answered: true, value: int64(o.sent)}
	}
}

// readMessages reads up to n messages into o.messages. Where it cannot read any, it returns what becomes of the call.
func (w *worker) readMessages(c *call, n, stride int) outcome {
	o := &w.out
	o.messages = nil
	hsize, word := c.headerSize(), c.wordSize()
	at := c.args[1] + uint64(o.sent*stride)
	size := (n-1)*stride + hsize
	raw, errno := o.readAround(c.tid, o.room(size+2*reach), uintptr(at), size)
	switch {
	case errno != 0 || len(raw) < hsize:
		return w.unreadable(c, errno)
	case len(raw) < size:
		n = (len(raw)-hsize)/stride + 1
	}
	get := func(from []byte) uint64 {
		if c.compat {
			return uint64(binary.NativeEndian.Uint32(from))
		}
		return binary.NativeEndian.Uint64(from)
	}

	// What the headers lead to: names, vectors, control messages.
	o.vectors = o.vectors[:0]
	total, iovecs := 0, 0
	add := func(at uint64, length int) {
		if length > 0 {
			o.vectors = append(o.vectors, unix.RemoteIovec{Base: uintptr(at), Len: length})
			total += length
		}
	}
	named := false
	for i := range n {
		h := raw[i*stride:]
		m, p := &o.all[i], &o.parts[i]
		*m = parcel{}
		if stride > 0 {
			m.result = at + uint64(i*stride+hsize)
		}
		name, control := get(h), get(h[4*word:])
		p.name = int(int32(binary.NativeEndian.Uint32(h[word:])))
		count, length := get(h[3*word:]), get(h[5*word:])
		if name == 0 {
			p.name = 0
		}
		p.name = min(p.name, sizeofSockaddrStorage)
		if p.name < 0 || count > maxIovecs || length > maxControl || iovecs+int(count) > maxIovecs {
			if i > 0 {
				n = i // as far as that; then it is the first
				break
			}
			if !w.s.moved.Load() {
				return carryOn
			}
			if stream, out := w.isStream(c); stream {
				return out
			}
			switch {
			case p.name < 0:
				return answer(unix.EINVAL)
			case count > maxIovecs:
				return answer(unix.EMSGSIZE)
			}
			return answer(unix.ENOBUFS)
		}
		p.iovecs, p.control = int(count), int(length)
		iovecs += p.iovecs
		named = named || p.name >= sizeofSockaddrIn
		add(name, p.name)
		add(get(h[2*word:]), 2*word*p.iovecs)
		add(control, p.control)
	}
	if !named && !w.s.moved.Load() {
		return carryOn
	}
	if w.s.moved.Load() && !named {
		if stream, out := w.isStream(c); stream {
			return out
		}
	}
	more := o.roomFor(&o.more, total)
	got, errno := o.gatherAround(c.tid, more, o.vectors)
	if errno != 0 && total > 0 {
		return w.unreadable(c, errno)
	}
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		if p.name+2*word*p.iovecs+p.control > got {
			n = i
			break
		}
		got -= p.name + 2*word*p.iovecs + p.control
		m.name, more = more[:p.name], more[p.name:]
		p.vectors, more = more[:2*word*p.iovecs], more[2*word*p.iovecs:]
		m.control, more = more[:p.control], more[p.control:]
	}
	if n == 0 {
		return w.unreadable(c, unix.EFAULT)
	}
	o.messages = o.all[:n]
	if out, done := w.notElsewhere(c); done {
		o.messages = nil
		return out
	}

	// What is to be sent.
	o.messages = nil
	o.vectors = o.vectors[:0]
	total = 0
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		p.payload = 0
		for v := p.vectors; len(v) > 0; v = v[2*word:] {
			length := get(v[word:])
			if length >= 1<<(8*word-1) && i == 0 { // a negative ssize_t: import_iovec in lib/iov_iter.c
				return answer(unix.EINVAL)
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
		for v := p.vectors; len(v) > 0; v = v[2*word:] {
			o.vectors = append(o.vectors, unix.RemoteIovec{Base: uintptr(get(v)), Len: int(get(v[word:]))})
		}
	}
	payload := o.room(total)
	got, errno = o.gather(c.tid, payload, o.vectors)
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		if p.payload > got {
			n = i
			break
		}
		got -= p.payload
		m.payload, payload = payload[:p.payload], payload[p.payload:]
	}
	o.messages = o.all[:n]
	if n == 0 {
		return w.badData(c, errno)
	}
	return carryOn
}

// meansNothing reports whether MSG_FASTOPEN does: the socket is one for datagrams, and some of those have been moved.
func (w *worker) meansNothing(c *call) bool {
	if !w.s.needs.sends || !w.s.moved.Load() {
		return false
	}
	w.out.begin(0)
	stream, _ := w.isStream(c)
	return !stream
}

// isStream reports whether the call is about something that is not a datagram socket, or one of another address family, of which nothing is
// sent elsewhere. If not, a copy of that is in w.out.fd.
func (w *worker) isStream(c *call) (is bool, out outcome) {
	o := &w.out
	if o.fd < 0 {
		fd, out, ok := w.fetch(c, &event{c: c, proto: UDP})
		if !ok {
			return true, out
		}
		o.fd, o.known = fd, false // what was known is of the one before
	}
	if !o.known {
		if o.netns = w.settledIn(o.fd); o.netns == 0 {
			domain := domainOf(o.fd)
			if !isInet(domain) && !(domain == unix.AF_UNIX && w.s.needs.unix) || !isDatagramType(typeOf(o.fd)) {
				w.closeNow(o.fd)
				o.fd = -1
				return true, carryOn
			}
		}
	}
	o.known = true
	return false, out
}

// notElsewhere reports whether the call can be left to the kernel: nothing has been moved yet, and nothing of it is to go
// anywhere but to where the program's sockets are.
func (w *worker) notElsewhere(c *call) (out outcome, is bool) {
	o := &w.out
	if w.s.moved.Load() {
		is, out = w.isStream(c)
		return out, is
	}
	for i := range o.messages {
		if _, dst, ok := sendDestination(o.messages[i].name); ok && w.decideDatagram(dst).Route.Kind != Direct {
			return out, false
		}
	}
	if w.s.events != nil {
		for i := range o.messages {
			if _, dst, ok := sendDestination(o.messages[i].name); ok {
				e := event{began: w.now(), c: c, dst: dst, proto: UDP, decision: w.decideDatagram(dst)}
				w.recordSend(&e, 0)
			}
		}
	}
	return carryOn, true
}

// unreadable is for a call whose memory cannot be read: the kernel will say EFAULT.
func (w *worker) unreadable(c *call, errno unix.Errno) outcome {
	switch {
	case errno == unix.EPERM:
		w.unserved(&event{began: w.now(), c: c, proto: UDP}, "its memory cannot be read", errno)
		return carryOn
	case w.s.moved.Load():
		if stream, out := w.isStream(c); stream {
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
	if stream, out := w.isStream(c); stream {
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
		e := event{began: w.now(), c: c, dst: dst, proto: UDP, decision: Decision{RuleDefault, directRoute}}
		switch {
		case ok:
			e.decision = w.decideDatagram(dst)
		case family == unix.AF_INET6 && len(m.name) >= sizeofSockaddrIn6Min:
			e.dst = inet6Destination(m.name)
		}
		// As many as go the same way.
		o.run = 1
		for o.run < len(o.messages) && e.decision.Route.Kind != Reject {
			as, next, is := sendDestination(o.messages[o.run].name)
			if is != ok || as != family || len(o.messages[o.run].name) == 0 != (len(m.name) == 0) || is && w.decideDatagram(next).Route != e.decision.Route || o.messages[o.run].tooLong {
				break
			}
			o.run++
		}
		before := o.sent
		out := w.sendRun(c, &e, family, ok)
		if o.sent == before || !out.answered || out.errno != 0 {
			return out
		}
		if o.messages = o.messages[o.sent-before:]; len(o.messages) == 0 || o.sent-before < o.run {
			return out
		}
	}
}

// sendDestination is destination for a send: there AF_UNSPEC stands for AF_INET, udp_sendmsg in net/ipv4/udp.c.
func sendDestination(name []byte) (family int, dst netip.AddrPort, ok bool) {
	if len(name) >= sizeofSockaddrIn && binary.NativeEndian.Uint16(name) == unix.AF_UNSPEC {
		return unix.AF_UNSPEC, netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), binary.BigEndian.Uint16(name[2:])), true
	}
	return destination(name)
}

// sendRun sends the first o.run messages, which go the same way.
func (w *worker) sendRun(c *call, e *event, family int, ok bool) (out outcome) {
	o := &w.out
	for range maxRaces {
		old := o.fd
		if o.fd = -1; old < 0 {
			o.known = false
			var is bool
			if old, out, is = w.fetch(c, e); !is {
				return out
			}
			o.netns = w.settledIn(old)
		}
		if !o.known && o.netns == 0 && !isDatagramType(typeOf(old)) {
			return carryOn // a stream is not sent elsewhere by a send
		}
		if w.isThere(e.decision.Route, ok, family, old) {
			return w.stay(c, e, old, &w.socketInfo, nil, o.messages[0].name)
		}
		raced := false
		if !ok && family != unix.AF_INET6 {
			out = w.sendAsIs(c, e, old)
		} else if out, raced = w.place(c, e, family, o.messages[0].name, old); !raced {
			return out
		}
		if !raced {
			return out
		}
		e.note = ""
	}
	return answer(unix.EBADF)
}

// isThere reports, for most datagrams of a program that sends many, whether the socket fd is where its destination is reached:
// an IPv4 one if ipv4, else one of an address family, or none.
func (w *worker) isThere(route *Route, ipv4 bool, family, fd int) bool {
	o := &w.out
	if !ipv4 && family != unix.AF_INET6 { // it goes where the socket is
		return o.netns != 0
	}
	if route.Kind != Netns {
		return false
	}
	cookie := w.s.egressOf(route).cookie
	if o.netns != 0 {
		return o.netns == cookie
	}
	if cookie == w.s.origin.cookie || netnsCookie(fd) != cookie || !isInet(domainOf(fd)) { // a Unix socket may be of any
		return false
	}
	if typeOf(fd) == unix.SOCK_DGRAM { // what a raw one may send can change
		w.noteSettled(fd, cookie)
	}
	return true
}

func isInet(family int) bool { return family == unix.AF_INET || family == unix.AF_INET6 }

// settledSockets are, by their cookies, AF_INET and AF_INET6 datagram sockets of an egress that is not the origin, and the
// namespaces they are in: nothing of that ever changes, and SO_COOKIE alone tells the rest. It may forget.
type settledSockets [64]struct{ cookie, netns uint64 }

// settledIn returns the namespace of the socket fd, if that is known to be a datagram socket of an egress; else 0.
func (w *worker) settledIn(fd int) (netns uint64) {
	cookie := cookieOf(fd)
	known := &w.known[cookie%uint64(len(w.known))]
	if cookie == 0 || known.cookie != cookie || !w.s.inEgress(known.netns) {
		return 0
	}
	return known.netns
}

// noteSettled is for a datagram socket that is in an egress.
func (w *worker) noteSettled(fd int, netns uint64) {
	if w.s.inEgress(netns) {
		cookie := cookieOf(fd)
		known := &w.known[cookie%uint64(len(w.known))]
		known.cookie, known.netns = cookie, netns
	}
}

// sendAsIs sends what has no address, or none that upconv knows, with the socket old as it is.
func (w *worker) sendAsIs(c *call, e *event, old int) outcome {
	sock, o := &w.socketInfo, &w.out
	var x *crossing
	known := examineDatagram(old, sock)
	if w.s.needs.crosses() && (!known || sock.domain == unix.AF_INET6) {
		if family, crossed := w.hasPassport(old); crossed && kindOf(w.crossing.pass.proto) == unix.SOCK_DGRAM {
			switch n := len(o.messages[0].name); {
			case n > 0 && n < sizeofSockaddrIn:
				return answer(unix.EINVAL)
			case n > 0:
				return answer(unix.EAFNOSUPPORT)
			}
			known, x = true, &w.crossing
			x.mapped = false
			x.route = &Route{Kind: Inet6}
			if family == unix.AF_UNIX {
				x.route = &Route{Kind: UnixPath}
				x.path.length = 0
			}
		}
	}
	if !known || sock.netns != w.s.origin.cookie && !w.s.isEgress(sock.netns) {
		return carryOn
	}
	if x == nil && sock.kind == unix.SOCK_DGRAM {
		w.noteSettled(old, sock.netns)
	}
	return w.stay(c, e, old, sock, x, nil)
}

// transmit sends the first o.run messages with the socket fd. x is not nil if it is one of another family.
func (w *worker) transmit(c *call, e *event, fd int, x *crossing) outcome {
	o := &w.out
	if m := &o.messages[0]; m.tooLong || x != nil && len(m.payload) > maxPayload4 {
		return answer(unix.EMSGSIZE)
	}
	if x != nil && o.flags&unix.MSG_OOB != 0 {
		return answer(unix.EOPNOTSUPP) // of which IPv6 knows nothing
	}
	if x != nil && !x.mapped && o.flags&unix.MSG_DONTROUTE != 0 {
		return w.sent(e, unix.ENETUNREACH) // nobody behind a NAT64 is on the link, and IPv6 does not look at this flag
	}
	onUnix := x != nil && x.family() == unix.AF_UNIX
	from := 0
	if x != nil && !onUnix && !x.mapped {
		from = x.pass.family
	}
	n := 0
	for ; n < o.run; n++ {
		m, h := &o.messages[n], &o.headers[n].header
		*h = unix.Msghdr{}
		name := m.name
		switch {
		case len(name) == 0:
		case onUnix:
			if n == 0 {
				if errno := x.path.open(x.route, c.tid); errno != 0 {
					return w.sent(e, x.asInet(e, errno))
				}
				defer x.path.close()
			}
			name = x.path.sa()
		case x != nil && len(m.payload) > maxPayload4:
			o.run = n // n is not 0
		case x != nil:
			if n == 0 {
				m.to = x.to
			} else if !w.translateMessage(x, m) {
				o.run = n // it will be the first of the next
			}
			name = m.to[:]
		}
		if n == o.run {
			break
		}
		payload := m.payload
		if len(name) > 0 {
			h.Name, h.Namelen = &name[0], uint32(len(name))
		}
		if len(payload) > 0 {
			o.locals[n] = unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
			h.Iov, h.Iovlen = &o.locals[n], 1
		}
		if len(m.control) > 0 {
			control, errno := w.sendControl(m.control, c.compat, from)
			switch {
			case errno != 0:
			case w.lacksPrivilege(c, control):
				errno = unix.EPERM
			case x != nil && !x.mapped:
				errno = w.fromElsewhere(m.control, c.compat, x)
			}
			if errno != 0 {
				if n == 0 {
					return w.sent(e, errno)
				}
				o.run = n
				break
			}
			if o.run > 1 && len(control) > 0 && &control[0] != &m.control[0] {
				control = slices.Clone(control) // the next one's would overwrite it
			}
			if len(control) > 0 && !onUnix {
				h.Control, h.Controllen = &control[0], uint64(len(control))
			}
		}
		// In its place, so only when nothing else is wrong with it: it may be the first of the next.
		if x != nil && x.pass.proto == unix.IPPROTO_ICMP && !icmp4to6(payload) {
			if n > 0 {
				o.run = n
				break
			}
			errno := unix.EINVAL // as the kernel says of all but echo requests: ping_supported in net/ipv4/ping.c
			if len(payload) >= icmpHeader && payload[0] == icmpExtEcho {
				e.add("only echo requests go along " + x.route.String())
				errno = unix.ENETUNREACH
			}
			return w.sent(e, errno)
		}
	}
	flags := o.flags&^unix.MSG_ZEROCOPY | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if o.flags&unix.MSG_ZEROCOPY != 0 && !onUnix {
		if lent := o.lend(fd); lent != nil {
			flags |= unix.MSG_ZEROCOPY
			defer o.takeBack(lent)
		}
	}
	var (
		value uintptr
		errno unix.Errno
	)
	for {
		if m := &o.messages[0]; m.result == 0 {
			value, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.headers[0].header)), uintptr(flags))
		} else {
			value, _, errno = unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.headers)), uintptr(o.run), uintptr(flags), 0, 0)
		}
		if errno != unix.EAGAIN || o.flags&unix.MSG_DONTWAIT != 0 || !blocks(fd) {
			break
		}
		// The program waits until there is room.
		if !w.alone {
			return w.s.aside(c, sendAgain)
		}
		if errno = w.waitToSend(c, fd, onUnix); errno != 0 {
			break
		}
	}
	if errno != 0 {
		if onUnix {
			errno = x.asInet(e, errno)
		}
		return w.sent(e, errno)
	}
	w.recordSend(e, 0)
	if o.messages[0].result == 0 {
		o.sent++
		return outcome{answered: true, value: int64(value)}
	}
	o.sent += int(value)
	w.tellLengths(c, int(value))
	return answer(0)
}

// lend copies what is sent to memory that is not used again, if the socket fd says when it has been sent (SO_ZEROCOPY,
// Documentation/networking/msg_zerocopy.rst): the kernel may read it for long. It keeps the pages, so the caller takes them back at
// once. What is sent later, and again, is still in messages. nil: the flag means nothing.
func (o *outgoing) lend(fd int) []byte {
	var on int32
	total := 0
	for i := range o.run {
		total += len(o.messages[i].payload)
	}
	if total == 0 || getsockopt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, unsafe.Pointer(&on), 4) != 0 || on == 0 {
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

// fromElsewhere returns what is wrong with the source address that control messages ask for (IP_PKTINFO): what
// ip_route_output_key_hash_rcu in net/ipv4/route.c says of it.
func (w *worker) fromElsewhere(control []byte, compat bool, x *crossing) unix.Errno {
	for {
		m, rest, ok, _ := takeControl(control, compat)
		if !ok {
			return 0
		}
		control = rest
		at := 4 // ipi_spec_dst
		switch {
		case m.level == unix.IPPROTO_IP && m.name == unix.IP_PKTINFO && len(m.data) == sizeofInPktinfo:
		case m.level == unix.IPPROTO_IPV6 && m.name == unix.IPV6_PKTINFO && len(m.data) >= sizeofIn6Pktinfo && x.pass.family == unix.AF_INET6:
			at = 12 // the end of ipi6_addr, which is IPv4-mapped
		default:
			continue
		}
		switch source := netip.AddrFrom4([4]byte(m.data[at : at+4])); {
		case source.IsUnspecified():
		case source.IsMulticast(), source == broadcast4, source.IsLoopback():
			return unix.EINVAL // from which nothing that is elsewhere is reached
		case source != x.pass.local && !w.s.origin.assigned(source):
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
	local := unix.Iovec{Base: &lengths[0], Len: uint64(4 * n)}
	unix.RawSyscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(c.tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&o.vectors[0])), uintptr(n), 0)
}

// resend makes a send that has been taken for another call.
func (w *worker) resend(c *call) outcome {
	switch {
	case !w.s.needs.sends:
		return carryOn
	case c.name == "sendmsg":
		c.args[2] &^= unix.MSG_FASTOPEN
	default: // sendto, sendmmsg
		c.args[3] &^= unix.MSG_FASTOPEN
	}
	return sendAgain(w, c)
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

// waitToSend waits until a socket may have room, as long as the program would. It holds up its thread.
func (w *worker) waitToSend(c *call, fd int, onUnix bool) unix.Errno {
	if w.sendDeadline.IsZero() {
		w.sendDeadline = time.Now().Add(365 * 24 * time.Hour)
		if timeout := sendTimeout(fd); timeout != 0 {
			w.sendDeadline = time.Now().Add(timeout)
		}
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		if onUnix {
			unix.Poll(nil, int(sampling/time.Millisecond)) // whether the peer has room is known only by trying
		} else if n, _ := unix.Poll(fds, int(sampling/time.Millisecond)); n > 0 {
			return 0
		}
		switch errno := w.watch.look(w.s, c); {
		case errno != 0:
			return errno
		case time.Now().After(w.sendDeadline):
			return unix.EAGAIN
		case onUnix:
			return 0
		}
	}
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
	m.to = x.to // with its scope
	binary.BigEndian.PutUint16(m.to[2:], dst.Port())
	bytes := addr.As16()
	copy(m.to[8:], bytes[:])
	return true
}

// sent records a send that has failed.
func (w *worker) sent(e *event, errno unix.Errno) outcome {
	w.recordSend(e, errno)
	return answer(errno)
}

// recordSend records where a thread's descriptor sends to, when that is new.
func (w *worker) recordSend(e *event, errno unix.Errno) {
	if w.s.events == nil || !e.dst.IsValid() {
		return
	}
	key := sendKey{e.c.tid, e.c.fd, e.dst, errno}
	slot := &w.s.sends[(uint(e.c.tid)*31+uint(e.c.fd)*7+uint(e.dst.Port())+uint(e.dst.Addr().As16()[15]))%uint(len(w.s.sends))]
	if before := slot.Load(); before != nil && *before == key && e.note == "" && !e.moved {
		return
	}
	slot.Store(&key)
	w.s.events.record(e, errno)
}

// sendKey is what one event stands for, however many datagrams follow.
type sendKey struct {
	tid, fd int
	dst     netip.AddrPort
	errno   unix.Errno
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

// readVectors fills buf from the target's memory, of which vectors are the parts. n is how much could be read.
func readVectors(tid int, buf []byte, vectors []unix.RemoteIovec) (n int, errno unix.Errno) {
	if len(buf) == 0 || len(vectors) == 0 {
		return 0, 0
	}
	local := unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}
	got, _, errno := unix.RawSyscall6(unix.SYS_PROCESS_VM_READV, uintptr(tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), 0
}

func blocks(fd int) bool {
	flags, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	return errno == 0 && flags&unix.O_NONBLOCK == 0
}

// lacksPrivilege reports whether control messages need a capability that upconv has and the target has not.
func (w *worker) lacksPrivilege(c *call, control []byte) bool {
	if !privilegedControl(control) {
		return false
	}
	own, errOwn := os.Readlink("/proc/self/ns/user")
	of, err := os.Readlink("/proc/" + strconv.Itoa(c.tid) + "/ns/user")
	if errOwn != nil || err != nil || own != of {
		return true
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(c.tid) + "/status")
	const either = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	return err != nil || statusField(status, "CapEff:", 16)&either == 0
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
			if h.Type == unix.SO_MARK || h.Type == unix.SO_PRIORITY {
				return true
			}
		case unix.IPPROTO_IP:
			if h.Type == unix.IP_RETOPTS {
				return true
			}
		case unix.IPPROTO_IPV6:
			switch h.Type {
			case unix.IPV6_PKTINFO, unix.IPV6_HOPLIMIT, unix.IPV6_TCLASS, unix.IPV6_DONTFRAG, ipv6FlowInfo:
			default:
				return true
			}
		}
		next := min((h.Len+7)&^7, uint64(len(control)))
		control = control[next:]
	}
	return false
}
