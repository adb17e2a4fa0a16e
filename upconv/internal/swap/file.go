package swap

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
)

// What is not of a socket but of its open file, and of the descriptors that refer to it.

const kcmpFile = 0 // KCMP_FILE of kcmp(2)

// Replaced reports whether the target's descriptor does not refer to the file any more that old, a
// socket, is a copy of.
func (w *Worker) Replaced(c *session.Call, old int) bool {
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(w.s.PID), uintptr(c.TID), kcmpFile, uintptr(old), uintptr(c.FD), 0)
	switch errno {
	case 0:
		return order != 0
	case unix.EBADF:
		return true
	}
	return !target.IsSocket(c.TID, c.FD, linux.InodeOf(old)) // where kcmp(2) is refused; it takes some us more
}

// CopyInode gives the new socket to the owner, and with the mode, of the target's. That is also the
// user that packet filters and routing rules (skuid, uidrange) see. lost says what the new one did
// not get.
func (w *Worker) CopyInode(s *Swap) (lost string) {
	of := &s.Socket.Inode
	if v := s.Call.View; v != nil {
		*of = sockstate.Inode{UID: v.UID, GID: v.GID, Mode: v.Mode, Number: v.Ino}
	} else if s.Socket.Reads == nil {
		var stat unix.Stat_t
		if unix.Fstat(s.Old, &stat) != nil {
			return "its owner"
		}
		*of = sockstate.InodeIn(&stat)
	}
	if of.UID != w.s.UID || of.GID != w.s.GID {
		if _, _, errno := unix.RawSyscall(unix.SYS_FCHOWN, uintptr(s.FD), uintptr(of.UID), uintptr(of.GID)); errno != 0 {
			lost = "its owner"
		}
	}
	if mode := of.Mode &^ unix.S_IFMT; mode != 0o777 {
		if _, _, errno := unix.RawSyscall(unix.SYS_FCHMOD, uintptr(s.FD), uintptr(mode), 0); errno != 0 {
			lost = strings.TrimPrefix(lost+" and its mode", " and ")
		}
	}
	return lost
}

// setAsync sets the status flags, with O_ASYNC. The number through which that is done is what si_fd
// will say.
func (w *Worker) setAsync(c *session.Call, socket, flags int) unix.Errno {
	return openfile.Free.SetFlags(socket, c.FD, flags|unix.O_ASYNC)
}

// witness puts old into an epoll set of this worker's own, which does not keep it alive: should it
// still be there when its last known copy has been closed, there are others. It reports whether
// that can be told.
func (w *Worker) witness(old int) bool {
	if w.witnesses < 0 { // there was none to be had
		w.newWitnesses()
	}
	return linux.EpollAdd(w.witnesses, old, &unix.EpollEvent{Events: unix.EPOLLOUT}) == 0
}

// newWitnesses makes the set, after the first time without whatever is in it.
func (w *Worker) newWitnesses() {
	if w.witnesses >= 0 {
		linux.Close(w.witnesses)
	}
	w.witnesses = -1
	if set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		w.witnesses = set
	}
}

// acquit takes old out of the worker's witnesses again.
func (w *Worker) acquit(old int) {
	unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(w.witnesses), unix.EPOLL_CTL_DEL, uintptr(old), 0, 0, 0)
}

// hasCopies reports whether somebody has a copy yet of the old socket, which is in the worker's
// witnesses and is closed: being idle, it is always ready for writing.
func (w *Worker) hasCopies() bool {
	var event unix.EpollEvent
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.witnesses), uintptr(unsafe.Pointer(&event)), 1, 0, 0, 0)
	return errno == 0 && n != 0
}

// ReplaceCopies puts the new socket under every other number of the target that refers to the old
// one, and adds the places in epoll sets that these have. It returns the numbers.
//
// Meanwhile another thread may copy the old one to a number that has been passed (dup2(2)). So it
// looks again, until there is none.
func (w *Worker) ReplaceCopies(s *Swap) (numbers []int) {
	for range session.MaxRaces {
		found := w.replaceCopiesOnce(s)
		numbers = append(numbers, found...)
		if len(found) == 0 || !w.hasCopies() {
			break
		}
	}
	return numbers
}

// replaceCopiesOnce is ReplaceCopies for the numbers that one look finds.
func (w *Worker) replaceCopiesOnce(s *Swap) (numbers []int) {
	c, ino := s.Call, s.Socket.Inode.Number
	numbers, _ = target.DescriptorsLinkedTo(c.TID, target.SocketLink(ino))
	if len(numbers) > 0 && c.View == nil && w.s.Epolls.Any.Load() { // else they are known already
		found, lost := w.registrationsByInode(s, numbers)
		if lost != "" {
			s.Event.Add(lost)
		}
		s.Places = append(s.Places, found...)
	}
	for _, number := range numbers {
		// It may have been closed meanwhile, and would be opened again.
		if cloexec, still := w.copyYet(c, number, ino); still {
			w.Install(c, number, s.FD, cloexec)
		}
	}
	return numbers
}

// copyYet reports whether a number of the target is open, and still the socket of an inode number.
func (w *Worker) copyYet(c *session.Call, number int, ino uint64) (cloexec, still bool) {
	if c.View == nil {
		cloexec, errno := w.s.Targets.CloseOnExec(c.TID, number, w.Scratch[:])
		if errno != 0 {
			return false, false
		}
		return cloexec, target.IsSocket(c.TID, number, ino)
	}
	var sight peek.Sight
	errno := w.s.Sights.Load().Peeker.Look(c.TID, number, &sight)
	// What has been opened since may be in the same place.
	return sight.CloseOnExec, errno == 0 && sight.File == c.View.File && sight.Mode&unix.S_IFMT == unix.S_IFSOCK && sight.Ino == ino
}

// NoteCopies notes in the event that others have copies of the old socket, after those of the
// target have been replaced. aside is whether upconv itself has one yet, so that nothing tells of
// others.
func (w *Worker) NoteCopies(e *event.Pending, aside bool) {
	if !aside && w.hasCopies() {
		e.Add("another process has a copy of the socket from before it was connected, or is using it")
	}
	w.newWitnesses() // without its descriptor the socket cannot be taken out
}
