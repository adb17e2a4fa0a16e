package swap

import (
	"bytes"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// How the places of a socket in epoll sets are found, and given to the socket that replaces it.

// registration is one socket's place in one epoll set.
type registration struct {
	epfd   int    // the set, in the target
	file   uint64 // what Sight.File says of the set; 0: it was not looked at
	set    int    // a copy of it, which CloseSets closes
	number int    // of the socket, in the target
	event  unix.EpollEvent
}

// setCopy is a copy of an epoll set of the target.
type setCopy struct {
	epfd int
	file uint64 // as in registration
	fd   int
}

// openSet gets r a copy of its set.
func (w *Worker) openSet(c *session.Call, r *registration) (errno unix.Errno) {
	for _, s := range w.sets {
		if s.epfd == r.epfd && s.file == r.file {
			r.set = s.fd
			return 0
		}
	}
	if r.set, errno = w.s.Targets.Getfd(c.TID, r.epfd); errno != 0 {
		return errno
	}
	if r.file != 0 && !w.isFile(r.set, r.file) { // another file has its number by now
		linux.Close(r.set)
		return unix.EBADF
	}
	w.sets = append(w.sets, setCopy{r.epfd, r.file, r.set})
	return 0
}

// CloseSets closes the copies of sets.
func (w *Worker) CloseSets() {
	for _, s := range w.sets {
		linux.Close(s.fd)
	}
	w.sets = w.sets[:0]
}

// registrations returns the places of the old socket of a swap in the epoll sets of its process.
// The caller calls CloseSets when it is done with them. It costs nothing where there are no sets.
// lost says why there may be more; mostly it is empty.
func (w *Worker) registrations(s *Swap) (found []registration, lost string) {
	c, all := s.Call, &w.s.Epolls
	switch {
	case c.View != nil:
		return w.registrationsSeen(s)
	case !all.Any.Load():
		return nil, ""
	}
	for range 2 {
		files, pid := w.files(c.TID)
		fds, large, ok := all.list(files, pid, c.TID)
		if !ok {
			return nil, lostPlaces("its process's descriptors cannot be read in /proc", 0)
		}
		stale := false
		for _, epfd := range fds {
			switch w.membership(s, files, epfd, large[epfd]) {
			case notASet:
				stale = true
			case isMember, memberUnknown:
				var errno unix.Errno
				if found, errno = w.registrationsIn(s, epfd, []int{c.FD}, found); errno != 0 {
					lost = lostPlaces("a set", errno)
				}
			}
		}
		if !stale {
			break
		}
		all.forget(files) // one may have another number now
		w.CloseSets()
		found, lost = nil, ""
	}
	return found, lost
}

// lostPlaces is a note for an event.
func lostPlaces(why string, errno unix.Errno) string {
	if errno != 0 {
		why += ": " + linux.ErrnoName(errno)
	}
	return "may be lost to epoll sets: " + why
}

// membership is whether a socket is in a set.
type membership int

const (
	memberUnknown membership = iota
	isMember
	noMember
	notASet
)

const (
	kcmpEpollTFD = 7 // KCMP_EPOLL_TFD of kcmp(2)
	// longSearch is what it takes to look through a set of some hundred registrations.
	longSearch = 4 * time.Microsecond
	// longText is how much proc_pid_fdinfo(5) says of such a set.
	longText = 8 << 10
)

// membership returns whether the old socket of a swap is in a set under the number of the call.
// large is whether that is known to be large, and files what the target's descriptors are known by.
func (w *Worker) membership(s *Swap, files, epfd int, large bool) membership {
	c, all := s.Call, &w.s.Epolls
	if large {
		if is := w.inLargeSet(c, epfd, s.Old); is != memberUnknown {
			return is
		}
	}
	if !all.noKcmp.Load() {
		began := time.Now()
		is, errno := inSmallSet(c, epfd)
		if target.RefusesKcmp(errno) {
			all.noKcmp.Store(true)
		} else if time.Since(began) > longSearch {
			all.noteLarge(files, epfd)
		}
		if is != memberUnknown {
			return is
		}
	}
	if !target.IsLink(c.TID, epfd, epollLink) {
		return notASet
	}
	return memberUnknown
}

// inSmallSet asks kcmp(2) about everything that is in a set under the socket's number.
func inSmallSet(c *session.Call, epfd int) (is membership, errno unix.Errno) {
	slot := [3]uint32{uint32(epfd), uint32(c.FD), 0} // struct kcmp_epoll_slot: efd, tfd, toff
	for {
		order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(c.TID), uintptr(c.TID), kcmpEpollTFD, uintptr(c.FD), uintptr(unsafe.Pointer(&slot)), 0)
		switch {
		case errno == 0 && order == 0:
			return isMember, 0
		case errno == unix.ENOENT:
			return noMember, 0
		case errno == unix.EBADF || errno == unix.EINVAL:
			return notASet, 0
		case errno != 0:
			return memberUnknown, errno
		}
		slot[2]++ // another file that was registered under this number
	}
}

