package datagram

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Sending what has been decided about with a socket that is where it goes.

// transmit sends the first w.Out.run messages with the socket fd. x is not nil if it is one of
// another family.
func (w *Worker) transmit(c *session.Call, e *event.Pending, fd int, x *crossing.Crossing) session.Outcome {
	o := &w.Out
	o.as = nil
	onUnix := x != nil && x.Family() == unix.AF_UNIX
	switch m := &o.Messages[0]; {
	case m.TooLong || x != nil && len(m.Payload) > maxPayload4:
		return session.Answer(unix.EMSGSIZE)
	case x != nil && o.flags&unix.MSG_OOB != 0:
		return session.Answer(unix.EOPNOTSUPP) // of which IPv6 knows nothing
	case x != nil && !x.Mapped && o.flags&unix.MSG_DONTROUTE != 0:
		return w.sent(e, unix.ENETUNREACH) // nobody behind a NAT64 is on the link, and IPv6 does not look at this flag
	case onUnix && len(m.Name) > 0:
		if errno := x.Path.Open(w.s.Targets, x.Route, c.TID); errno != 0 {
			return w.sent(e, x.AsInet(e, errno))
		}
		defer x.Path.Close()
		o.as = x.Path.As
	case onUnix:
		var errno unix.Errno
		if o.as, errno = w.s.Targets.CredentialsOf(c.TID); errno != 0 {
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
		// The program waits until there is room.
		if !w.mayWait() {
			return session.Aside
		}
		if errno = w.WaitToSend(fd, x.UnixPeer()); errno != 0 {
			break
		}
		value, errno = o.submit(fd, flags)
	}
	if errno != 0 {
		if onUnix {
			errno = x.AsInet(e, errno)
		}
		return w.sent(e, errno)
	}
	if !o.many() {
		w.recordSent(e, 1)
		o.Sent++
		return session.AnswerValue(int64(value))
	}
	w.recordSent(e, value)
	o.Sent += value
	w.tellLengths(c, value)
	return session.Answer(0)
}

// pack puts the n-th message into w.Out.headers as the socket is to send it; x is as for transmit.
// The errno is what is wrong with it.
func (w *Worker) pack(c *session.Call, e *event.Pending, x *crossing.Crossing, n int) unix.Errno {
	o := &w.Out
	m, h := &o.Messages[n], &o.headers[n].header
	*h = unix.Msghdr{}
	onUnix := x != nil && x.Family() == unix.AF_UNIX
	name := m.Name
	switch {
	case x != nil && len(m.Payload) > maxPayload4:
		return unix.EMSGSIZE
	case len(name) == 0:
	case onUnix:
		name = x.Path.Sockaddr()
	case x != nil:
		if n == 0 {
			m.to = x.To
		} else if !w.translateMessage(x, m) {
			return unix.ENETUNREACH
		}
		name = m.to[:]
	}
	if len(name) > 0 {
		h.Name, h.Namelen = &name[0], uint32(len(name))
	}
	if len(m.Payload) > 0 {
		o.locals[n] = unix.Iovec{Base: &m.Payload[0], Len: uint64(len(m.Payload))}
		h.Iov, h.Iovlen = &o.locals[n], 1
	}
	if len(m.control) > 0 {
		control, errno := w.PackControl(c, m.control, x)
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
		control := appendCredentials(nil, w.s.PID, o.as)
		h.Control, h.Controllen = &control[0], uint64(len(control))
	}
	// In its place, so only when nothing else is wrong with it: it may be the first of the next.
	if x != nil && x.Pass.Proto == unix.IPPROTO_ICMP && !siit.ICMP4To6(m.Payload) {
		if len(m.Payload) < siit.SizeofICMPHeader || m.Payload[0] != siit.ICMPExtEcho {
			return unix.EINVAL // as the kernel says of all but echo requests: ping_supported in net/ipv4/ping.c
		}
		if n == 0 {
			e.Add("only echo requests go along " + x.Route.String())
		}
		return unix.ENETUNREACH
	}
	return 0
}

// translateMessage puts where a message goes along x into m.to.
func (w *Worker) translateMessage(x *crossing.Crossing, m *Parcel) bool {
	_, dst, _ := SendDestination(m.Name)
	addr, err := dst.Addr(), error(nil)
	if !x.Mapped {
		addr, err = w.s.Translate(x.Route, dst.Addr())
	}
	if err != nil {
		return false
	}
	m.to = linux.SockaddrIn6(addr, dst.Port())
	copy(m.to[24:], x.To[24:]) // sin6_scope_id
	return true
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

// lend copies what is sent to memory that is not used again, if the socket fd says when it has been
// sent (SO_ZEROCOPY, Documentation/networking/msg_zerocopy.rst): the kernel may read it for long.
// It keeps the pages, so the caller takes them back at once. What is sent later, and again, is
// still in o.Messages. nil: the flag means nothing.
func (o *outgoing) lend(fd int) []byte {
	var on int32
	total := 0
	for i := range o.run {
		total += len(o.Messages[i].Payload)
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
		if payload := o.Messages[i].Payload; len(payload) > 0 {
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

// tellLengths gives the target msg_len of the first n messages.
func (w *Worker) tellLengths(c *session.Call, n int) {
	o := &w.Out
	o.Vectors = o.Vectors[:0]
	var lengths [4 * MaxBatch]byte
	for i := range n {
		binary.NativeEndian.PutUint32(lengths[4*i:], o.headers[i].length)
		o.Vectors = append(o.Vectors, unix.RemoteIovec{Base: uintptr(o.Messages[i].result), Len: 4})
	}
	target.WriteVectors(c.TID, lengths[:4*n], nil, o.Vectors)
}
