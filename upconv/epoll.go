package upconv

import (
	"bytes"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/peek"
)

// epolls knows which descriptors of which process are epoll sets. A socket that a program has put into
// such a set before it connects would be lost to the set in a swap: a registration belongs to the open file.
//
// A process is looked through once, and again when it has made another set: epoll_create(2) is
// stopped for that alone. As long as nobody has made any, nothing is looked at. Where upconv can look at a socket in the
// kernel (see sight.go) that is not needed: it says whether there is anything to be found.
type epolls struct {
	any  atomic.Bool // somebody may have a set
	deaf bool        // nobody says when a set is made
	mu   sync.Mutex
	sets map[int]*epollSets // by process, or thread with descriptors of its own
}

type epollSets struct {
	fds     []int
	large   map[int]bool // sets that it takes long to search
	known   bool         // fds is what the process has
	created time.Time    // when it last was about to make one
	making  []int        // the threads that were
}

const (
	maxEpollProcesses = 1024
	// settling is how long epoll_create(2), once let go on, may take to have the set in place.
	settling = 100 * time.Millisecond
	// longSearch is what it takes to look through a set of some hundred registrations.
	longSearch = 4 * time.Microsecond
)

// blind has every process be looked through every time: neither does the filter tell of new sets, nor can sockets be seen.
func (e *epolls) blind() {
	e.any.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deaf = true
}

// epollCreate handles a stopped epoll_create(2): it is noted and goes on.
func (w *worker) epollCreate(c *call) outcome {
	w.s.epolls.create(w.files(c.tid), c.tid)
	return carryOn
}

// files returns what a thread's descriptor table is known by: the pid, or its tid if it has one of its own.
func (w *worker) files(tid int) int {
	pid := w.s.targets.process(tid)
	if pid != tid {
		if order, _, errno := unix.RawSyscall6(unix.SYS_KCMP, uintptr(pid), uintptr(tid), kcmpFiles, 0, 0, 0); errno == 0 && order != 0 {
			return tid
		}
	}
	return pid
}

// create notes that a thread is about to make a set.
func (e *epolls) create(files, tid int) {
	e.any.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.of(files)
	s.known, s.created, s.making = false, time.Now(), append(s.making, tid)
}

// forget drops what is known of a process that has ended, or that has turned out to be wrong.
func (e *epolls) forget(files int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sets, files)
}

// of returns the entry of a descriptor table; the caller holds mu.
func (e *epolls) of(files int) *epollSets {
	if e.sets == nil || len(e.sets) >= maxEpollProcesses {
		e.sets = map[int]*epollSets{}
	}
	s := e.sets[files]
	if s == nil {
		s = &epollSets{large: map[int]bool{}}
		e.sets[files] = s
	}
	return s
}

// list returns the epoll descriptors of a descriptor table, and which are known to be large. tid is the thread that
// asks: whatever it was about to make is made.
func (e *epolls) list(files, tid int) (fds []int, large map[int]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.of(files)
	if !s.known {
		s.making = slices.DeleteFunc(s.making, func(t int) bool { return t == tid })
		if time.Since(s.created) > settling {
			s.making = nil
		}
		s.fds, s.large = fdsOf(tid, "anon_inode:[eventpoll]"), map[int]bool{}
		s.known = len(s.making) == 0 && !e.deaf
	}
	return s.fds, s.large
}

// isLarge notes that it took long to search a set.
func (e *epolls) isLarge(files, epfd int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sets[files]; s != nil && !s.large[epfd] {
		large := maps.Clone(s.large) // others are reading it
		large[epfd] = true
		s.large = large
	}
}

// registration is one socket's place in one epoll set.
type registration struct {
	epfd   int // the set, in the target
	number int // of the socket, in the target
	event  unix.EpollEvent
}

// kcmpEpollTFD is KCMP_EPOLL_TFD of kcmp(2).
const kcmpEpollTFD = 7

// registrations returns the places of the target's socket fd, of which old is a copy, in its process's
// epoll sets. It costs nothing where there are no sets.
func (w *worker) registrations(c *call, old int) (found []registration) {
	all := &w.s.epolls
	if w.sighted {
		return w.registrationsSeen(c, old)
	}
	if !all.any.Load() {
		return nil
	}
	files := w.files(c.tid)
	fds, large := all.list(files, c.tid)
	for _, epfd := range fds {
		if large[epfd] {
			if is, ok := w.inLargeSet(c, epfd, old); ok {
				if is {
					found = append(found, w.registrationsIn(c.tid, epfd, w.sight.Ino, []int{c.fd})...)
				}
				continue
			}
		}
		began := time.Now()
		slot := [3]uint32{uint32(epfd), uint32(c.fd), 0} // struct kcmp_epoll_slot: efd, tfd, toff
		for {
			order, _, errno := unix.RawSyscall6(unix.SYS_KCMP, uintptr(c.tid), uintptr(c.tid), kcmpEpollTFD, uintptr(c.fd), uintptr(unsafe.Pointer(&slot)), 0)
			if errno != 0 && errno != unix.ENOENT {
				all.forget(files) // not an epoll set any more
			}
			if errno != 0 {
				break
			}
			if order == 0 {
				found = append(found, w.registrationsIn(c.tid, epfd, w.sight.Ino, []int{c.fd})...)
				break
			}
			slot[2]++ // another file that was registered under this number
		}
		if time.Since(began) > longSearch {
			all.isLarge(files, epfd)
		}
	}
	return found
}