// inLargeSet is membership without searching all of the set: that is asked to take the socket in
// under the same number, and refuses with EEXIST what it has. Should it not, the old socket is in
// it for a moment, and must not be ready then as an idle one always is (EPOLLHUP): so it listens,
// where nobody knows, and is gone before the target goes on.
func (w *Worker) inLargeSet(c *session.Call, epfd, old int) membership {
	set, errno := w.s.Targets.Getfd(c.TID, epfd)
	if errno != 0 {
		return memberUnknown
	}
	defer linux.Close(set)
	if _, _, errno := unix.Syscall(unix.SYS_LISTEN, uintptr(old), 0, 0); errno != 0 {
		return memberUnknown
	}
	errno = openfile.Free.Control(set, old, c.FD, &unix.EpollEvent{}, unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_DEL)
	// An address of family AF_UNSPEC ends the listening, and the port that came with it.
	unspecified := [linux.SizeofSockaddrIn]byte{}
	linux.Connect(old, unspecified[:])
	switch errno {
	case 0:
		return noMember
	case unix.EEXIST:
		return isMember
	}
	return memberUnknown
}

// registrationsSeen returns the places of a socket that has been seen, under whatever numbers. How
// many there are is known; should some be missing, there are sets that have not been noticed yet.
func (w *Worker) registrationsSeen(s *Swap) (found []registration, lost string) {
	seen := s.Call.View
	watched := seen.Watched
	if watched > 0 && s.Old >= 0 {
		watched -= w.s.Companions.Watches(s.Old)
	}
	if watched <= 0 {
		return nil, ""
	}
	if w.showsPlaces(&seen.Sight) {
		return w.placesSeen(s, seen.Places(), watched)
	}
	found, lost = w.registrationsByInode(s, nil)
	if len(found) < watched || seen.Watched == peek.MaxWatched {
		w.CloseSets()
		w.forgetSets(s.Call)
		found, lost = w.registrationsByInode(s, nil)
	}
	return found, lost
}

// forgetSets has the sets of the target be looked for anew.
func (w *Worker) forgetSets(c *session.Call) {
	files, _ := w.files(c.TID)
	w.s.Epolls.forget(files)
}

// showsPlaces reports whether all places of what was seen are known.
func (w *Worker) showsPlaces(sight *peek.Sight) bool {
	return sight.Watched < peek.MaxWatched && w.s.Sights.Load().Peeker.KnowsPlaces()
}

// placesSeen returns those of some places that are in sets of the target. They should be as many as
// are wanted; if not, a set has not been noticed yet, or is one that only others have.
func (w *Worker) placesSeen(s *Swap, places []peek.Place, wanted int) (found []registration, lost string) {
	c := s.Call
	for _, noticed := range []bool{true, false} {
		if !noticed {
			w.lookAtSets(c.TID)
		}
		files, _ := w.files(c.TID)
		for i := range places {
			p := &places[i]
			if hasPlace(found, p) {
				continue
			}
			epfd, ok := w.s.Epolls.setOf(files, p.Set)
			if !ok {
				continue
			}
			r := registration{epfd: epfd, file: p.Set, number: p.Number, event: epollEvent(p)}
			switch errno := w.openSet(c, &r); errno {
			case 0:
				found = append(found, r)
			case unix.EBADF:
			default:
				lost = lostPlaces("a set", errno)
			}
		}
		if len(found) >= wanted {
			break
		}
	}
	return found, lost
}

