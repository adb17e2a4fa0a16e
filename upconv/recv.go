package upconv

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Receiving on sockets that have been replaced by ones of another family. Where a program could
// notice, because it asks for the source or for control messages, upconv receives for it, on the
// copy of the socket that it has fetched, and gives it what an AF_INET socket would have.
// Everything else goes on as it stands: recv(2) and read(2) never stop.
//
// What is done with the target's memory, in which order, and which errors come before and which
// after the datagram is gone from the queue, is as in net/socket.c.

// reception is a call that receives on a socket of another family than the program thinks it has.
type reception struct {
	s       *session
	c       call
	kind    receptionKind
	fd      int // the socket
	family  int // what it is
	pass    passport.Passport
	flags   uint32 // of the call
	message message

	moves    uint64 // see receivers
	patient  bool   // it waits for a datagram if need be
	shutdown bool   // nothing comes any more: shutdown(2)

	// Of recvmmsg(2):
	at, count, done uint64 // where the messages are, how many there are, and have been received
	parsed          bool   // message is the one that done counts to
	timeout         timeout
}

type receptionKind uint8

const (
	receivesFrom receptionKind = iota
	receivesMessage
	receivesMessages
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

// receiveBuffers are what a datagram is received into.
type receiveBuffers struct {
	data    []byte
	name    [linux.SizeofSockaddrStorage]byte
	control [8 << 10]byte // more than extension headers can be
	out     siit.Controls
	vector  []unix.RemoteIovec // of the message
	raw     []byte             // the same as the target has it
	ahead   ahead
	rest    []byte             // what is to be written besides the data
	remote  []unix.RemoteIovec // where all of it goes
	told    [linux.SizeofSockaddrIn6]byte
}

const (
	// maxDatagram is more than any UDP or ICMP datagram has, or several that UDP_GRO has joined.
	maxDatagram = 64 << 10
	maxTransfer = 0x7ffff000 // MAX_RW_COUNT
)

// buffers returns the worker's own.
func (w *worker) buffers() *receiveBuffers {
	if w.receive == nil {
		w.receive = &receiveBuffers{}
	}
	return w.receive
}

// recvfrom handles a stopped recvfrom(2).
func (w *worker) recvfrom(c *call) outcome {
	flags := uint32(c.args[3])
	if c.args[4] == 0 && flags&unix.MSG_ERRQUEUE == 0 {
		return carryOn
	}
	r, ok := w.reception(c, receivesFrom, flags)
	size := min(c.args[2], maxTransfer)
	if !ok || !inUserSpace(c.args[1], size) {
		return carryOn
	}
	b := w.buffers()
	b.vector = append(b.vector[:0], unix.RemoteIovec{Base: uintptr(c.args[1]), Len: int(size)})
	r.message = message{name: c.args[4], vector: b.vector, room: int(size)}
	return w.receiveNow(r)
}

// recvmsg handles a stopped recvmsg(2).
func (w *worker) recvmsg(c *call) outcome {
	flags := uint32(c.args[2])
	if !w.s.anyCrossed.Load() || flags&msgCompat != 0 {
		return carryOn
	}
	b := w.buffers()
	var m message
	if errno := m.readHeader(c, c.args[1]); errno != 0 || m.name == 0 && (m.control == 0 || m.controlLen == 0) && flags&unix.MSG_ERRQUEUE == 0 {
		return carryOn
	}
	r, ok := w.reception(c, receivesMessage, flags)
	if !ok || m.readVector(c, b) != 0 {
		return carryOn
	}
	r.message = m
	return w.receiveNow(r)
}

// recvmmsg handles a stopped recvmmsg(2).
func (w *worker) recvmmsg(c *call) outcome { return w.receiveMany(c, !c.Compat) }

// recvmmsgTime64 handles a stopped recvmmsg_time64(2) of i386.
func (w *worker) recvmmsgTime64(c *call) outcome { return w.receiveMany(c, true) }

func (w *worker) receiveMany(c *call, time64 bool) outcome {
	flags := uint32(c.args[3])
	count := uint64(uint32(c.args[2]))
	if !w.s.anyCrossed.Load() || flags&msgCompat != 0 || count == 0 {
		return carryOn
	}
	limit := timeout{at: c.args[4], time64: time64}
	if limit.at != 0 && !limit.read(c) {
		return carryOn // EFAULT or EINVAL
	}
	r, ok := w.reception(c, receivesMessages, flags)
	if !ok {
		return carryOn
	}
	r.at, r.count, r.timeout = c.args[1], count, limit
	b := w.buffers()
	b.ahead.count = 0
	if r.parse(b) != 0 {
		return carryOn // and the kernel says so
	}
	return w.receiveNow(r)
}

// msgCompat is MSG_CMSG_COMPAT, which only the kernel itself may give: linux/socket.h.
const msgCompat = 1 << 31

// inUserSpace reports whether memory can be the program's: access_ok.
func inUserSpace(at, size uint64) bool { return at+size >= at && at+size < 1<<63 }

// reception begins one, on a copy of the target's socket that tidy closes. ok is false where the
// call can go on as it stands.
func (w *worker) reception(c *call, kind receptionKind, flags uint32) (r *reception, ok bool) {
	moves := w.s.receivers.moves.Load() // first
	fd, family, ok := w.crossedFD(c)
	if !ok {
		return nil, false
	}
	p := &w.crossing.pass
	if linux.KindOf(p.Proto) == unix.SOCK_STREAM && flags&unix.MSG_ERRQUEUE == 0 {
		return nil, false // it tells nothing of its peer
	}
	r = &w.reading
	*r = reception{s: w.s, c: *c, kind: kind, fd: fd, family: family, pass: *p, flags: flags, moves: moves}
	return r, true
}

// receiveNow receives what is there. Where there is nothing yet, it leaves the call to those that
// wait.
func (w *worker) receiveNow(r *reception) outcome {
	out, state := r.step(w.buffers())
	if state == received {
		return out
	}
	for i, fd := range w.done { // the one who waits owns it
		if fd == r.fd {
			w.done = append(w.done[:i], w.done[i+1:]...)
		}
	}
	return w.s.receivers.wait(r, state)
}

// readHeader reads a struct msghdr.
func (m *message) readHeader(c *call, at uint64) unix.Errno {
	var raw [linux.SizeofMsghdr]byte
	size := c.MsghdrSize() // all of it, like the kernel: what is not there may be at its end
	if target.ReadMemory(c.tid, at, raw[:size]) != 0 {
		return unix.EFAULT
	}
	return m.decodeHeader(c, at, raw[:])
}

// decodeHeader takes what is in a struct msghdr: __copy_msghdr.
func (m *message) decodeHeader(c *call, at uint64, raw []byte) unix.Errno {
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

// readVector reads its array of struct iovec.
func (m *message) readVector(c *call, b *receiveBuffers) unix.Errno {
	size := m.vectorCount * c.IovecSize()
	if len(b.raw) < size {
		b.raw = make([]byte, max(size, 256))
	}
	if size > 0 && target.ReadMemory(c.tid, m.vectorAt, b.raw[:size]) != 0 {
		return unix.EFAULT
	}
	return m.decodeVector(c, b, b.raw)
}

// decodeVector takes what is in the array of struct iovec: import_iovec.
func (m *message) decodeVector(c *call, b *receiveBuffers, raw []byte) unix.Errno {
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

// ahead is what recvmmsg(2) has read of the messages that come next: at once, where that goes.
type ahead struct {
	first, count uint64 // which
	headers      [(linux.SizeofMsghdr + 8) * readAhead]byte
	vectors      []byte
	at           [readAhead]int // where the vector of each is; -1: it has not been read
}

const (
	readAhead       = 32
	vectorReadAhead = 4 // of a message that has no more
)

// parse reads the message that is next, for recvmmsg(2).
func (r *reception) parse(b *receiveBuffers) unix.Errno {
	size := uint64(r.c.MmsghdrSize())
	a := &b.ahead
	if r.done < a.first || r.done >= a.first+a.count {
		r.readAhead(b, size)
	}
	m := &r.message
	if a.count == 0 {
		return unix.EFAULT
	}
	i := r.done - a.first
	errno := m.decodeHeader(&r.c, r.at+r.done*size, a.headers[i*size:(i+1)*size])
	if errno == 0 && a.at[i] >= 0 {
		errno = m.decodeVector(&r.c, b, a.vectors[a.at[i]:])
	} else if errno == 0 {
		errno = m.readVector(&r.c, b)
	}
	r.parsed = errno == 0
	return errno
}

// readAhead reads the messages from the next one on: at least that one, unless it cannot be read.
func (r *reception) readAhead(b *receiveBuffers, size uint64) {
	a := &b.ahead
	a.first, a.count = r.done, min(r.count-r.done, readAhead)
	if target.ReadMemory(r.c.tid, r.at+r.done*size, a.headers[:a.count*size]) != 0 {
		if a.count = 1; target.ReadMemory(r.c.tid, r.at+r.done*size, a.headers[:size]) != 0 {
			a.count = 0
			return
		}
	}
	total := 0
	var where [readAhead]unix.RemoteIovec
	n := 0
	for i := range a.count {
		a.at[i] = -1
		var m message
		if m.decodeHeader(&r.c, 0, a.headers[i*size:(i+1)*size]) != 0 || m.vectorCount > vectorReadAhead || m.vectorCount == 0 {
			continue
		}
		length := m.vectorCount * r.c.IovecSize()
		where[n] = unix.RemoteIovec{Base: uintptr(m.vectorAt), Len: length}
		n++
		a.at[i] = total
		total += length
	}
	if n == 0 {
		return
	}
	if a.vectors == nil {
		a.vectors = make([]byte, 16*vectorReadAhead*readAhead)
	}
	if got, errno := target.ReadVectors(r.c.tid, a.vectors[:total], where[:n]); errno != 0 || got != total {
		for i := range a.at {
			a.at[i] = -1
		}
	}
}

// receptionState says how far a reception is.
type receptionState uint8

const (
	received    receptionState = iota // it has its outcome
	nothingYet                        // it waits for a datagram
	interrupted                       // it has done much at a time, and can go on
)

// maxInOneGo is how many datagrams are received before others get their turn.
const maxInOneGo = 128

// step receives what there is.
func (r *reception) step(b *receiveBuffers) (out outcome, state receptionState) {
	if r.kind != receivesMessages {
		n, _, errno := r.one(b)
		if errno == unix.EAGAIN && r.waits() {
			return outcome{}, nothingYet
		}
		return outcome{answered: true, errno: errno, value: int64(n)}, received
	}
	for range maxInOneGo {
		if !r.parsed {
			if errno := r.parse(b); errno != 0 {
				return r.end(errno), received
			}
		}
		_, flags, errno := r.one(b)
		if errno == unix.EAGAIN && r.waits() {
			return outcome{}, nothingYet
		}
		if errno != 0 {
			return r.end(errno), received
		}
		r.done++
		r.parsed = false
		if r.flags&unix.MSG_WAITFORONE != 0 {
			r.flags |= unix.MSG_DONTWAIT
		}
		if r.timeout.passed() || r.done == r.count || flags&unix.MSG_OOB != 0 {
			return r.end(0), received
		}
	}
	return outcome{}, interrupted
}

// end is the outcome when an error, or nothing, ends it. A part of recvmmsg(2) that has succeeded
// counts. Natively an error behind it is then kept for the next call, which only the kernel can do.
func (r *reception) end(errno unix.Errno) outcome {
	if r.done == 0 {
		return answer(errno)
	}
	if r.timeout.at != 0 && !r.timeout.write(&r.c) {
		return answer(unix.EFAULT)
	}
	return outcome{answered: true, value: int64(r.done)}
}

// waits reports whether the call waits for a datagram if there is none.
func (r *reception) waits() bool {
	if r.flags&(unix.MSG_DONTWAIT|unix.MSG_ERRQUEUE) != 0 || r.shutdown {
		return false
	}
	r.patient = r.patient || linux.Blocks(r.fd)
	return r.patient
}

// one receives one datagram and gives it to the target. n is what the call returns, and flags what
// is in msg_flags.
func (r *reception) one(b *receiveBuffers) (n int, flags uint32, errno unix.Errno) {
	m := &r.message
	if r.family == unix.AF_UNIX && r.flags&unix.MSG_ERRQUEUE != 0 {
		return 0, 0, unix.EAGAIN // it has none, and would give a datagram
	}
	// All of an ICMP message is needed for its checksum.
	ping := r.family == unix.AF_INET6 && r.pass.Proto == unix.IPPROTO_ICMP
	size := min(m.room, maxDatagram)
	switch {
	case ping:
		size = maxDatagram
	case m.room > maxDatagram && r.family == unix.AF_UNIX: // which can have longer ones
		var next int32
		unix.RawSyscall(unix.SYS_IOCTL, uintptr(r.fd), unix.SIOCINQ, uintptr(unsafe.Pointer(&next)))
		size = min(m.room, max(maxDatagram, int(next)))
	}
	if len(b.data) < size {
		b.data = make([]byte, max(size, maxDatagram))
	}
	const meant = msgCompat | unix.MSG_WAITFORONE | unix.MSG_CMSG_CLOEXEC // for others than the protocol
	ask := r.flags&^meant | unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC
	if r.family == unix.AF_UNIX {
		ask &^= unix.MSG_OOB // which UDP takes no notice of
	}
	header := unix.Msghdr{Name: &b.name[0], Namelen: uint32(len(b.name)), Iovlen: 1}
	vector := unix.Iovec{}
	if size > 0 {
		vector.Base = &b.data[0]
		vector.SetLen(size)
	}
	header.Iov = &vector
	if r.kind != receivesFrom {
		header.Control = &b.control[0]
		header.SetControllen(len(b.control))
	}
	got, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&header)), uintptr(ask))
	flags = uint32(header.Flags)
	// Who waits is told of the end; who does not, is not: __skb_wait_for_more_packets in
	// net/core/datagram.c.
	end := errno == unix.EAGAIN && r.shutdown && r.flags&unix.MSG_DONTWAIT == 0
	switch {
	case end:
		got, header.Controllen, flags = 0, 0, 0
	case errno != 0:
		return 0, 0, r.told(errno)
	}
	n = int(got)
	data := b.data[:min(n, size)]
	if ping {
		siit.ICMP6To4(data)
		if n > m.room { // whatever MSG_TRUNC asks for: ping_recvmsg in net/ipv4/ping.c
			n, flags = m.room, flags|unix.MSG_TRUNC
		}
		data = data[:min(len(data), m.room)]
	}
	var name []byte
	var ipv4, mapped bool
	if !end {
		name, ipv4, mapped = r.source(b, int(header.Namelen))
	}
	came := arrival{control: b.control[:header.Controllen], ipv4: ipv4, mapped: mapped, flags: flags}
	if r.kind != receivesFrom {
		came.flags = flags&^unix.MSG_CMSG_CLOEXEC | r.flags&unix.MSG_CMSG_CLOEXEC
		if r.family == unix.AF_UNIX {
			came.flags &^= unix.MSG_CTRUNC // of what an AF_INET socket does not give
			dropDescriptors(came.control)
		}
		b.out.Reset(r.c.Compat, m.controlRoom())
		r.translate(&b.out, &came)
	}
	errno = r.deliver(b, data, name, &came, n)
	if len(b.data) > 4*maxDatagram {
		b.data = nil // datagrams like that are rare
	}
	return n, flags, errno
}

