package datagram

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// Reading from the target what it sends: headers first, then what they lead to, then the data.

// ReadMessages reads up to n messages into w.Out.Messages; their headers are stride bytes from each
// other. Where it cannot read any, it returns what becomes of the call.
func (w *Worker) ReadMessages(c *session.Call, n, stride int) session.Outcome {
	o := &w.Out
	o.Messages = nil
	n, total, out := w.readHeaders(c, n, stride)
	if n == 0 {
		return out
	}
	if n, out = w.readNames(c, n, total); n == 0 {
		return out
	}
	o.Messages = o.All[:n]
	out = w.NotElsewhere(c)
	if o.Messages = nil; !out.IsUndecided() {
		return out
	}
	n, out = w.readPayloads(c, n)
	o.Messages = o.All[:n]
	return out
}

// readHeaders reads up to n struct msghdr, and puts where what they lead to is into w.Out.Vectors:
// total bytes of names, vectors and control messages. If it returns 0 messages, out is what becomes
// of the call.
func (w *Worker) readHeaders(c *session.Call, n, stride int) (read, total int, out session.Outcome) {
	o := &w.Out
	hsize := c.MsghdrSize()
	at := c.Args[1] + uint64(o.Sent*stride)
	size := (n-1)*stride + hsize
	raw, errno := o.ReadAround(c.TID, o.Room(size+2*target.Reach), uintptr(at), size)
	switch {
	case errno != 0 || len(raw) < hsize:
		return 0, 0, w.Unreadable(c, errno)
	case len(raw) < size:
		n = (len(raw)-hsize)/stride + 1
	}
	o.Vectors = o.Vectors[:0]
	add := func(at uint64, length int) {
		if length > 0 {
			o.Vectors = append(o.Vectors, unix.RemoteIovec{Base: uintptr(at), Len: length})
			total += length
		}
	}
	named, iovecs := false, 0
	for i := range n {
		h := c.Msghdr(raw[i*stride:])
		m, p := &o.All[i], &o.parts[i]
		*m = Parcel{}
		if stride > 0 {
			m.result = at + uint64(i*stride+hsize)
		}
		if p.name = 0; h.Name != 0 {
			p.name = min(int(h.NameLen), linux.SizeofSockaddrStorage)
		}
		if p.name < 0 || h.Count > linux.MaxIovecs || h.ControlLen > MaxControl || iovecs+int(h.Count) > linux.MaxIovecs {
			if i > 0 {
				n = i // as far as that; then it is the first
				break
			}
			if !w.guardsSend(c) {
				return 0, 0, session.CarryOn
			}
			if out := w.isStream(c); !out.IsUndecided() {
				return 0, 0, out
			}
			switch {
			case p.name < 0:
				return 0, 0, session.Answer(unix.EINVAL)
			case h.Count > linux.MaxIovecs:
				return 0, 0, session.Answer(unix.EMSGSIZE)
			}
			return 0, 0, session.Answer(unix.ENOBUFS)
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
			return 0, 0, session.CarryOn
		}
		if out := w.isStream(c); !out.IsUndecided() {
			return 0, 0, out
		}
	}
	return n, total, out
}

// readNames reads what the headers of n messages lead to. It returns how many it could be read for;
// if for none, out is what becomes of the call.
func (w *Worker) readNames(c *session.Call, n, total int) (read int, out session.Outcome) {
	o := &w.Out
	more := o.RoomFor(&o.More, total)
	got, errno := o.GatherAround(c.TID, more, o.Vectors)
	if errno != 0 && total > 0 {
		return 0, w.Unreadable(c, errno)
	}
	take := func(length int) (part []byte) {
		part, more = more[:length], more[length:]
		return part
	}
	for i := range n {
		p, m := &o.parts[i], &o.All[i]
		vectors := p.iovecs * c.IovecSize()
		if got -= p.name + vectors + p.control; got < 0 {
			n = i
			break
		}
		m.Name, p.vectors, m.control = take(p.name), take(vectors), take(p.control)
	}
	if n == 0 {
		return 0, w.Unreadable(c, unix.EFAULT)
	}
	return n, out
}

// readPayloads reads what n messages send, and returns as readNames does.
func (w *Worker) readPayloads(c *session.Call, n int) (read int, out session.Outcome) {
	o := &w.Out
	o.Vectors = o.Vectors[:0]
	total, size := 0, c.IovecSize()
	for i := range n {
		p, m := &o.parts[i], &o.All[i]
		p.payload = 0
		for v := p.vectors; len(v) > 0; v = v[size:] {
			_, length := c.Iovec(v, 0)
			if c.Negative(length) && i == 0 {
				return 0, session.Answer(unix.EINVAL)
			}
			p.payload += int(min(length, MaxLength+1))
		}
		if m.TooLong = p.payload > MaxLength; m.TooLong {
			p.payload, p.vectors = 0, nil
		}
		if total+p.payload > MaxTogether && i > 0 {
			n = i
			break
		}
		total += p.payload
		for v := p.vectors; len(v) > 0; v = v[size:] {
			base, length := c.Iovec(v, 0)
			o.Vectors = append(o.Vectors, unix.RemoteIovec{Base: uintptr(base), Len: int(length)})
		}
	}
	payload := o.Room(total)
	got, errno := o.Gather(c.TID, payload, o.Vectors)
	for i := range n {
		p, m := &o.parts[i], &o.All[i]
		if got -= p.payload; got < 0 {
			n = i
			break
		}
		m.Payload, payload = payload[:p.payload], payload[p.payload:]
	}
	if n == 0 {
		return 0, w.BadData(c, errno)
	}
	return n, out
}

// Unreadable returns what becomes of a send whose memory cannot be read, with an errno: the kernel
// will say EFAULT.
func (w *Worker) Unreadable(c *session.Call, errno unix.Errno) session.Outcome {
	switch {
	case errno == unix.EPERM:
		e := w.NewEvent(c, policy.UDP)
		w.Unserved(&e, "its memory cannot be read", errno)
		return session.CarryOn
	case w.guardsSend(c):
		if out := w.isStream(c); !out.IsUndecided() {
			return out
		}
		return session.Answer(unix.EFAULT) // for it could be read the next time
	}
	return session.CarryOn
}

// BadData is Unreadable for the data of a send that goes elsewhere.
func (w *Worker) BadData(c *session.Call, errno unix.Errno) session.Outcome {
	if errno == unix.EPERM {
		return w.Unreadable(c, errno)
	}
	if out := w.isStream(c); !out.IsUndecided() {
		return out
	}
	return session.Answer(unix.EFAULT)
}
