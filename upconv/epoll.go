package upconv

import (
	"bytes"
	"os"
	"runtime"
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
	sets map[int]*epollSets // by process
}

type epollSets struct {
	fds     []int
	known   bool      // fds is what the process has
	created time.Time // when it last made one
}

const (
	maxEpollProcesses = 1024
	// settling is how long epoll_create(2), once let go on, may take to have the set in place.
	settling = 100 * time.Millisecond
)

// create notes that a process is about to make a set.
func (e *epolls) create(pid int) {
	e.any.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.of(pid)
	s.known, s.created = false, time.Now()
}

// forget drops what is known of a process that has ended, or that has turned out to be wrong.
func (e *epolls) forget(pid int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sets, pid)
}

// of returns the entry of a process; the caller holds mu.
func (e *epolls) of(pid int) *epollSets {
	if e.sets == nil || len(e.sets) >= maxEpollProcesses {
		e.sets = map[int]*epollSets{}
	}
	s := e.sets[pid]
	if s == nil {
		s = &epollSets{}
		e.sets[pid] = s
	}
	return s
}

// list returns the epoll descriptors of a process.
func (e *epolls) list(pid int) []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.of(pid)
	if !s.known {
		s.fds = epollFDs(pid)
		s.known = time.Since(s.created) > settling
	}
	return s.fds
}

// epollFDs looks through a process's descriptors.
func epollFDs(pid int) (fds []int) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if what, err := os.Readlink(dir + entry.Name()); err == nil && what == "anon_inode:[eventpoll]" {
			if fd, err := strconv.Atoi(entry.Name()); err == nil {
				fds = append(fds, fd)
			}
		}
	}
	return fds
}

// registration is one socket's place in one epoll set.
type registration struct {
	epfd  int // the set, in the target
	event unix.EpollEvent
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
	pid := w.s.targets.process(c.tid)
	for _, epfd := range all.list(pid) {
		slot := [3]uint32{uint32(epfd), uint32(c.fd), 0} // struct kcmp_epoll_slot: efd, tfd, toff
		for {
			order, _, errno := unix.RawSyscall6(unix.SYS_KCMP, uintptr(c.tid), uintptr(c.tid), kcmpEpollTFD, uintptr(c.fd), uintptr(unsafe.Pointer(&slot)), 0)
			if errno != 0 && errno != unix.ENOENT {
				all.forget(pid) // not an epoll set any more
			}
			if errno != 0 {
				break
			}
			if order == 0 {
				found = append(found, readRegistrations(c, epfd, old)...)
				break
			}
			slot[2]++ // another file that was registered under this number
		}
	}
	return found
}

// readRegistrations finds the socket in proc_pid_fdinfo(5) of an epoll set.
func readRegistrations(c *call, epfd, old int) []registration {
	var stat unix.Stat_t
	if unix.Fstat(old, &stat) != nil {
		return nil
	}
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(c.tid) + "/fdinfo/" + strconv.Itoa(epfd))
	var found []registration
	for line := range bytes.Lines(text) {
		if r, ino, ok := parseRegistration(line, c.fd); ok && (ino == 0 || ino == stat.Ino) {
			r.epfd = epfd
			found = append(found, r)
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

// register puts the socket, which the target now has under its number, into the sets that the one before
// it was in. old is a copy of that one.
func (w *worker) register(c *call, places []registration, old, socket int) {
	for i := range places {
		errno := w.registerOne(c, &places[i], old, socket)
		if errno != 0 && errno != unix.EEXIST {
			w.s.warn("connect: the socket is lost to an epoll set", "tid", c.tid, "fd", c.fd, "error", errno)
		}
	}
}

func (w *worker) registerOne(c *call, place *registration, old, socket int) unix.Errno {
	set, errno := w.s.targets.getfd(c.tid, place.epfd)
	if errno != 0 {
		return errno
	}
	defer closeFD(set)
	// A registration belongs to a file and a number: here too the socket must have the target's number, or
	// the program could not change or remove it.
	add := func() unix.Errno {
		return epollAdd(set, c.fd, &place.event)
	}
	switch c.fd {
	case socket:
		return add()
	case old: // not needed any more, but its number is; tidy closes it
		if _, _, errno := unix.RawSyscall(unix.SYS_DUP3, uintptr(socket), uintptr(c.fd), unix.O_CLOEXEC); errno != 0 {
			return errno
		}
		return add()
	}
	number, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(socket), unix.F_DUPFD_CLOEXEC, uintptr(c.fd))
	if errno == 0 {
		defer closeFD(int(number))
		if int(number) == c.fd {
			return add()
		}
	}
	return addElsewhere(set, socket, c.fd, &place.event)
}

func epollAdd(set, fd int, event *unix.EpollEvent) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(set), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(event)), 0, 0)
	return errno
}

// addElsewhere adds a socket under a number that upconv itself uses for something else: on a thread with a
// descriptor table of its own, which ends with it.
func addElsewhere(set, socket, number int, event *unix.EpollEvent) (errno unix.Errno) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		all := ^uint64(0)
		if _, _, errno = unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_FILES, 0, 0); errno != 0 {
			return
		}
		// The number may be one that the Go runtime uses, on this thread too: no signal may let it in
		// between, and what was there comes back.
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
		var before, theSet uintptr
		if before, _, errno = unix.RawSyscall(unix.SYS_FCNTL, uintptr(number), unix.F_DUPFD_CLOEXEC, uintptr(number)+1); errno != 0 {
			return
		}
		if theSet, _, errno = unix.RawSyscall(unix.SYS_FCNTL, uintptr(set), unix.F_DUPFD_CLOEXEC, uintptr(number)+1); errno != 0 {
			return
		}
		if _, _, errno = unix.RawSyscall(unix.SYS_DUP3, uintptr(socket), uintptr(number), unix.O_CLOEXEC); errno != 0 {
			return
		}
		errno = epollAdd(int(theSet), number, event)
		unix.RawSyscall(unix.SYS_DUP3, before, uintptr(number), unix.O_CLOEXEC)
	}()
	<-done
	return errno
}
