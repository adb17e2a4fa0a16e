package datagram

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/policy"
)

// guardsSend reports whether a send must not be left to the kernel, which would look up the
// descriptor and the address anew: a datagram socket has been moved, or may be by another thread
// meanwhile, which can then put it under the number.
func (w *Worker) guardsSend(c *session.Call) bool {
	return w.s.Moved.Load() || w.SharesTable(c) || w.s.Moved.Load()
}

// GuardsSends reports whether sends must not be left to the kernel: a datagram socket may be in an
// egress; or any socket where MSG_FASTOPEN, which is in memory, connects.
func (w *Worker) GuardsSends(c *session.Call) bool {
	s := w.s
	return s.Needs.Sends && (s.Moved.Load() || c.Indirect && s.Swapped.Load()) && w.Guards(c)
}

// seesStream is isStream by one look, which says as well whether the thread shares its descriptors.
// false: it cannot be seen, or it is none.
func (w *Worker) seesStream(c *session.Call) bool {
	if c.Indirect || !w.See(c) {
		return false
	}
	v := c.View
	c.View = nil // a send that moves its socket looks anew
	if v.Mode&unix.S_IFMT != unix.S_IFSOCK || linux.IsDatagramType(v.Type) && (linux.IsInet(v.Family) || v.Family == unix.AF_UNIX && w.s.Needs.Unix) {
		return false
	}
	if c.Table = session.TableShared; v.Alone() {
		c.Table = session.TableOwn
	}
	return true
}

// isStream returns what becomes of a call that is about something that is not a datagram socket, or
// one of another address family: of that nothing is sent elsewhere. If it is about one, the outcome
// is undecided, and a copy is in w.Out.fd.
func (w *Worker) isStream(c *session.Call) session.Outcome {
	o := &w.Out
	if o.fd < 0 {
		e := w.NewEvent(c, policy.UDP)
		fd, out := w.Fetch(c, &e)
		if !out.IsUndecided() {
			return out
		}
		o.fd, o.known = fd, false // what was known is of the one before
	}
	if !o.known {
		if o.netns = w.settledIn(o.fd); o.netns == 0 {
			var domain int32
			if errno := linux.Getsockopt(o.fd, unix.SOL_SOCKET, unix.SO_DOMAIN, unsafe.Pointer(&domain), 4); errno != 0 {
				w.CloseNow(o.fd)
				o.fd = -1
				return session.Answer(errno) // ENOTSOCK; or EBADF, for O_PATH
			}
			if !linux.IsInet(int(domain)) && !w.tookDatagrams(o.fd, int(domain)) || !linux.IsDatagramType(linux.TypeOf(o.fd)) {
				w.CloseNow(o.fd)
				o.fd = -1
				return session.CarryOn
			}
		}
	}
	o.known = true
	return session.Undecided
}

// tookDatagrams reports whether a Unix socket has taken the place of a datagram socket of the
// program's. Others are the program's own, as what it sends there is.
func (w *Worker) tookDatagrams(fd, domain int) bool {
	if domain != unix.AF_UNIX || !w.s.Needs.Unix {
		return false
	}
	p, _ := w.PassportOf(fd)
	return p != nil && linux.KindOf(p.Proto) == unix.SOCK_DGRAM
}

// NotElsewhere returns what becomes of a call that has nothing to do with other sockets than the
// program's: nothing has been moved yet, and nothing of it is to go anywhere but to where they are.
// The outcome of others is undecided.
func (w *Worker) NotElsewhere(c *session.Call) session.Outcome {
	o := &w.Out
	if w.guardsSend(c) {
		return w.isStream(c)
	}
	for i := range o.Messages {
		if _, dst, ok := SendDestination(o.Messages[i].Name); ok && w.DecideDatagram(dst).Route.Kind != policy.Direct {
			return session.Undecided
		}
	}
	if w.s.Events != nil {
		// Which socket it is has not mattered yet.
		if out := w.isStream(c); !out.IsUndecided() {
			return out
		}
		for i := range o.Messages {
			if _, dst, ok := SendDestination(o.Messages[i].Name); ok {
				e := w.NewEvent(c, policy.UDP)
				e.Dst, e.From, e.Decision = dst, o.fd, w.DecideDatagram(dst)
				w.recordSend(&e, 0)
			}
		}
		w.Retag(c, o.fd)
		w.CloseNow(o.fd)
		o.fd = -1
	}
	return session.CarryOn
}

// IgnoresFastOpen reports whether MSG_FASTOPEN means nothing to a send: its socket is one for
// datagrams, and it is not left to the kernel.
func (w *Worker) IgnoresFastOpen(c *session.Call) bool {
	if !w.s.Needs.Sends {
		return false
	}
	w.Out.Begin(0)
	if !w.guardsSend(c) {
		return false
	}
	out := w.isStream(c)
	stream := !out.IsUndecided()
	return !stream
}