// hasPlace reports whether a place that was seen is among others.
func hasPlace(others []registration, p *peek.Place) bool {
	return slices.ContainsFunc(others, func(r registration) bool { return r.file == p.Set && r.number == p.Number })
}

// isFile reports whether a descriptor of upconv's is of the file that was seen.
func (w *Worker) isFile(fd int, file uint64) bool {
	var sight peek.Sight
	return w.s.Sights.Load().Peeker.Look(w.s.PID, fd, &sight) == 0 && sight.File == file
}

// epollEvent returns what epoll_ctl(2) was told of a place.
func epollEvent(p *peek.Place) unix.EpollEvent {
	return unix.EpollEvent{Events: p.Events, Fd: int32(uint32(p.Data)), Pad: int32(uint32(p.Data >> 32))}
}

// registrationsByInode finds the old socket of a swap in all sets, under any of some numbers; nil:
// under any number at all, also one that has been closed since.
func (w *Worker) registrationsByInode(s *Swap, numbers []int) (found []registration, lost string) {
	c := s.Call
	files, pid := w.files(c.TID)
	fds, _, ok := w.s.Epolls.list(files, pid, c.TID)
	if !ok {
		return nil, lostPlaces("its process's descriptors cannot be read in /proc", 0)
	}
	for _, epfd := range fds {
		var errno unix.Errno
		if found, errno = w.registrationsIn(s, epfd, numbers, found); errno != 0 {
			lost = lostPlaces("a set", errno)
		}
	}
	return found, lost
}

// registrationsIn appends to found those that are in a set, as proc_pid_fdinfo(5) says.
func (w *Worker) registrationsIn(s *Swap, epfd int, numbers []int, found []registration) ([]registration, unix.Errno) {
	c := s.Call
	text, errno := w.readFdinfo(c.TID, epfd)
	if errno == unix.ENOENT {
		return found, 0 // closed meanwhile
	}
	if len(text) > longText {
		files, _ := w.files(c.TID)
		w.s.Epolls.noteLarge(files, epfd)
	}
	for line := range bytes.Lines(text) {
		tfd, event, of, ok := target.ParseRegistration(line)
		if !ok || numbers != nil && !slices.Contains(numbers, tfd) || of != 0 && of != s.Socket.Inode.Number {
			continue
		}
		r := registration{epfd: epfd, number: tfd, event: event}
		switch other := w.openSet(c, &r); other {
		case 0:
			found = append(found, r)
		case unix.EBADF: // closed meanwhile
		default:
			errno = other
		}
	}
	return found, errno
}

// Register puts the socket, which the target now has, into the sets that the one before it was in.
// The event gets what becomes lost.
func (w *Worker) Register(c *session.Call, e *event.Pending, places []registration, socket int) {
	for i := range places {
		p := &places[i]
		// A registration belongs to a file and a number: here too the socket must have the target's
		// number, or the program could not change or remove it.
		errno := openfile.Free.Control(p.set, socket, p.number, &p.event, unix.EPOLL_CTL_ADD)
		switch errno {
		case 0, unix.EEXIST:
			continue
		case unix.EMFILE:
			e.Add("lost to an epoll set: upconv's RLIMIT_NOFILE is below its number " + strconv.Itoa(p.number))
		default:
			e.Add("lost to an epoll set: " + linux.ErrnoName(errno))
		}
		w.s.Warn(c.Name+": the socket is lost to an epoll set", "tid", c.TID, "fd", c.FD, "error", errno)
	}
}

// unregister takes the old socket, which the target has no more, out of the sets that it is in.
func (w *Worker) unregister(places []registration, old int) {
	for i := range places {
		openfile.Free.Control(places[i].set, old, places[i].number, &unix.EpollEvent{}, unix.EPOLL_CTL_DEL)
	}
}

