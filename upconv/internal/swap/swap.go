package swap

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Swap puts an equivalent socket under the target's descriptor: one is made and installed, and the
// one from before is retired. stream.Worker.SwapStream and swapDatagram of package datagram go
// through these steps; what differs is theirs.
type Swap struct {
	Call     *session.Call
	Event    *event.Pending
	Old      int                // a copy of the target's socket; -1: it has been seen to be as good as new, and nobody else's
	Socket   *sockstate.Socket  // what there is to know of that
	Egress   *netns.Egress      // where the new one is made; nil: in the origin
	Crossing *crossing.Crossing // of another family, and in the origin; nil: of the same

	FD     int            // the new one, from Make on
	Places []registration // in epoll sets, from FindPlaces on
	Early  int            // the first so many of them the new one has before it is installed
	Last   lastSeen       // what LookLast has seen
}

// Make makes the socket that is to take the place of the target's, with all that the program has
// done to that. Tidy closes it. The outcome is undecided, or what becomes of the call if the swap
// cannot go on.
func (w *Worker) Make(s *Swap) session.Outcome {
	e, sock, x := s.Event, s.Socket, s.Crossing
	from := s.Old // what is carried over is of it
	if sock.Untouched {
		from = -1
	}
	kept, errno := w.Obtain(s, from)
	switch {
	case errno == 0:
	case s.Old >= 0 && w.Replaced(s.Call, s.Old): // by another thread, which has taken the one that could be had
		return session.Raced
	default:
		return w.Fail(e, "socket for "+e.Decision.Route.String(), errno)
	}
	w.Done = append(w.Done, s.FD)
	if x != nil {
		w.UsedUnix = sock.Kind == unix.SOCK_STREAM && x.Family() == unix.AF_UNIX
	}
	switch errno := w.Carry(s, from, kept); {
	case errno == 0:
	case x != nil && errno != unix.EADDRINUSE && errno != unix.EACCES:
		w.Abandon(s)
		return w.Fail(e, "preparing a socket for "+e.Decision.Route.String(), errno)
	default: // the program's error, natively one of bind(2)
		w.Abandon(s)
		e.Add("port " + strconv.Itoa(int(sock.Port())) + " cannot be had in the egress")
		w.s.Events.Record(e, errno)
		return session.Answer(errno)
	}
	if sock.Untouched {
		session.SetOften(s.FD, sock.Often, x != nil)
	}
	if lost := w.CopyInode(s); lost != "" {
		e.Add("not carried over: " + lost)
	}
	return session.Undecided
}

// Obtain fills in s.FD, which the caller owns. kept is whether that is a socket which the target
// had there before, and not a new one. from is a copy of the target's, or -1 where nothing has been
// done to that.
func (w *Worker) Obtain(s *Swap, from int) (kept bool, errno unix.Errno) {
	sock := s.Socket
	if sock.Kind != unix.SOCK_STREAM && from >= 0 {
		if s.FD, kept = w.s.Companions.Take(from, w.PlaceOf(s.Egress, s.Crossing)); kept {
			return true, 0
		}
	}
	switch {
	case s.Crossing != nil:
		s.FD, errno = w.MakeCrossed(s.Crossing, s.Call)
	case s.Egress == nil:
		s.FD, errno = w.InOrigin(s.Call.TID, sock.Domain, sock.Kind, sock.Proto)
	default:
		s.FD, errno = w.Socket(s.Egress, sock.Domain, sock.Kind, sock.Proto)
	}
	return false, errno
}

// FindPlaces fills in the places in epoll sets that the old socket has. The caller calls CloseSets
// when it is done with them.
func (w *Worker) FindPlaces(s *Swap) {
	lost := ""
	if s.Places, lost = w.registrations(s); lost != "" {
		s.Event.Add(lost)
	}
}