// registrationsSeen returns the places of a socket that has been seen, under whatever numbers. How many there are is
// known; should some be missing, there are sets that have not been noticed yet.
func (w *worker) registrationsSeen(c *call, old int) []registration {
	watched := w.sight.Watched
	if watched > 0 && old >= 0 {
		watched -= w.s.companions.watches(old)
	}
	if watched <= 0 {
		return nil
	}
	found := w.registrationsByInode(c, w.sight.Ino, nil)
	if len(found) < watched || w.sight.Watched == peek.MaxWatched {
		w.s.epolls.forget(w.files(c.tid))
		found = w.registrationsByInode(c, w.sight.Ino, nil)
	}
	return found
}

// inLargeSet reports whether the target's socket fd is in a set, without searching all of it: the set is asked to
// take it in under the same number, and refuses with EEXIST what it has. Should it not, the old socket is in it
// for a moment, and must not be ready then as an idle one always is (EPOLLHUP): so it listens, where nobody
// knows, and is gone before the target goes on. ok is false if that could not be done.
func (w *worker) inLargeSet(c *call, epfd, old int) (is, ok bool) {
	if !free.can(c.fd) {
		return false, false
	}
	set, errno := w.s.targets.getfd(c.tid, epfd)
	if errno != 0 {
		return false, false
	}
	defer closeFD(set)
	if _, _, errno := unix.RawSyscall(unix.SYS_LISTEN, uintptr(old), 0, 0); errno != 0 {
		return false, false
	}
	errno = free.with(old, c.fd, func() unix.Errno {
		errno := epollAdd(set, c.fd, &unix.EpollEvent{})
		if errno == 0 {
			unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_DEL, uintptr(c.fd), 0, 0, 0)
		}
		return errno
	})
	// An address of family AF_UNSPEC ends the listening, and the port that came with it.
	unspecified := [sizeofSockaddrIn]byte{}
	connect(old, unspecified[:])
	return errno == unix.EEXIST, errno == unix.EEXIST || errno == 0
}

// registrationsByInode finds a socket in all sets, under any of some numbers; nil: under any number at all, also one that
// has been closed since.
func (w *worker) registrationsByInode(c *call, ino uint64, numbers []int) (found []registration) {
	fds, _ := w.s.epolls.list(w.files(c.tid), c.tid)
	for _, epfd := range fds {
		found = append(found, w.registrationsIn(c.tid, epfd, ino, numbers)...)
	}
	return found
}

// registrationsIn reads them in proc_pid_fdinfo(5) of an epoll set.
func (w *worker) registrationsIn(tid, epfd int, ino uint64, numbers []int) (found []registration) {
	for line := range bytes.Lines(w.readFdinfo(tid, epfd)) {
		tfd, r, of, ok := parseRegistration(line)
		if ok && (numbers == nil || slices.Contains(numbers, tfd)) && (of == 0 || of == ino) {
			r.epfd, r.number = epfd, tfd
			found = append(found, r)
		}
	}
	return found
}

// readFdinfo reads a file that may be long, into a buffer of the worker's.
func (w *worker) readFdinfo(tid, fd int) []byte {
	file, errno := openFdinfo(tid, fd, w.scratch[:])
	if errno != 0 {
		return nil
	}
	defer closeFD(file)
	if w.long == nil {
		w.long = make([]byte, 4096)
	}
	length := 0
	for {
		if length == len(w.long) {
			w.long = append(w.long, make([]byte, len(w.long))...)
		}
		rest := w.long[length:]
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(file), uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)))
		if errno != 0 || n == 0 {
			break
		}
		length += int(n)
	}
	text := w.long[:length]
	if len(w.long) > 1<<20 {
		w.long = nil // a set like that is rare
	}
	return text
}

// parseRegistration reads a line such as
//
//	tfd:        7 events:       19 data: 7fff00000007  pos:0 ino:1a2b sdev:8
//
// tfd is decimal, everything else hexadecimal. ino is 0 where the kernel does not say.
func parseRegistration(line []byte) (tfd int, r registration, ino uint64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte("tfd:"))
	if !ok {
		return 0, r, 0, false
	}
	number, rest, ok := parseNumber(rest, 10)
	if !ok {
		return 0, r, 0, false
	}
	field := func(key string) (n uint64) {
		if at := bytes.Index(rest, []byte(key)); at >= 0 {
			n, _, _ = parseNumber(rest[at+len(key):], 16)
		}
		return n
	}
	data := field("data:")
	r.event = unix.EpollEvent{Events: uint32(field("events:")), Fd: int32(uint32(data)), Pad: int32(uint32(data >> 32))}
	return int(number), r, field("ino:"), true
}