// arrival is what has come with a datagram.
type arrival struct {
	control      []byte // as the kernel has given it
	flags        uint32 // msg_flags, without MSG_CTRUNC for what the program does not take
	ipv4, mapped bool   // see source
}

// controlRoom returns how much room there is for control messages.
func (m *message) controlRoom() int {
	if m.control == 0 {
		return 0
	}
	return int(min(m.controlLen, 1<<30))
}

// told returns what an AF_INET socket says for an error of another one's.
func (r *reception) told(errno unix.Errno) unix.Errno {
	switch {
	case r.family == unix.AF_INET6:
		return inetErrno(errno)
	case r.family == unix.AF_UNIX && errno == unix.ECONNRESET: // the peer wants to hear from somebody else
		return unix.ECONNREFUSED
	}
	return errno
}

// source returns what the program is told as the source of a datagram, whose own is the first
// length bytes of b.name. ipv4 is whether that is an IPv4 address for it, and mapped whether the
// datagram has really been one of IPv4.
func (r *reception) source(b *receiveBuffers, length int) (name []byte, ipv4, mapped bool) {
	p := &r.pass
	var from netip.AddrPort
	switch {
	case r.family == unix.AF_UNIX:
		from = p.Peer
	case length < linux.SizeofSockaddrIn6:
		return nil, p.Family == unix.AF_INET, false // none, as with what is not an error in the error queue
	default:
		real := linux.Inet6Destination(b.name[:])
		mapped = real.Addr().Is4In6()
		v4, ok := r.s.originalAddr(real.Addr(), p)
		switch {
		case ok:
		case p.Family == unix.AF_INET6: // it may also hear from those that have no IPv4 address
			return b.name[:linux.SizeofSockaddrIn6], false, false
		case linux.IsConnected(r.fd):
			v4 = p.Peer.Addr()
		default:
			v4 = dummyAddr
		}
		from = netip.AddrPortFrom(v4, real.Port())
	}
	return b.told[:p.Sockaddr(from, &b.told)], true, mapped
}