// LookLast looks at the target's descriptor for the last time before another socket takes its
// place: whether it is closed on execve(2), and whether it is yet the socket that s.Old is a copy
// of. If it is not, the call is raced. Of a socket that was not seen s.Socket gets the flags. If
// others may have the old socket, that is put among the worker's witnesses before. The outcome is
// undecided if the swap can go on.
func (w *Worker) LookLast(s *Swap) session.Outcome {
	last, c, old := &s.Last, s.Call, s.Old
	if v := c.View; v != nil {
		last.Watched = old >= 0 && !v.Single() && w.witness(old)
		if old >= 0 && w.Replaced(c, old) {
			return session.Raced
		}
		last.closesOnExec = v.CloseOnExec
		return session.Undecided
	}
	// One read says all: an inode number is the socket's own as long as there is a copy of it.
	info, errno := w.s.Targets.FdinfoBy(c.TID, c.FD, w.Scratch[:], func(file int, to []byte) (n int, errno unix.Errno) {
		last.Watched, n, errno = w.watchAndRead(old, file, to)
		return n, errno
	})
	switch errno {
	case 0:
		same := info.Ino == s.Socket.Inode.Number
		s.Socket.Flags = info.Flags &^ unix.O_CLOEXEC
		last.closesOnExec = info.ClosesOnExec()
		if !same {
			return session.Raced
		}
		return session.Undecided
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return w.Fail(s.Event, "open /proc/TID/fdinfo/FD", errno)
	case unix.ENOENT, unix.ESRCH: // closed meanwhile, so EBADF; or the target is gone, or hidden
		gone := !w.Replaced(c, old)
		if dir, errno := target.OpenDir(c.TID, w.Scratch[:]); errno == 0 { // it was closed for a moment only
			linux.Close(dir)
			gone = false
		}
		if !gone {
			return session.Raced
		}
		return session.CarryOn
	}
	w.Unserved(s.Event, "its descriptors cannot be read in /proc", errno)
	return session.CarryOn
}

// Put installs the new socket under the target's descriptor. The outcome is undecided if it is
// there.
//
// A socket is installed first and connected second: installing puts it into the target's net_cls
// and net_prio cgroups, and its first packet must already carry them.
func (w *Worker) Put(s *Swap) session.Outcome {
	// Before the program has it: its other threads could put it under any number at once.
	w.s.Swapped.Store(true)
	if s.Socket.Kind != unix.SOCK_STREAM {
		w.s.Moved.Store(true)
	}
	switch errno := w.Install(s.Call, s.Call.FD, s.FD, s.Last.closesOnExec); errno {
	case 0:
		return session.Undecided
	case unix.ENOENT, unix.ESRCH:
		return session.CarryOn // the target is gone; nobody will read the answer
	default:
		return w.Fail(s.Event, "SECCOMP_IOCTL_NOTIF_ADDFD", errno)
	}
}

// Abandon is for a new socket that does not come into the place of the target's: if it was a
// companion, it is one again.
func (w *Worker) Abandon(s *Swap) {
	if s.Last.Watched {
		w.acquit(s.Old)
	}
	if s.Socket.Kind != unix.SOCK_STREAM && w.s.Companions.PutBack(s.FD) {
		w.Disown(s.FD)
	}
}

// TakePlaces looks for what the old socket, which is not the target's any more, has got until the
// very end: places in epoll sets, which the new one takes over, and threads that wait for it.
// waited is whether there are such threads.
func (w *Worker) TakePlaces(s *Swap) (waited bool) {
	waited, late := w.lookBack(s)
	s.Places = append(s.Places, late...)
	w.settlePlaces(s)
	w.unregister(s.Places, s.Old) // whoever has a copy: no more events from it
	return waited
}

// CarryAsync has the new socket send the signals that the old one sent: O_ASYNC. flags are its
// other status flags.
func (w *Worker) CarryAsync(s *Swap, flags int) {
	if s.Socket.Flags&unix.O_ASYNC == 0 {
		return
	}
	if errno := w.setAsync(s.Call, s.FD, flags); errno != 0 {
		s.Event.Add("O_ASYNC not carried over: " + linux.ErrnoName(errno))
	}
}

// PlaceOf returns the place that a swap leads to: an egress, nil for the origin, or by way of a
// crossing.
func (w *Worker) PlaceOf(egress *netns.Egress, x *crossing.Crossing) companion.Place {
	switch {
	case x != nil && x.Family() == unix.AF_UNIX:
		return companion.OnUnix
	case x != nil:
		return companion.OnInet6
	case egress != nil:
		return companion.Place(egress.Cookie)
	}
	return companion.Place(w.s.Origin.Cookie)
}
