package supervisor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// swapStream replaces the target's stream by one that is reached from where s says, and connects
// that to sa. If c.back is set, it is only brought there.
func (w *streamWorker) swapStream(s *swap, sa []byte) session.Outcome {
	c, e, sock := s.c, s.e, s.sock
	if !c.Back {
		if out := w.mayConnect(c, e, sock); !out.IsUndecided() {
			return out
		}
	}
	if out := w.make(s); !out.IsUndecided() {
		return out
	}
	toUnix := s.x != nil && s.x.Family() == unix.AF_UNIX
	if toUnix {
		if out := w.connectUnix(c, e, s.x, s.fd, sock); !out.IsUndecided() {
			return out
		}
	}
	if s.x != nil {
		w.s.AnyCrossed.Store(true) // before anybody can ask the new socket for its names
	}
	if w.leaves(s) {
		if out := w.depart(s); !out.IsUndecided() {
			return out
		}
	}
	w.findPlaces(s)
	defer w.closeSets()
	if out := w.lookLast(s); !out.IsUndecided() {
		w.abandonStream(s)
		return out
	}
	if s.old >= 0 && sock.Flags&unix.O_ASYNC != 0 {
		copyOwner(s.old, s.fd) // carry may not have known the flags
	}
	if out := w.put(s); !out.IsUndecided() {
		w.abandonStream(s)
		return out
	}
	if sock.Resets {
		resetOnClose(s.old)
	}
	w.retireStream(s)
	w.async(s, sock.Flags|unix.O_NONBLOCK) // before it connects: this is what it is to be told of
	e.Held = true                          // it has no places yet, of which there may be something to say
	var out session.Outcome
	switch {
	case c.Back:
		linux.SetFlags(s.fd, sock.Flags)
		out = session.CarryOn
	case toUnix:
		out = w.connected(c, e, s.fd, sock)
	default:
		out = w.begin(c, e, s.fd, sock, sa)
	}
	// Only now: before, a poll of it would have said EPOLLHUP.
	w.register(c, e, s.places, s.fd)
	if wait, is := out.Wait.(*wait); is {
		wait.event.Note = e.Note
	}
	e.Release(w.s.Events)
	if !out.IsLater() {
		w.CloseNow(s.fd) // before the target goes on: what it closes then shall be closed
	}
	return out
}

// abandonStream is abandon, and leaves the port where it is.
func (w *streamWorker) abandonStream(s *swap) {
	w.abandon(s)
	if w.leaves(s) {
		w.s.ports.stays(s.sock.Port(), w.to(s.egress, s.x))
	}
}

// retireStream closes the stream whose place the new one has taken, and replaces the copies that
// the target has of it.
func (w *streamWorker) retireStream(s *swap) {
	witness, alive := s.last.watched, false
	if s.old >= 0 {
		w.takePlaces(s)
		// All that is left of the old socket should be this copy.
		if witness {
			alive = w.closeWatched(s.old) // one that is connecting yet is not ready for writing
		} else {
			w.CloseNow(s.old)
		}
	}
	if witness && (s.sock.Resets || alive) {
		w.replaceCopies(s)
		w.noteCopies(s.e, false)
	}
}

// resetOnClose has the connection of a stream be reset, as a disconnection resets it, when nobody
// has the socket any more.
func resetOnClose(fd int) {
	linger := unix.Linger{Onoff: 1}
	linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&linger), unsafe.Sizeof(linger))
}