// translate makes of the control messages that have come with a datagram those of the socket that
// the program thinks it has.
func (r *reception) translate(to *siit.Controls, came *arrival) {
	from := came.control
	asIPv6 := r.pass.Family == unix.AF_INET6 && (came.mapped || !came.ipv4)
	for {
		m, rest, ok, _ := siit.TakeControl(from, false)
		if !ok {
			return
		}
		from = rest
		switch {
		case r.family == unix.AF_UNIX:
			if m.Level == unix.SOL_SOCKET && !ofUnix(m.Name) {
				to.Put(m.Level, m.Name, m.Data) // a timestamp
			}
		case m.Level != unix.IPPROTO_IPV6 || asIPv6:
			to.Put(m.Level, m.Name, m.Data)
		case m.Name == unix.IPV6_RECVERR:
			r.putError(to, m.Data, came.mapped)
		case came.mapped: // then the kernel has given the IPv4 ones too
		case r.pass.Family == unix.AF_INET6:
			r.putMapped(to, m)
		default:
			r.putIPv4(to, m, m.Data)
		}
	}
}

// scmPidfd is SCM_PIDFD, linux/socket.h.
const scmPidfd = 4

// ofUnix reports whether a control message of SOL_SOCKET is one that only Unix sockets give:
// descriptors and credentials.
func ofUnix(name int) bool {
	switch name {
	case unix.SCM_RIGHTS, unix.SCM_CREDENTIALS, unix.SCM_SECURITY, scmPidfd:
		return true
	}
	return false
}

