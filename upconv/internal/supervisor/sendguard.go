package supervisor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/policy"
)

// guardsSend reports whether a send must not be left to the kernel, which would look up the
// descriptor and the address anew: a datagram socket has been moved, or may be by another thread
// meanwhile, which can then put it under the number.
func (w *datagramWorker) guardsSend(c *call) bool {
	return w.s.moved.Load() || w.sharesTable(c) || w.s.moved.Load()
}

// guardsSends reports whether sends must not be left to the kernel: a datagram socket may be in an
// egress; or any socket where MSG_FASTOPEN, which is in memory, connects.
func (w *datagramWorker) guardsSends(c *call) bool {
	s := w.s
	return s.needs.sends && (s.moved.Load() || c.indirect && s.swapped.Load()) && w.guards(c)
}

// seesStream is isStream by one look, which says as well whether the thread shares its descriptors.
// false: it cannot be seen, or it is none.
func (w *datagramWorker) seesStream(c *call) bool {
	if c.indirect || !w.see(c) {
		return false
	}
	v := c.view
	c.view = nil // a send that moves its socket looks anew
	if v.Mode&unix.S_IFMT != unix.S_IFSOCK || linux.IsDatagramType(v.Type) && (linux.IsInet(v.Family) || v.Family == unix.AF_UNIX && w.s.needs.unix) {
		return false
	}
	if c.table = tableShared; v.alone() {
		c.table = tableOwn
	}
	return true
}

// isStream returns what becomes of a call that is about something that is not a datagram socket, or
// one of another address family: of that nothing is sent elsewhere. If it is about one, the outcome
// is undecided, and a copy is in w.out.fd.
func (w *datagramWorker) isStream(c *call) outcome {
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
func (w *datagramWorker) tookDatagrams(fd, domain int) bool {
	if domain != unix.AF_UNIX || !w.s.needs.unix {
		return false
	}
	_, crossed := w.hasPassport(fd)
	return crossed && linux.KindOf(w.crossing.pass.Proto) == unix.SOCK_DGRAM
}

// notElsewhere returns what becomes of a call that has nothing to do with other sockets than the
// program's: nothing has been moved yet, and nothing of it is to go anywhere but to where they are.
// The outcome of others is undecided.
func (w *datagramWorker) notElsewhere(c *call) outcome {
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

// meansNothing reports whether MSG_FASTOPEN does: the socket is one for datagrams, and not left to
// the kernel.
func (w *datagramWorker) meansNothing(c *call) bool {
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
