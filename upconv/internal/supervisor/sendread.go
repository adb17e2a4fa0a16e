package supervisor

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// Reading from the target what it sends: headers first, then what they lead to, then the data.

// readMessages reads up to n messages into o.messages. Where it cannot read any, it returns what
// becomes of the call.
func (w *datagramWorker) readMessages(c *session.Call, n, stride int) session.Outcome {
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
	if o.messages = nil; !out.IsUndecided() {
		return out
	}
	n, out = w.readPayloads(c, n)
	o.messages = o.all[:n]
	return out
}

// readHeaders reads up to n struct msghdr, and puts what they lead to into o.vectors: total bytes
// of names, vectors and control messages. If it returns n as 0, out is what becomes of the call.
func (w *datagramWorker) readHeaders(c *session.Call, n, stride int) (read, total int, out session.Outcome) {
	o := &w.out
	hsize := c.MsghdrSize()
	at := c.Args[1] + uint64(o.sent*stride)
	size := (n-1)*stride + hsize
	raw, errno := o.ReadAround(c.TID, o.room(size+2*target.Reach), uintptr(at), size)
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
func (w *datagramWorker) readNames(c *session.Call, n, total int) (read int, out session.Outcome) {
	o := &w.out
	more := o.roomFor(&o.more, total)
	got, errno := o.GatherAround(c.TID, more, o.vectors)
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
func (w *datagramWorker) readPayloads(c *session.Call, n int) (read int, out session.Outcome) {
	o := &w.out
	o.vectors = o.vectors[:0]
	total, size := 0, c.IovecSize()
	for i := range n {
		p, m := &o.parts[i], &o.all[i]
		p.payload = 0
		for v := p.vectors; len(v) > 0; v = v[size:] {
			_, length := c.Iovec(v, 0)
			if c.Negative(length) && i == 0 {
				return 0, session.Answer(unix.EINVAL)
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
	got, errno := o.Gather(c.TID, payload, o.vectors)
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

// unreadable is for a call whose memory cannot be read: the kernel will say EFAULT.
func (w *datagramWorker) unreadable(c *session.Call, errno unix.Errno) session.Outcome {
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

// badData is for what is to be sent elsewhere and cannot be read.
func (w *datagramWorker) badData(c *session.Call, errno unix.Errno) session.Outcome {
	if errno == unix.EPERM {
		return w.unreadable(c, errno)
	}
	if out := w.isStream(c); !out.IsUndecided() {
		return out
	}
	return session.Answer(unix.EFAULT)
}