// settlePlaces is for places that the socket, which the target now has, was given before. Until
// then others could change those of the old one, and take events of the new one as if of the old:
// what they have said holds, and who is to be told of an event is told again.
func (w *Worker) settlePlaces(s *Swap) {
	places, socket := s.Places[:s.Early], s.FD
	if len(places) == 0 || s.Call.View.Alone() { // there is nobody else
		return
	}
	var looks placeSights
	w.lookAtPlaces(s, &looks)
	for i := range places {
		put := &places[i]
		was, now := w.inPlace(s, &looks, put)
		if !now.is || now.event != put.event && !fired(now.event) {
			continue // it has been said of the new one
		}
		event := put.event
		switch {
		case was.is && !fired(was.event):
			event = was.event
		case was.is && fired(event): // it is nobody's turn yet
			continue
		}
		control := func(ops ...uintptr) { openfile.Free.Control(put.set, socket, put.number, &event, ops...) }
		switch {
		case !was.is: // taken out meanwhile
			control(unix.EPOLL_CTL_DEL)
		case event.Events&unix.EPOLLEXCLUSIVE != 0: // which is for adding alone
			control(unix.EPOLL_CTL_DEL, unix.EPOLL_CTL_ADD)
		default:
			control(unix.EPOLL_CTL_MOD)
		}
	}
}

// said is what a set now has of a socket in a place, as epoll_ctl(2) would have been told it; if it
// has.
type said struct {
	event unix.EpollEvent
	is    bool
}

// placeSights are looks at the two sockets of a swap, whose places in epoll sets are compared.
type placeSights struct {
	before, after peek.Sight
	all           bool // they show all places
}

// lookAtPlaces looks at the two sockets, if that can be. (No closure does: the swap would be on the
// heap.)
func (w *Worker) lookAtPlaces(s *Swap, l *placeSights) {
	if s.Call.View == nil {
		return
	}
	peeker := w.s.Sights.Load().Peeker
	seen := peeker.Look(w.s.PID, s.Old, &l.before) == 0 && peeker.Look(w.s.PID, s.FD, &l.after) == 0
	l.all = seen && w.showsPlaces(&l.before) && w.showsPlaces(&l.after)
}

// inPlace returns what is in a place of the old socket and of the new one.
func (w *Worker) inPlace(s *Swap, l *placeSights, place *registration) (was, now said) {
	if l.all && place.file != 0 {
		return saidOf(&l.before, place), saidOf(&l.after, place)
	}
	return w.readPlaces(s, place, linux.InodeOf(s.FD))
}

// saidOf returns what a look at a socket has shown of one of its places.
func saidOf(sight *peek.Sight, place *registration) said {
	for _, p := range sight.Places() {
		if p.Set == place.file && p.Number == place.number {
			return said{epollEvent(&p), true}
		}
	}
	return said{}
}

// readPlaces is what proc_pid_fdinfo(5) says of a place of the old socket, and of the one with the
// inode number ino. The set is read once: it may be long.
func (w *Worker) readPlaces(s *Swap, place *registration, ino uint64) (was, now said) {
	text, _ := w.readFdinfo(s.Call.TID, place.epfd)
	for line := range bytes.Lines(text) {
		tfd, event, of, ok := target.ParseRegistration(line)
		if !ok || tfd != place.number {
			continue
		}
		if !was.is && (of == 0 || of == s.Socket.Inode.Number) {
			was = said{event, true}
		}
		if !now.is && (of == 0 || of == ino) {
			now = said{event, true}
		}
	}
	return was, now
}

// fired reports whether what is registered is a one-shot that has fired: nothing but how to wait is
// left of it, and what epoll_ctl(2) always adds.
func fired(e unix.EpollEvent) bool {
	const how = unix.EPOLLONESHOT | unix.EPOLLET | unix.EPOLLWAKEUP | unix.EPOLLEXCLUSIVE
	return e.Events&unix.EPOLLONESHOT != 0 && e.Events&^(how|unix.EPOLLERR|unix.EPOLLHUP) == 0
}
