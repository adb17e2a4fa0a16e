package supervisor

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// swapDatagram replaces the target's datagram socket by one that is reached from where s says, and
// makes the call with that: connects it to sa, or sends w.out. If c.back is set, it is only brought
// there.
func (w *datagramWorker) swapDatagram(s *swap, sa []byte) session.Outcome {
	c, e, sock := s.c, s.e, s.sock
	if out := w.make(s); !out.IsUndecided() {
		return out
	}
	if s.x != nil {
		w.s.AnyCrossed.Store(true) // before anybody can ask the new socket for its names
	}
	w.findPlaces(s)
	defer w.closeSets()
	if out := w.lookLast(s); !out.IsUndecided() {
		w.abandon(s)
		return out
	}
	linux.SetFlags(s.fd, sock.Flags&^unix.O_ASYNC) // another thread may begin to receive at once, and to wait
	// Or to say anew what it waits for: the program's epoll_ctl(2) must find the socket in the very
	// moment in which it has it.
	s.early = len(s.places)
	w.register(c, e, s.places, s.fd)
	if s.old >= 0 && sock.Kind == unix.SOCK_DGRAM && !c.View.Alone() { // other threads find it as soon as it is installed
		defer w.s.companions.Arrived(w.s.companions.Arrives(s.fd))
	}
	if out := w.put(s); !out.IsUndecided() {
		w.abandon(s)
		return out
	}
	w.s.companions.Settle(s.fd)
	w.noteMoved(s.fd)
	if sock.Connected && s.egress == nil && s.x == nil {
		w.s.returned.Add(s.fd)
	}
	if s.egress != nil && sock.Kind == unix.SOCK_DGRAM {
		w.noteSettled(s.fd, s.egress.Cookie)
	}
	was := w.former(c.TID, s.old, sock, w.to(s.egress, s.x))
	w.retireDatagram(s, &was)
	w.async(s, sock.Flags)
	var out session.Outcome
	if c.Back {
		linux.SetFlags(s.fd, sock.Flags)
		out = session.CarryOn
	} else {
		out = w.act(c, e, s.fd, s.x, sa)
	}
	w.register(c, e, s.places[s.early:], s.fd)
	if was.aside {
		w.Disown(s.old)
		w.setAside(c, &was, s.fd, s.egress)
	}
	if !out.IsLater() {
		w.CloseNow(s.fd) // before the target goes on: what it closes then shall be closed
	}
	return out
}

// retireDatagram closes the socket whose place the new one has taken, unless it is put aside, and
// sees to those who have it yet: the copies that the target has of it are replaced, and those who
// wait for datagrams on it do so on the other one.
func (w *datagramWorker) retireDatagram(s *swap, was *former) {
	c, witness := s.c, s.last.watched
	waitedFor := w.s.receivers.on(s.old)
	waited, alive := false, false
	var came companion.Unread
	if s.old >= 0 {
		waited = w.takePlaces(s)
		if was.heard && (!was.aside || !c.Sends) { // before it is connected: then it hears its peer only
			came = w.takeOut(c, was, s.fd, s.egress)
		}
		// All that is left of the old socket should be this copy.
		switch {
		case was.aside:
			alive = true
		case witness:
			alive = w.closeWatched(s.old)
		default:
			w.CloseNow(s.old)
		}
	}
	var others []int // numbers of the old socket
	copied := witness && alive
	if copied {
		others = w.replaceCopies(s)
	}
	if waited || !c.View.Single() && (was.aside || !witness || copied) {
		w.s.receivers.follow(waitedFor, s.fd)
		if !w.restartWaiters(c, others, s.fd) {
			s.e.Add("a thread goes on waiting for the socket from before: ptrace(2) is not permitted")
		}
	}
	came.HandOver() // now that nobody has the port but this one
	if copied {
		w.noteCopies(s.e, was.aside)
	}
}