// dropDescriptors closes what has come with a datagram, since the program knows nothing of
// descriptors in datagrams.
func dropDescriptors(from []byte) {
	for {
		m, rest, ok, _ := siit.TakeControl(from, false)
		if !ok {
			return
		}
		from = rest
		if m.Level == unix.SOL_SOCKET && (m.Name == unix.SCM_RIGHTS || m.Name == scmPidfd) {
			for ; len(m.Data) >= 4; m.Data = m.Data[4:] {
				if fd := int32(binary.NativeEndian.Uint32(m.Data)); fd >= 0 {
					linux.Close(int(fd))
				}
			}
		}
	}
}

// putIPv4 gives the program the IPv4 control message that one of IPv6 stands for, if there is one.
// data is its content.
func (r *reception) putIPv4(to *siit.Controls, m siit.Control, data []byte) {
	switch m.Name {
	case unix.IPV6_PKTINFO:
		if len(data) >= siit.SizeofIn6Pktinfo {
			info := siit.PktinfoTo4(data, r.pass.Local)
			if r.flags&unix.MSG_ERRQUEUE != 0 {
				clear(info[4:8]) // nobody has looked up ipi_spec_dst
			}
			to.Put(unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
		}
	case unix.IPV6_HOPLIMIT:
		to.Put(unix.IPPROTO_IP, unix.IP_TTL, data)
	case unix.IPV6_TCLASS:
		if len(data) >= 4 {
			to.Put(unix.IPPROTO_IP, unix.IP_TOS, []byte{byte(binary.NativeEndian.Uint32(data))})
		}
	case ipv6OrigDstAddr:
		if len(data) >= 4 {
			var name [linux.SizeofSockaddrIn6]byte
			own := passport.Passport{Family: unix.AF_INET}
			own.Sockaddr(netip.AddrPortFrom(r.pass.Local, binary.BigEndian.Uint16(data[2:])), &name)
			to.Put(unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, name[:linux.SizeofSockaddrIn])
		}
	case ipv6RecvFragSize:
		to.Put(unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, data)
	}
}

// putMapped is putIPv4 for a program that has an AF_INET6 socket, on which IPv4 datagrams come with
// the control messages of IPv4 that it has asked for, and with IPV6_PKTINFO.
func (r *reception) putMapped(to *siit.Controls, m siit.Control) {
	var option int
	switch m.Name {
	case unix.IPV6_PKTINFO:
		if len(m.Data) < siit.SizeofIn6Pktinfo {
			return
		}
		var info [siit.SizeofIn6Pktinfo]byte
		addr := netip.AddrFrom16(r.pass.Local.As16()).As16()
		copy(info[:], addr[:])
		copy(info[16:], m.Data[16:])
		to.Put(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
		option = unix.IP_PKTINFO
	case unix.IPV6_HOPLIMIT:
		option = unix.IP_RECVTTL
	case unix.IPV6_TCLASS:
		option = unix.IP_RECVTOS
	case ipv6OrigDstAddr:
		option = unix.IP_RECVORIGDSTADDR
	case ipv6RecvFragSize:
		option = unix.IP_RECVFRAGSIZE
	default:
		return
	}
	var on int32
	if linux.Getsockopt(r.fd, unix.IPPROTO_IP, option, unsafe.Pointer(&on), 4) == 0 && on != 0 {
		r.putIPv4(to, m, m.Data)
	}
}

// putError gives the program an error of the error queue: ip_recv_error in net/ipv4/ip_sockglue.c
// and ipv6_recv_error in net/ipv6/datagram.c.
func (r *reception) putError(to *siit.Controls, data []byte, mapped bool) {
	if len(data) < siit.SizeofExtendedErr+linux.SizeofSockaddrIn6 {
		return
	}
	var value [siit.SizeofExtendedErr + linux.SizeofSockaddrIn6]byte
	ee := [siit.SizeofExtendedErr]byte(data)
	if !mapped {
		ee = siit.ErrorTo4(ee)
	}
	copy(value[:], ee[:])
	if offender := data[siit.SizeofExtendedErr:]; binary.NativeEndian.Uint16(offender) == unix.AF_INET6 {
		addr := r.s.original(linux.Inet6Destination(offender), &r.pass)
		var name [linux.SizeofSockaddrIn6]byte
		r.pass.Sockaddr(addr, &name)
		copy(value[siit.SizeofExtendedErr:], name[:])
	}
	if r.pass.Family == unix.AF_INET6 {
		to.Put(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value[:])
	} else {
		to.Put(unix.IPPROTO_IP, unix.IP_RECVERR, value[:siit.SizeofExtendedErr+linux.SizeofSockaddrIn])
	}
}

// deliver writes to the target's memory: all at once if that goes, or else as far as the kernel
// comes.
func (r *reception) deliver(b *receiveBuffers, data, name []byte, came *arrival, n int) unix.Errno {
	m := &r.message
	tid := r.c.tid
	b.remote, b.rest = b.remote[:0], b.rest[:0]
	left := len(data)
	for _, v := range m.vector {
		if part := min(v.Len, left); part > 0 {
			b.remote = append(b.remote, unix.RemoteIovec{Base: v.Base, Len: part})
			left -= part
		}
	}
	const others = 64
	if len(b.remote) > linux.MaxIovecs-others {
		if transfer(tid, data, nil, b.remote) != len(data) {
			return unix.EFAULT
		}
		data, b.remote = nil, b.remote[:0]
	}
	put := func(at uint64, bytes []byte) {
		if len(bytes) > 0 {
			b.remote = append(b.remote, unix.RemoteIovec{Base: uintptr(at), Len: len(bytes)})
			b.rest = append(b.rest, bytes...)
		}
	}
	word := uint64(r.c.WordSize())
	if r.kind != receivesFrom {
		at := m.control
		bytes := b.out.Bytes
		for _, p := range b.out.Pieces {
			put(at, bytes[:p.Length])
			at, bytes = at+uint64(p.Space), bytes[p.Length:]
		}
	}
	lengthAt, room, nameErrno := r.nameRoom()
	var length [4]byte
	binary.NativeEndian.PutUint32(length[:], uint32(len(name)))
	short := name[:max(0, min(int(room), len(name)))]
	if m.name != 0 && nameErrno == 0 {
		if lengthFirst() {
			put(lengthAt, length[:])
			put(m.name, short)
		} else {
			put(m.name, short)
			put(lengthAt, length[:])
		}
	}
	var tail [16]byte
	tailAt, tailLen := m.at+5*word, 0
	if r.kind != receivesFrom {
		// msg_controllen, msg_flags and, of a struct mmsghdr, msg_len.
		if r.c.Compat {
			binary.NativeEndian.PutUint32(tail[:], uint32(b.out.Used()))
		} else {
			binary.NativeEndian.PutUint64(tail[:], uint64(b.out.Used()))
		}
		binary.NativeEndian.PutUint32(tail[word:], came.flags|b.out.Flag())
		tailLen = int(word) + 4
		put(tailAt, tail[:tailLen])
		if r.kind == receivesMessages {
			var value [4]byte
			binary.NativeEndian.PutUint32(value[:], uint32(n))
			put(m.at+7*word, value[:])
		}
	}
	total := len(data) + len(b.rest)
	wrote := 0
	if total > 0 {
		wrote = transfer(tid, data, b.rest, b.remote)
	}
	if wrote == total {
		return nameErrno
	}
	if wrote < len(data) {
		return unix.EFAULT
	}
	return r.deliverPieces(b, short, length, lengthAt, came, n, nameErrno)
}

// nameRoom returns where the length of the source address goes, and how much room there is for
// that; the errno is what is wrong with it.
func (r *reception) nameRoom() (lengthAt uint64, room int32, errno unix.Errno) {
	if r.kind != receivesFrom {
		return r.message.at + uint64(r.c.WordSize()), r.message.nameLen, 0
	}
	lengthAt = r.c.args[5]
	if r.message.name == 0 {
		return lengthAt, 0, 0
	}
	var raw [4]byte
	if target.ReadMemory(r.c.tid, lengthAt, raw[:]) != 0 {
		return lengthAt, 0, unix.EFAULT
	}
	if room = int32(binary.NativeEndian.Uint32(raw[:])); room < 0 {
		errno = unix.EINVAL
	}
	return lengthAt, room, errno
}

// deliverPieces is for a target whose memory cannot be written everywhere: one piece after the
// other, as the kernel does it.
func (r *reception) deliverPieces(b *receiveBuffers, name []byte, length [4]byte, lengthAt uint64, came *arrival, n int, nameErrno unix.Errno) unix.Errno {
	m := &r.message
	tid := r.c.tid
	if r.kind != receivesFrom {
		b.out.Reset(r.c.Compat, m.controlRoom())
		b.out.Direct = func(n int, message []byte) unix.Errno { return target.WriteMemory(tid, m.control+uint64(n), message) }
		r.translate(&b.out, came)
	}
	put := func(at uint64, bytes []byte) bool { return len(bytes) == 0 || target.WriteMemory(tid, at, bytes) == 0 }
	if nameErrno != 0 {
		return nameErrno
	}
	if m.name != 0 {
		ok := false
		if lengthFirst() {
			ok = put(lengthAt, length[:]) && put(m.name, name)
		} else {
			ok = put(m.name, name) && put(lengthAt, length[:])
		}
		if !ok {
			return unix.EFAULT
		}
	}
	if r.kind == receivesFrom {
		return 0
	}
	word := uint64(r.c.WordSize())
	var value [8]byte
	binary.NativeEndian.PutUint32(value[:], came.flags|b.out.Flag())
	if !put(m.at+6*word, value[:4]) {
		return unix.EFAULT
	}
	binary.NativeEndian.PutUint64(value[:], uint64(b.out.Used())) // i386 is little-endian
	if !put(m.at+5*word, value[:word]) {
		return unix.EFAULT
	}
	binary.NativeEndian.PutUint32(value[:], uint32(n))
	if r.kind == receivesMessages && !put(m.at+7*word, value[:4]) {
		return unix.EFAULT
	}
	return 0
}

// transfer writes data, and rest behind it, to places in the target's memory. It returns how much
// of it could be.
func transfer(tid int, data, rest []byte, to []unix.RemoteIovec) int {
	var local [2]unix.Iovec
	count := 0
	for _, part := range [2][]byte{data, rest} {
		if len(part) > 0 {
			local[count].Base = &part[0]
			local[count].SetLen(len(part))
			count++
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(tid), uintptr(unsafe.Pointer(&local)), uintptr(count),
		uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)), 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// timeout is that of recvmmsg(2): looked at after each datagram, and at the end what is left of it
// is told.
type timeout struct {
	at        uint64 // the struct timespec; 0: none
	time64    bool   // with 64-bit numbers
	sec, nsec int64
	began     time.Time

	leftSec, leftNsec int64
}

// read is false where there is no valid one.
func (t *timeout) read(c *call) bool {
	var raw [16]byte
	if t.time64 {
		if target.ReadMemory(c.tid, t.at, raw[:]) != 0 {
			return false
		}
		t.sec, t.nsec = int64(binary.NativeEndian.Uint64(raw[:])), int64(binary.NativeEndian.Uint64(raw[8:]))
		if c.Compat {
			t.nsec = int64(uint32(t.nsec)) // the upper half is padding
		}
	} else {
		if target.ReadMemory(c.tid, t.at, raw[:8]) != 0 {
			return false
		}
		t.sec, t.nsec = int64(int32(binary.NativeEndian.Uint32(raw[:]))), int64(int32(binary.NativeEndian.Uint32(raw[4:])))
	}
	t.began = time.Now()
	return t.sec >= 0 && t.nsec >= 0 && t.nsec < 1e9
}

// passed notes what is left, and reports whether that is nothing.
func (t *timeout) passed() bool {
	if t.at == 0 {
		return false
	}
	elapsed := time.Since(t.began)
	t.leftSec, t.leftNsec = t.sec-int64(elapsed/time.Second), t.nsec-int64(elapsed%time.Second)
	if t.leftNsec < 0 {
		t.leftSec, t.leftNsec = t.leftSec-1, t.leftNsec+1e9
	}
	if t.leftSec < 0 {
		t.leftSec, t.leftNsec = 0, 0
	}
	return t.leftSec == 0 && t.leftNsec == 0
}

// write tells what is left.
func (t *timeout) write(c *call) bool {
	var raw [16]byte
	if t.time64 {
		binary.NativeEndian.PutUint64(raw[:], uint64(t.leftSec))
		binary.NativeEndian.PutUint64(raw[8:], uint64(t.leftNsec))
		return target.WriteMemory(c.tid, t.at, raw[:]) == 0
	}
	binary.NativeEndian.PutUint32(raw[:], uint32(t.leftSec))
	binary.NativeEndian.PutUint32(raw[4:], uint32(t.leftNsec))
	return target.WriteMemory(c.tid, t.at, raw[:8]) == 0
}
