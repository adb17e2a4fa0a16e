package receive

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
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
	s       *Session
	c       session.Call
	kind    receptionKind
	fd      int // a copy of the socket
	family  int // what it is
	pass    passport.Passport
	flags   uint32 // of the call
	message message

	moves    uint64 // what receivers.moves was before the socket was fetched
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

// buffers returns the worker's own receiveBuffers.
func (w *Worker) buffers() *receiveBuffers {
	if w.receive == nil {
		w.receive = &receiveBuffers{}
	}
	return w.receive
}

// Recvfrom handles a stopped recvfrom(2).
func (w *Worker) Recvfrom(c *session.Call) session.Outcome {
	flags := uint32(c.Args[3])
	w.NoteReceives(c)
	if c.Args[4] == 0 && flags&unix.MSG_ERRQUEUE == 0 {
		return session.CarryOn
	}
	r, ok := w.reception(c, receivesFrom, flags)
	size := min(c.Args[2], maxTransfer)
	if !ok || !inUserSpace(c.Args[1], size) {
		return session.CarryOn
	}
	b := w.buffers()
	b.vector = append(b.vector[:0], unix.RemoteIovec{Base: uintptr(c.Args[1]), Len: int(size)})
	r.message = message{name: c.Args[4], vector: b.vector, room: int(size)}
	return w.receiveNow(r)
}

// Recvmsg handles a stopped recvmsg(2).
func (w *Worker) Recvmsg(c *session.Call) session.Outcome {
	flags := uint32(c.Args[2])
	w.NoteReceives(c)
	if !w.s.AnyCrossed.Load() || flags&msgCompat != 0 {
		return session.CarryOn
	}
	b := w.buffers()
	var m message
	if errno := m.readHeader(c, c.Args[1]); errno != 0 || m.name == 0 && (m.control == 0 || m.controlLen == 0) && flags&unix.MSG_ERRQUEUE == 0 {
		return session.CarryOn
	}
	r, ok := w.reception(c, receivesMessage, flags)
	if !ok || m.readVector(c, b) != 0 {
		return session.CarryOn
	}
	r.message = m
	return w.receiveNow(r)
}

// Recvmmsg handles a stopped recvmmsg(2).
func (w *Worker) Recvmmsg(c *session.Call) session.Outcome { return w.receiveMany(c, !c.Compat) }

// RecvmmsgTime64 handles a stopped recvmmsg_time64(2) of i386.
func (w *Worker) RecvmmsgTime64(c *session.Call) session.Outcome {
	return w.receiveMany(c, true)
}

// receiveMany is recvmmsg(2), whose struct timespec has 64-bit numbers or not.
func (w *Worker) receiveMany(c *session.Call, time64 bool) session.Outcome {
	flags := uint32(c.Args[3])
	count := uint64(uint32(c.Args[2]))
	w.NoteReceives(c)
	if !w.s.AnyCrossed.Load() || flags&msgCompat != 0 || count == 0 {
		return session.CarryOn
	}
	limit := timeout{at: c.Args[4], time64: time64}
	if limit.at != 0 && !limit.read(c) {
		return session.CarryOn // EFAULT or EINVAL
	}
	r, ok := w.reception(c, receivesMessages, flags)
	if !ok {
		return session.CarryOn
	}
	r.at, r.count, r.timeout = c.Args[1], count, limit
	b := w.buffers()
	b.ahead.count = 0
	if r.parse(b) != 0 {
		return session.CarryOn // and the kernel says so
	}
	return w.receiveNow(r)
}

// reception begins a reception, on a copy of the target's socket that Tidy closes. ok is false
// where the call can go on as it stands.
func (w *Worker) reception(c *session.Call, kind receptionKind, flags uint32) (r *reception, ok bool) {
	moves := w.s.Receivers.moves.Load() // first
	fd, p, family := w.crossedFD(c)
	if p == nil {
		return nil, false
	}
	if linux.KindOf(p.Proto) == unix.SOCK_STREAM && flags&unix.MSG_ERRQUEUE == 0 {
		return nil, false // it tells nothing of its peer
	}
	r = &w.reading
	*r = reception{s: w.s, c: *c, kind: kind, fd: fd, family: family, pass: *p, flags: flags, moves: moves}
	return r, true
}

// receiveNow receives what is there. Where there is nothing yet, it leaves the call, and the copy
// of the socket, to a receiver.
func (w *Worker) receiveNow(r *reception) session.Outcome {
	out, state := r.step(w.buffers())
	if state == received {
		return out
	}
	for i, fd := range w.Done { // the one who waits owns it
		if fd == r.fd {
			w.Done = append(w.Done[:i], w.Done[i+1:]...)
		}
	}
	return w.s.Receivers.wait(r, state)
}