// parseNumber reads a number behind spaces. It is false where there is none.
func parseNumber(text []byte, base uint64) (n uint64, rest []byte, ok bool) {
	text = bytes.TrimLeft(text, " \t")
	for i, c := range text {
		digit := uint64(c) - '0'
		if c >= 'a' && c <= 'f' {
			digit = uint64(c) - 'a' + 10
		}
		if digit >= base {
			return n, text[i:], i > 0
		}
		n = n*base + digit
	}
	return n, nil, len(text) > 0
}

// register puts the socket, which the target now has, into the sets that the one before it was in.
func (w *worker) register(c *call, places []registration, socket int) {
	for i := range places {
		errno := w.registerOne(c, &places[i], socket)
		if errno != 0 && errno != unix.EEXIST {
			w.s.warn("connect: the socket is lost to an epoll set", "tid", c.tid, "fd", c.fd, "error", errno)
		}
	}
}

// settlePlaces is for places that the socket, which the target now has, was given before. Until then others could change those of the
// old one, and take events of the new one as if of the old: what they have said holds, and who is to be told of an event is told again.
func (w *worker) settlePlaces(c *call, places []registration, socket int) {
	if len(places) == 0 || w.sighted && w.sight.OwnTable { // there is nobody else
		return
	}
	ino := inodeOf(socket)
	for i := range places {
		put := &places[i]
		old, now, isOld, isNew := w.placesOf(c.tid, put, w.sight.Ino, ino)
		if !isNew || now != put.event && !fired(now) {
			continue // it has been said of the new one
		}
		event := put.event
		switch {
		case isOld && !fired(old):
			event = old
		case isOld && fired(event): // it is nobody's turn yet
			continue
		}
		set, errno := w.s.targets.getfd(c.tid, put.epfd)
		if errno != 0 {
			continue
		}
		free.with(socket, put.number, func() unix.Errno {
			control := func(how int) {
				unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), uintptr(how), uintptr(put.number), uintptr(unsafe.Pointer(&event)), 0, 0)
			}
			switch {
			case !isOld: // taken out meanwhile
				control(unix.EPOLL_CTL_DEL)
			case event.Events&unix.EPOLLEXCLUSIVE != 0: // which is for adding alone
				control(unix.EPOLL_CTL_DEL)
				control(unix.EPOLL_CTL_ADD)
			default:
				control(unix.EPOLL_CTL_MOD)
			}
			return 0
		})
		closeFD(set)
	}
}

// placesOf returns what a set now has in a place for two sockets, which are known by their inode numbers; as epoll_ctl(2) would have been
// told it. The set is read once: it may be long.
func (w *worker) placesOf(tid int, place *registration, oldIno, ino uint64) (old, now unix.EpollEvent, isOld, isNew bool) {
	for line := range bytes.Lines(w.readFdinfo(tid, place.epfd)) {
		tfd, r, of, ok := parseRegistration(line)
		if !ok || tfd != place.number {
			continue
		}
		if !isOld && (of == 0 || of == oldIno) {
			old, isOld = r.event, true
		}
		if !isNew && (of == 0 || of == ino) {
			now, isNew = r.event, true
		}
	}
	return old, now, isOld, isNew
}

// fired reports whether what is registered is a one-shot that has fired: nothing but how to wait is left of it, and what epoll_ctl(2) always
// adds.
func fired(e unix.EpollEvent) bool {
	const how = unix.EPOLLONESHOT | unix.EPOLLET | unix.EPOLLWAKEUP | unix.EPOLLEXCLUSIVE
	return e.Events&unix.EPOLLONESHOT != 0 && e.Events&^(how|unix.EPOLLERR|unix.EPOLLHUP) == 0
}

// unregister takes the old socket, which the target has no more, out of the sets that it is in.
func (w *worker) unregister(c *call, places []registration, old int) {
	for i := range places {
		place := &places[i]
		set, errno := w.s.targets.getfd(c.tid, place.epfd)
		if errno != 0 {
			continue
		}
		free.with(old, place.number, func() unix.Errno {
			unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_DEL, uintptr(place.number), 0, 0, 0)
			return 0
		})
		closeFD(set)
	}
}

func (w *worker) registerOne(c *call, place *registration, socket int) unix.Errno {
	set, errno := w.s.targets.getfd(c.tid, place.epfd)
	if errno != 0 {
		return errno
	}
	defer closeFD(set)
	// A registration belongs to a file and a number: here too the socket must have the target's number, or
	// the program could not change or remove it.
	return free.with(socket, place.number, func() unix.Errno {
		return epollAdd(set, place.number, &place.event)
	})
}

func epollAdd(set, fd int, event *unix.EpollEvent) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(event)), 0, 0)
	return errno
}
