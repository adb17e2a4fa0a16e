package target

import (
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// pidfdThread is PIDFD_THREAD (linux/pidfd.h, Linux 6.9): the pidfd names a thread, which may have
// a descriptor table of its own, and not its process.
const pidfdThread = unix.O_EXCL

// Threads keeps a pidfd for threads that were seen lately: opening one costs more than all else
// that is asked about a target. It is a cache: any entry can be dropped at any time.
//
// An entry whose thread has died answers ESRCH, also when its tid has been given to a new thread,
// so a stale one is noticed at its next use; an epoll set notices the others, so that no descriptor
// outlives its thread for long.
type Threads struct {
	slots  [256]targetSlot // by the low bits of the tid
	ended  func(tid int)   // told of threads that have ended
	exits  *linux.PollSet  // of all pidfds
	thread int             // pidfdThread or, before Linux 6.9, 0
}

type targetSlot struct {
	mu    sync.Mutex // held while pidfd is in use: closing it meanwhile could let another file take its number
	tid   int
	pidfd int // valid where tid != 0
	pid   int // the process; 0: nobody has asked
	// byProcess is whether pidfd names the thread's process, whose descriptors may be others.
	byProcess bool
	// info is the thread's fdinfo file of descriptor infoFD, open where infoFD >= 0. Reading it
	// again costs a fifth of opening it, and it tells of whatever has that number now.
	info, infoFD int
	dir, dirTID  int // the directory of the thread dirTID in /proc, which is not always tid; 0: none. See inNamespace
}

// NewThreads makes an empty cache. thread says whether this kernel has PIDFD_THREAD, and ended, if
// it is not nil, is told of each thread of the cache that ends.
func NewThreads(thread bool, ended func(tid int)) (*Threads, error) {
	exits, err := linux.NewPollSet()
	if err != nil {
		return nil, err
	}
	t := &Threads{exits: exits, ended: ended}
	for i := range t.slots {
		t.slots[i].infoFD = -1
	}
	if thread {
		t.thread = pidfdThread
	}
	go t.reap()
	return t, nil
}

// reap drops the entries of threads that have ended, until close.
func (t *Threads) reap() {
	var events [16]unix.EpollEvent
	for {
		n, err := t.exits.Wait(events[:])
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			slot := t.slot(int(e.Pad))
			slot.mu.Lock()
			if slot.tid == int(e.Pad) && slot.pidfd == int(e.Fd) {
				slot.drop()
			}
			slot.mu.Unlock()
			if t.ended != nil {
				t.ended(int(e.Pad))
			}
		}
	}
}

// Close drops every entry. No other method may be called afterwards.
func (t *Threads) Close() {
	t.exits.Close()
	t.dropAll()
}

// dropAll empties the cache.
func (t *Threads) dropAll() {
	for i := range t.slots {
		slot := &t.slots[i]
		slot.mu.Lock()
		slot.drop()
		slot.mu.Unlock()
	}
}

func (t *Threads) slot(tid int) *targetSlot { return &t.slots[uint(tid)%uint(len(t.slots))] }

func (s *targetSlot) drop() {
	if s.tid != 0 {
		unix.Close(s.pidfd) // leaves the epoll set too: no other descriptor refers to it
		s.tid = 0
	}
	s.dropInfo()
	s.dropDir()
}

// Getfd returns a copy of the target's descriptor fd, owned by the caller and close-on-exec, as
// pidfd_getfd(2) makes it. The errno is EBADF where the target has no such descriptor, ESRCH where
// the thread is gone, EPERM where upconv may not look into it (PTRACE_MODE_ATTACH_REALCREDS),
// ErrOwnTable, EMFILE where upconv's own descriptors have run out although the cache has been
// emptied.
func (t *Threads) Getfd(tid, fd int) (int, unix.Errno) {
	got, errno := t.tryGetfd(tid, fd)
	if t.MakeRoom(errno) {
		got, errno = t.tryGetfd(tid, fd)
	}
	return got, errno
}

// MakeRoom empties the cache if an errno says that descriptors have run out. It reports whether
// another try makes sense.
func (t *Threads) MakeRoom(errno unix.Errno) bool {
	if errno != unix.EMFILE && errno != unix.ENFILE {
		return false
	}
	t.dropAll()
	return true
}

