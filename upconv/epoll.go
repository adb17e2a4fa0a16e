package upconv

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epolls knows which descriptors of which process are epoll sets. A socket that a program has put into
// such a set before it connects would be lost to the set in a swap: a registration belongs to the open file.
//
// A process is looked through once, and again when it has made another set: epoll_create(2) is
// stopped for that alone. As long as nobody has made any, nothing is looked at.
type epolls struct {
	any  atomic.Bool // somebody may have a set
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

// epollCreate handles a stopped epoll_create(2): it is noted and goes on.
func (w *worker) epollCreate(c *call) outcome {
	w.s.epolls.create(w.files(c.tid), c.tid)
	return carryOn
}

// files returns what a thread's descriptor table is known by: the pid, or its tid if it has one of its own.
func (w *worker) files(tid int) int {
	pid := w.s.targets.process(tid)
	if pid != tid {
		const kcmpFiles = 2 // KCMP_FILES of kcmp(2)
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
		s.known = len(s.making) == 0
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
	if !all.any.Load() {
		return nil
	}
	files := w.files(c.tid)
	fds, large := all.list(files, c.tid)
	for _, epfd := range fds {
		if large[epfd] {
			if is, ok := w.inLargeSet(c, epfd, old); ok {
				if is {
					found = append(found, registrationsIn(c.tid, epfd, w.stat.Ino, []int{c.fd})...)
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
				found = append(found, registrationsIn(c.tid, epfd, w.stat.Ino, []int{c.fd})...)
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

// inLargeSet reports whether the target's socket fd is in a set, without searching all of it: the set is asked to
// take it in under the same number, and refuses with EEXIST what it has. Should it not, the old socket is in it
// for a moment, and must not be ready then as an idle one always is (EPOLLHUP): so it listens, where nobody
// knows, and is gone before the target goes on. ok is false if that could not be done.
func (w *worker) inLargeSet(c *call, epfd, old int) (is, ok bool) {
	number, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(old), unix.F_DUPFD_CLOEXEC, uintptr(c.fd))
	if errno != 0 {
		return false, false
	}
	defer closeFD(int(number))
	if int(number) != c.fd {
		return false, false // upconv uses the number itself
	}
	set, errno := w.s.targets.getfd(c.tid, epfd)
	if errno != 0 {
		return false, false
	}
	defer closeFD(set)
	if _, _, errno := unix.RawSyscall(unix.SYS_LISTEN, uintptr(old), 0, 0); errno != 0 {
		return false, false
	}
	errno = epollAdd(set, int(number), &unix.EpollEvent{})
	if errno == 0 {
		unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_DEL, number, 0, 0, 0)
	}
	// An address of family AF_UNSPEC ends the listening, and the port that came with it.
	unspecified := [sizeofSockaddrIn]byte{}
	connect(old, unspecified[:])
	return errno == unix.EEXIST, errno == unix.EEXIST || errno == 0
}

// registrationsByInode finds a socket in all sets, under any of some numbers.
func (w *worker) registrationsByInode(c *call, ino uint64, numbers []int) (found []registration) {
	if !w.s.epolls.any.Load() {
		return nil
	}
	fds, _ := w.s.epolls.list(w.files(c.tid), c.tid)
	for _, epfd := range fds {
		found = append(found, registrationsIn(c.tid, epfd, ino, numbers)...)
	}
	return found
}

// registrationsIn reads them in proc_pid_fdinfo(5) of an epoll set.
func registrationsIn(tid, epfd int, ino uint64, numbers []int) (found []registration) {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/fdinfo/" + strconv.Itoa(epfd))
	for line := range bytes.Lines(text) {
		for _, number := range numbers {
			if r, of, ok := parseRegistration(line, number); ok && (of == 0 || of == ino) {
				r.epfd, r.number = epfd, number
				found = append(found, r)
			}
		}
	}
	return found
}

// parseRegistration reads a line such as
//
//	tfd:        7 events:       19 data: 7fff00000007  pos:0 ino:1a2b sdev:8
//
// if it is about descriptor fd. ino is 0 where the kernel does not say.
func parseRegistration(line []byte, fd int) (r registration, ino uint64, ok bool) {
	var events, data uint64
	fields := bytes.Fields(bytes.ReplaceAll(line, []byte(":"), []byte(": ")))
	for i := 0; i+1 < len(fields); i += 2 {
		base := 16
		if string(fields[i]) == "tfd:" {
			base = 10
		}
		n, err := strconv.ParseUint(string(fields[i+1]), base, 64)
		switch key := string(fields[i]); {
		case key == "tfd:":
			if err != nil || n != uint64(fd) {
				return r, 0, false
			}
			ok = true
		case err != nil:
		case key == "events:":
			events = n
		case key == "data:":
			data = n
		case key == "ino:":
			ino = n
		}
	}
	r.event = unix.EpollEvent{Events: uint32(events), Fd: int32(uint32(data)), Pad: int32(uint32(data >> 32))}
	return r, ino, ok
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

func (w *worker) registerOne(c *call, place *registration, socket int) unix.Errno {
	set, errno := w.s.targets.getfd(c.tid, place.epfd)
	if errno != 0 {
		return errno
	}
	defer closeFD(set)
	// A registration belongs to a file and a number: here too the socket must have the target's number, or
	// the program could not change or remove it.
	return withNumber(socket, set, place.number, func(fd, set int) unix.Errno {
		return epollAdd(set, fd, &place.event)
	})
}

func epollAdd(set, fd int, event *unix.EpollEvent) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(event)), 0, 0)
	return errno
}
