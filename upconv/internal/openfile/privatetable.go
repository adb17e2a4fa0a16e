package openfile

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/birth"
	"github.com/upconv/upconv/upconv/internal/linux"
)

// privateTables are threads with tables of descriptors of their own, in which every number can be
// had: for numbers that mean something else in the table that all other threads share. A thread is
// started when it is first needed.
type privateTables struct {
	mu   sync.Mutex
	idle []*privateTable
}

// privateTable is one of the threads. Its table has no copies of what upconv opens: these would
// keep sockets open that the program and upconv have closed.
type privateTable struct {
	jobs    chan *underNumber
	results chan unix.Errno
}

const (
	// maxIdleTables is how many threads are kept.
	maxIdleTables = 2
	// hugeNumber is where numbers begin for which a table, which never shrinks, is given up after
	// use.
	hugeNumber = 1 << 18
)

// do does d on one of the threads. needed are the descriptors, in order, that the Go runtime needs
// on every thread. The errno is EMFILE where this process may have no descriptor with such a
// number, EAGAIN where it may not have another thread.
func (p *privateTables) do(d underNumber, needed []int) unix.Errno {
	if errno := allowNumber(d.number); errno != 0 {
		return errno
	}
	t, errno := p.take(needed)
	if errno != 0 {
		return errno
	}
	t.jobs <- &d
	errno = <-t.results
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.number >= hugeNumber || len(p.idle) == maxIdleTables {
		close(t.jobs)
	} else {
		p.idle = append(p.idle, t)
	}
	return errno
}

// take returns a thread that nobody uses.
func (p *privateTables) take(needed []int) (t *privateTable, errno unix.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.idle) - 1; last >= 0 {
		t, p.idle = p.idle[last], p.idle[:last]
		return t, 0
	}
	if birth.TryTasks(1) < 1 {
		return nil, unix.EAGAIN // the Go runtime does not survive it
	}
	t = &privateTable{make(chan *underNumber), make(chan unix.Errno)}
	go t.live(needed, make(chan struct{}))
	return t, <-t.results
}

// live is the life of the thread, until jobs is closed. It closes begun when it has one. Its first
// result says whether it has got ready.
func (t *privateTable) live(needed []int, begun chan<- struct{}) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	close(begun)
	if unix.Gettid() == os.Getpid() { // the main thread, whose table stays that of the process
		begun := make(chan struct{})
		go t.live(needed, begun)
		<-begun
		runtime.UnlockOSThread()
		return
	}
	all := ^uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
	if errno := unshareFiles(); errno != 0 {
		t.results <- errno
		return
	}
	closeAllBut(needed)
	self, _, errno := unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid()), 0, 0)
	t.results <- errno
	if errno != 0 {
		return
	}
	for d := range t.jobs {
		t.results <- d.runPrivately(self)
	}
}

// closeAllBut closes all descriptors of the calling thread's table but the standard ones and
// others, which are in order.
func closeAllBut(others []int) {
	first := 3
	for _, fd := range append(others[:len(others):len(others)], LastFD) {
		if fd > first {
			if _, _, errno := unix.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(fd-1), 0); errno != 0 {
				closeOneByOne(others) // a filter forbids it
				return
			}
		}
		first = fd + 1
	}
}

func closeOneByOne(others []int) {
	entries, _ := os.ReadDir("/proc/thread-self/fd")
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= 3 && !slices.Contains(others, fd) {
			linux.Close(fd)
		}
	}
}

//go:linkname runtimeEnterSyscall runtime.entersyscall
func runtimeEnterSyscall()

//go:linkname runtimeExitSyscall runtime.exitsyscall
func runtimeExitSyscall()

// runPrivately does d in the private table. The descriptors that d names are the process's, of
// which self is a pidfd.
//
// For the Go scheduler it is one system call: the thread runs nothing else until it is over.
// (Nothing here may need the runtime: no stack that grows, no calls but raw system calls.) The
// number may be one that the runtime uses on this thread too.
//
//go:nosplit
//go:norace
func (d *underNumber) runPrivately(self uintptr) unix.Errno {
	runtimeEnterSyscall()
	errno := d.runRaw(self)
	runtimeExitSyscall()
	return errno
}

//go:nosplit
//go:norace
func (d *underNumber) runRaw(self uintptr) unix.Errno {
	const none = ^uintptr(0) // what a failed call returns, too
	number, set, before := uintptr(d.number), none, none
	file, _, errno := unix.RawSyscall(unix.SYS_PIDFD_GETFD, self, uintptr(d.file), 0)
	if errno == 0 && d.set >= 0 {
		set, _, errno = unix.RawSyscall(unix.SYS_PIDFD_GETFD, self, uintptr(d.set), 0)
	}
	vacant := errno == 0
	switch {
	case errno != 0 || file == number:
	case set == number: // the lowest that was free; the set goes elsewhere
		set, _, errno = unix.RawSyscall(unix.SYS_FCNTL, number, unix.F_DUPFD_CLOEXEC, 0)
	default:
		before, _, errno = unix.RawSyscall(unix.SYS_FCNTL, number, unix.F_DUPFD_CLOEXEC, 0)
		if vacant = errno == unix.EBADF; vacant {
			errno = 0
		}
	}
	if errno == 0 && file != number {
		_, _, errno = unix.RawSyscall(unix.SYS_DUP3, file, number, unix.O_CLOEXEC)
	}
	if errno == 0 && d.set < 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_FCNTL, number, unix.F_SETFL, uintptr(d.flags))
	}
	for i := 0; errno == 0 && i < len(d.ops) && d.ops[i] != 0; i++ {
		_, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_CTL, set, d.ops[i], number, uintptr(unsafe.Pointer(&d.event)), 0, 0)
	}
	// What had the number has it again.
	if before != none {
		unix.RawSyscall(unix.SYS_DUP3, before, number, unix.O_CLOEXEC)
		unix.RawSyscall(unix.SYS_CLOSE, before, 0, 0)
	} else if vacant {
		unix.RawSyscall(unix.SYS_CLOSE, number, 0, 0)
	}
	if file != none && (file != number || !vacant) {
		unix.RawSyscall(unix.SYS_CLOSE, file, 0, 0)
	}
	if set != none {
		unix.RawSyscall(unix.SYS_CLOSE, set, 0, 0)
	}
	return errno
}

// allowNumber sees to it that this process may have a descriptor with a number. A program with
// CAP_SYS_RESOURCE may have raised its own limit since it was started.
func allowNumber(number int) unix.Errno {
	var limit unix.Rlimit
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&limit)), 0, 0); errno != 0 {
		return errno
	}
	if uint64(number) < limit.Cur {
		return 0
	}
	limit.Cur = uint64(number) + 1
	limit.Max = max(limit.Max, limit.Cur)
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		return unix.EMFILE
	}
	return 0
}

// unshareFiles gives the calling thread a descriptor table of its own. Filters of containers refuse
// unshare(2), whatever it is for, without CAP_SYS_ADMIN; close_range(2), of no descriptor at all,
// does the same.
func unshareFiles() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_FILES, 0, 0)
	if errno == 0 {
		return 0
	}
	if _, _, other := unix.RawSyscall(unix.SYS_CLOSE_RANGE, LastFD, LastFD, CloseRangeUnshare); other != 0 {
		return errno
	}
	return 0
}

const (
	LastFD            = 1<<32 - 1 // which nobody has
	CloseRangeUnshare = 2         // CLOSE_RANGE_UNSHARE, linux/close_range.h (Linux 5.9)
)