func (t *Threads) tryGetfd(tid, fd int) (int, unix.Errno) {
	slot := t.slot(tid)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.tid == tid {
		got, errno := slot.getfd(fd)
		if errno != unix.ESRCH {
			return got, errno
		}
	}
	if errno := t.fill(slot, tid); errno != 0 {
		return -1, errno
	}
	return slot.getfd(fd)
}

// getfd returns a copy of a descriptor of the slot's thread. Errors are as for those of Threads.
func (s *targetSlot) getfd(fd int) (int, unix.Errno) {
	if s.byProcess && s.hasOther(fd) {
		return -1, ErrOwnTable
	}
	got, _, errno := unix.Syscall(unix.SYS_PIDFD_GETFD, uintptr(s.pidfd), uintptr(fd), 0)
	return int(got), errno
}

// fill opens a thread's pidfd for a slot, which the caller has locked. What that has is another
// thread's, or a dead one's whose tid has come round again.
func (t *Threads) fill(slot *targetSlot, tid int) unix.Errno {
	slot.drop()
	pidfd, pid, errno := t.Open(tid)
	if errno != 0 {
		return errno
	}
	slot.tid, slot.pidfd, slot.pid, slot.byProcess = tid, pidfd, pid, pid != 0
	// Pad is the upper half of the kernel's 64-bit epoll_data. Should ADD fail, only tidiness is
	// lost.
	unix.EpollCtl(t.exits.FD, unix.EPOLL_CTL_ADD, pidfd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(pidfd), Pad: int32(tid)})
	return 0
}

// Process returns the pid of a thread that Getfd was called for just now.
func (t *Threads) Process(tid int) int {
	slot := t.slot(tid)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.tid != tid {
		return ThreadGroup(tid)
	}
	if slot.pid == 0 {
		slot.pid = ThreadGroup(tid)
	}
	return slot.pid
}

// Open returns a pidfd of a thread, or of its process, whose pid is not 0 then.
func (t *Threads) Open(tid int) (pidfd, pid int, errno unix.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(tid), uintptr(t.thread), 0)
	if t.thread == 0 && (errno == unix.EINVAL || errno == unix.ENOENT) {
		// Not the first thread of its process, and this kernel names only those.
		pid = ThreadGroup(tid)
		fd, _, errno = unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(pid), 0, 0)
	}
	return int(fd), pid, errno
}

// InNamespace reports whether a thread is in the network namespace with an inode number, and whose
// the sockets are that it makes. scratch is for names.
//
// The directory in /proc is kept open, as pidfds are. It goes bad with the thread, also when
// another one gets its number.
func (t *Threads) InNamespace(tid int, inode uint64, scratch []byte) (uid, gid int, ok bool) {
	slot := t.slot(tid)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.dirTID == tid {
		if uid, gid, ok = isInNamespace(slot.dir, inode, scratch); ok {
			return uid, gid, true
		}
	}
	slot.dropDir()
	dir, errno := OpenDir(tid, scratch)
	if errno != 0 {
		return 0, 0, false
	}
	if slot.tid == tid { // so that there is a pidfd, which tells when to close it
		slot.dir, slot.dirTID = dir, tid
	} else {
		defer linux.Close(dir)
	}
	return isInNamespace(dir, inode, scratch)
}

func isInNamespace(dir int, inode uint64, scratch []byte) (uid, gid int, ok bool) {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(&nsNet[0])),
		uintptr(unsafe.Pointer(&scratch[0])), 64, 0, 0)
	if errno != 0 {
		return 0, 0, false
	}
	var expected [32]byte
	name := append(strconv.AppendUint(append(expected[:0], "net:["...), inode, 10), ']')
	var stat unix.Stat_t
	if string(scratch[:n]) != string(name) || unix.Fstat(dir, &stat) != nil {
		return 0, 0, false
	}
	return int(stat.Uid), int(stat.Gid), true
}

var nsNet = [...]byte{'n', 's', '/', 'n', 'e', 't', 0}

// OpenDir opens the directory of a thread in proc(5), which is the caller's then. scratch is for
// its name.
func OpenDir(tid int, scratch []byte) (int, unix.Errno) {
	path := append(strconv.AppendInt(append(scratch[:0], "/proc/"...), int64(tid), 10), 0)
	at := unix.AT_FDCWD
	dir, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, 0, 0)
	return int(dir), errno
}

// dropDir closes the directory of the slot's thread.
func (s *targetSlot) dropDir() {
	if s.dirTID != 0 {
		unix.Close(s.dir)
		s.dirTID = 0
	}
}
