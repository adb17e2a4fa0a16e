package receive

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
)

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
func (r *reception) step(b *receiveBuffers) (out session.Outcome, state receptionState) {
	if r.kind != receivesMessages {
		n, _, errno := r.one(b)
		if errno == unix.EAGAIN && r.waits() {
			return session.Outcome{}, nothingYet
		}
		return session.Outcome{State: session.StateReturns, Errno: errno, Value: int64(n)}, received
	}
	for range maxInOneGo {
		if !r.parsed {
			if errno := r.parse(b); errno != 0 {
				return r.end(errno), received
			}
		}
		_, flags, errno := r.one(b)
		if errno == unix.EAGAIN && r.waits() {
			return session.Outcome{}, nothingYet
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
	return session.Outcome{}, interrupted
}

// end is the outcome when an error, or nothing, ends it. A part of recvmmsg(2) that has succeeded
// counts. Natively an error behind it is then kept for the next call, which only the kernel can do.
func (r *reception) end(errno unix.Errno) session.Outcome {
	if r.done == 0 {
		return session.Answer(errno)
	}
	if r.timeout.at != 0 && !r.timeout.write(&r.c) {
		return session.Answer(unix.EFAULT)
	}
	return session.AnswerValue(int64(r.done))
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
	size := r.takeSize()
	if len(b.data) < size {
		b.data = make([]byte, max(size, maxDatagram))
	}
	got, errno := r.take(b, size)
	if errno != 0 {
		return 0, 0, r.told(errno)
	}
	n, flags = got.length, got.flags
	data := b.data[:min(n, size)]
	if r.isPing() {
		siit.ICMP6To4(data)
		if n > m.room { // whatever MSG_TRUNC asks for: ping_recvmsg in net/ipv4/ping.c
			n, flags = m.room, flags|unix.MSG_TRUNC
		}
		data = data[:min(len(data), m.room)]
	}
	came := arrival{data: data, result: n, control: b.control[:got.control], flags: flags}
	if !got.end {
		came.name, came.ipv4, came.mapped = r.source(b, got.name)
	}
	if r.kind != receivesFrom {
		came.flags = flags&^unix.MSG_CMSG_CLOEXEC | r.flags&unix.MSG_CMSG_CLOEXEC
		if r.family == unix.AF_UNIX {
			came.flags &^= unix.MSG_CTRUNC // of what an AF_INET socket does not give
			dropDescriptors(came.control)
		}
		b.out.Reset(r.c.Compat, m.controlRoom())
		r.translate(&b.out, &came)
	}
	errno = r.deliver(b, &came)
	if len(b.data) > 4*maxDatagram {
		b.data = nil // datagrams like that are rare
	}
	return n, flags, errno
}

// isPing reports whether the socket is one for ICMP echo messages.
func (r *reception) isPing() bool {
	return r.family == unix.AF_INET6 && r.pass.Proto == unix.IPPROTO_ICMP
}

// takeSize returns how much of a datagram is taken from the socket.
func (r *reception) takeSize() int {
	room := r.message.room
	switch {
	case r.isPing():
		return maxDatagram // all of it is needed for its checksum
	case room > maxDatagram && r.family == unix.AF_UNIX: // which can have longer ones
		var next int32
		unix.RawSyscall(unix.SYS_IOCTL, uintptr(r.fd), unix.SIOCINQ, uintptr(unsafe.Pointer(&next)))
		return min(room, max(maxDatagram, int(next)))
	}
	return min(room, maxDatagram)
}

// taken is what recvmsg(2) has put into receiveBuffers.
type taken struct {
	length        int // of the datagram
	name, control int // how many bytes of each there are
	flags         uint32
	end           bool // it is no datagram, but the end that shutdown(2) makes
}

// take takes a datagram, of which data has room for size bytes, from the socket.
func (r *reception) take(b *receiveBuffers, size int) (taken, unix.Errno) {
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
	// Who waits is told of the end; who does not, is not: __skb_wait_for_more_packets in
	// net/core/datagram.c.
	if errno == unix.EAGAIN && r.shutdown && r.flags&unix.MSG_DONTWAIT == 0 {
		return taken{end: true}, 0
	}
	if errno != 0 {
		return taken{}, errno
	}
	return taken{length: int(got), name: int(header.Namelen), control: int(header.Controllen), flags: uint32(header.Flags)}, 0
}

// arrival is a datagram that has come, and what has come with it.
type arrival struct {
	data         []byte // as much as the program is given
	result       int    // what its call returns, which MSG_TRUNC can make more than that
	name         []byte // the source, as the program is told it
	control      []byte // as the kernel has given it
	flags        uint32 // msg_flags, without MSG_CTRUNC for what the program does not take
	ipv4, mapped bool   // see source
}

// told returns what an AF_INET socket says for an error of another one's.
func (r *reception) told(errno unix.Errno) unix.Errno {
	switch {
	case r.family == unix.AF_INET6:
		return siit.InetErrno(errno)
	case r.family == unix.AF_UNIX && errno == unix.ECONNRESET: // the peer wants to hear from somebody else
		return unix.ECONNREFUSED
	}
	return errno
}
