package stream

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/swap"
)

// SwapStream replaces the target's stream by one that is reached from where s says, and connects
// that to sa.
func (w *Worker) SwapStream(s *swap.Swap, sa []byte) session.Outcome {
	if out := w.MayConnect(s.Call, s.Event, s.Socket); !out.IsUndecided() {
		return out
	}
	return w.replaceStream(s, func() session.Outcome {
		if s.Crossing != nil && s.Crossing.Family() == unix.AF_UNIX {
			return w.connected(s.Call, s.Event, s.FD, s.Socket)
		}
		return w.begin(s.Call, s.Event, s.FD, s.Socket, sa)
	})
}

// BringBackStream replaces the target's stream by one of the origin. The target's call goes on.
func (w *Worker) BringBackStream(s *swap.Swap) session.Outcome {
	return w.replaceStream(s, func() session.Outcome {
		linux.SetFlags(s.FD, s.Socket.Flags)
		return session.CarryOn
	})
}

// replaceStream replaces the target's stream by one that is reached from where s says. use is what
// is done with that as soon as it is the target's.
func (w *Worker) replaceStream(s *swap.Swap, use func() session.Outcome) session.Outcome {
	c, e, sock := s.Call, s.Event, s.Socket
	if out := w.Make(s); !out.IsUndecided() {
		return out
	}
	if s.Crossing != nil && s.Crossing.Family() == unix.AF_UNIX {
		if out := w.connectUnix(c, e, s.Crossing, s.FD, sock); !out.IsUndecided() {
			return out
		}
	}
	if s.Crossing != nil {
		w.s.AnyCrossed.Store(true) // before anybody can ask the new socket for its names
	}
	if w.leaves(s) {
		if out := w.depart(s); !out.IsUndecided() {
			return out
		}
	}
	w.FindPlaces(s)
	defer w.CloseSets()
	if out := w.LookLast(s); !out.IsUndecided() {
		w.abandonStream(s)
		return out
	}
	if s.Old >= 0 && sock.Flags&unix.O_ASYNC != 0 {
		sockstate.CopyOwner(s.Old, s.FD) // Carry may not have known the flags
	}
	if out := w.Put(s); !out.IsUndecided() {
		w.abandonStream(s)
		return out
	}
	if sock.Resets {
		resetOnClose(s.Old)
	}
	w.retireStream(s)
	w.CarryAsync(s, sock.Flags|unix.O_NONBLOCK) // before it connects: this is what it is to be told of
	e.Held = true                               // it has no places yet, of which there may be something to say
	out := use()
	// Only now: before, a poll of it would have said EPOLLHUP.
	w.Register(c, e, s.Places, s.FD)
	if wait, is := out.Wait.(*wait); is {
		wait.event.Note = e.Note
	}
	e.Release(w.s.Events)
	if !out.IsLater() {
		w.CloseNow(s.FD) // before the target goes on: what it closes then shall be closed
	}
	return out
}

// abandonStream is Abandon, and leaves the port in the origin.
func (w *Worker) abandonStream(s *swap.Swap) {
	w.Abandon(s)
	if w.leaves(s) {
		w.s.ports.cancel(s.Socket.Port(), w.PlaceOf(s.Egress, s.Crossing))
	}
}

// retireStream closes the stream whose place the new one has taken, and replaces the copies that
// the target has of it.
func (w *Worker) retireStream(s *swap.Swap) {
	witness, alive := s.Last.Watched, false
	if s.Old >= 0 {
		w.TakePlaces(s)
		// All that is left of the old socket should be this copy.
		if witness {
			alive = w.CloseWatched(s.Old) // one that is connecting yet is not ready for writing
		} else {
			w.CloseNow(s.Old)
		}
	}
	if witness && (s.Socket.Resets || alive) {
		w.ReplaceCopies(s)
		w.NoteCopies(s.Event, false)
	}
}

// resetOnClose has the connection of a stream be reset, as a disconnection resets it, when nobody
// has the socket any more.
func resetOnClose(fd int) {
	linger := unix.Linger{Onoff: 1}
	linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&linger), unsafe.Sizeof(linger))
}
