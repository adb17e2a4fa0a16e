package datagram

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/swap"
)

// swapDatagram replaces the target's datagram socket by one that is reached from where s says, and
// makes the call with that: connects it to sa, or sends w.Out.
func (w *Worker) swapDatagram(s *swap.Swap, sa []byte) session.Outcome {
	return w.replaceDatagram(s, func() session.Outcome { return w.act(s.Call, s.Event, s.FD, s.Crossing, sa) })
}

// BringBackDatagram replaces the target's datagram socket by one of the origin. The target's call
// goes on.
func (w *Worker) BringBackDatagram(s *swap.Swap) session.Outcome {
	return w.replaceDatagram(s, func() session.Outcome {
		linux.SetFlags(s.FD, s.Socket.Flags)
		return session.CarryOn
	})
}

// replaceDatagram replaces the target's datagram socket by one that is reached from where s says.
// use is what is done with that as soon as it is the target's.
func (w *Worker) replaceDatagram(s *swap.Swap, use func() session.Outcome) session.Outcome {
	c, e, sock := s.Call, s.Event, s.Socket
	if out := w.Make(s); !out.IsUndecided() {
		return out
	}
	if s.Crossing != nil {
		w.s.AnyCrossed.Store(true) // before anybody can ask the new socket for its names
	}
	w.FindPlaces(s)
	defer w.CloseSets()
	if out := w.LookLast(s); !out.IsUndecided() {
		w.Abandon(s)
		return out
	}
	linux.SetFlags(s.FD, sock.Flags&^unix.O_ASYNC) // another thread may begin to receive at once, and to wait
	// Or to say anew what it waits for: the program's epoll_ctl(2) must find the socket in the very
	// moment in which it has it.
	s.Early = len(s.Places)
	w.Register(c, e, s.Places, s.FD)
	if s.Old >= 0 && sock.Kind == unix.SOCK_DGRAM && !c.View.Alone() { // other threads find it as soon as it is installed
		defer w.s.Companions.Arrived(w.s.Companions.Arrives(s.FD))
	}
	if out := w.Put(s); !out.IsUndecided() {
		w.Abandon(s)
		return out
	}
	w.s.Companions.Settle(s.FD)
	w.noteMoved(s.FD)
	if sock.Connected && s.Egress == nil && s.Crossing == nil {
		w.s.returned.Add(s.FD)
	}
	if s.Egress != nil && sock.Kind == unix.SOCK_DGRAM {
		w.noteSettled(s.FD, s.Egress.Cookie)
	}
	was := w.former(c.TID, s.Old, sock, w.PlaceOf(s.Egress, s.Crossing))
	w.retireDatagram(s, &was)
	w.CarryAsync(s, sock.Flags)
	out := use()
	w.Register(c, e, s.Places[s.Early:], s.FD)
	if was.aside {
		w.Disown(s.Old)
		w.setAside(c, &was, s.FD, s.Egress)
	}
	if !out.IsLater() {
		w.CloseNow(s.FD) // before the target goes on: what it closes then shall be closed
	}
	return out
}

// retireDatagram closes the socket whose place the new one has taken, unless it is put aside, and
// sees to those who have it yet: the copies that the target has of it are replaced, and those who
// wait for datagrams on it do so on the other one.
func (w *Worker) retireDatagram(s *swap.Swap, was *former) {
	c, witness := s.Call, s.Last.Watched
	waitedFor := w.s.Receivers.NoteMove(s.Old)
	waited, alive := false, false
	var came companion.Unread
	if s.Old >= 0 {
		waited = w.TakePlaces(s)
		if was.heard && (!was.aside || !c.Sends) { // before it is connected: then it hears its peer only
			came = w.takeOut(c, was, s.FD, s.Egress)
		}
		// All that is left of the old socket should be this copy.
		switch {
		case was.aside:
			alive = true
		case witness:
			alive = w.CloseWatched(s.Old)
		default:
			w.CloseNow(s.Old)
		}
	}
	var others []int // numbers of the old socket
	copied := witness && alive
	if copied {
		others = w.ReplaceCopies(s)
	}
	if waited || !c.View.Single() && (was.aside || !witness || copied) {
		w.s.Receivers.Follow(waitedFor, s.FD)
		if !w.RestartWaiters(c, others, s.FD) {
			s.Event.Add("a thread goes on waiting for the socket from before: ptrace(2) is not permitted")
		}
	}
	came.HandOver() // now that nobody has the port but this one
	if copied {
		w.NoteCopies(s.Event, was.aside)
	}
}
