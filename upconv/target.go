package upconv

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// pidfdThread is PIDFD_THREAD (linux/pidfd.h, Linux 6.9): the pidfd names a thread, which may have
// a descriptor table of its own, and not its process.
const pidfdThread = unix.O_EXCL

// targets keeps a pidfd for threads that were seen lately: opening one costs more than all else
// that is asked about a target. It is a cache: any entry can be dropped at any time.
//
// An entry whose thread has died answers ESRCH, also when its tid has been given to a new thread,
// so a stale one is noticed at its next use; an epoll set notices the others, so that no descriptor
// outlives its thread for long.
type targets struct {
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

func newTargets(thread bool, ended func(tid int)) (*targets, error) {
	exits, err := linux.NewPollSet()
	if err != nil {
		return nil, err
	}
	t := &targets{exits: exits, ended: ended}
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
func (t *targets) reap() {
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

// close drops every entry. No other method may be called afterwards.
func (t *targets) close() {
	t.exits.Close()
	t.dropAll()
}

// dropAll empties the cache.
func (t *targets) dropAll() {
	for i := range t.slots {
		slot := &t.slots[i]
		slot.mu.Lock()
		slot.drop()
		slot.mu.Unlock()
	}
}

func (t *targets) slot(tid int) *targetSlot { return &t.slots[uint(tid)%uint(len(t.slots))] }

func (s *targetSlot) drop() {
	if s.tid != 0 {
		unix.Close(s.pidfd) // leaves the epoll set too: no other descriptor refers to it
		s.tid = 0
	}
	s.dropInfo()
	s.dropDir()
}

func (s *targetSlot) dropInfo() {
	if s.infoFD >= 0 {
		unix.Close(s.info)
		s.infoFD = -1
	}
}

// getfd returns a copy of the target's descriptor fd, owned by the caller and close-on-exec, as
// pidfd_getfd(2) makes it. The errno is EBADF where the target has no such descriptor, ESRCH where
// the thread is gone, EPERM where upconv may not look into it (PTRACE_MODE_ATTACH_REALCREDS),
// errOwnTable, EMFILE where upconv's own descriptors have run out although the cache has been
// emptied.
func (t *targets) getfd(tid, fd int) (int, unix.Errno) {
	got, errno := t.tryGetfd(tid, fd)
	if t.makeRoom(errno) {
		got, errno = t.tryGetfd(tid, fd)
	}
	return got, errno
}

// makeRoom empties the cache if an errno says that descriptors have run out. It reports whether
// another try makes sense.
func (t *targets) makeRoom(errno unix.Errno) bool {
	if errno != unix.EMFILE && errno != unix.ENFILE {
		return false
	}
	t.dropAll()
	return true
}

func (t *targets) tryGetfd(tid, fd int) (int, unix.Errno) {
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

// getfd returns a copy of a descriptor of the slot's thread. Errors are as for those of targets.
func (s *targetSlot) getfd(fd int) (int, unix.Errno) {
	if s.byProcess && s.hasOther(fd) {
		return -1, errOwnTable
	}
	got, _, errno := unix.Syscall(unix.SYS_PIDFD_GETFD, uintptr(s.pidfd), uintptr(fd), 0)
	return int(got), errno
}

// fill opens a thread's pidfd for a slot, which the caller has locked. What that has is another
// thread's, or a dead one's whose tid has come round again.
func (t *targets) fill(slot *targetSlot, tid int) unix.Errno {
	slot.drop()
	pidfd, pid, errno := t.open(tid)
	if errno != 0 {
		return errno
	}
	slot.tid, slot.pidfd, slot.pid, slot.byProcess = tid, pidfd, pid, pid != 0
	// Pad is the upper half of the kernel's 64-bit epoll_data. Should ADD fail, only tidiness is
	// lost.
	unix.EpollCtl(t.exits.FD, unix.EPOLL_CTL_ADD, pidfd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(pidfd), Pad: int32(tid)})
	return 0
}

// process returns the pid of a thread that getfd was called for just now.
func (t *targets) process(tid int) int {
	slot := t.slot(tid)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.tid != tid {
		return threadGroup(tid)
	}
	if slot.pid == 0 {
		slot.pid = threadGroup(tid)
	}
	return slot.pid
}

// open returns a pidfd of a thread, or of its process, whose pid is not 0 then.
func (t *targets) open(tid int) (pidfd, pid int, errno unix.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(tid), uintptr(t.thread), 0)
	if t.thread == 0 && (errno == unix.EINVAL || errno == unix.ENOENT) {
		// Not the first thread of its process, and this kernel names only those.
		pid = threadGroup(tid)
		fd, _, errno = unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(pid), 0, 0)
	}
	return int(fd), pid, errno
}

// errOwnTable says that a thread has unshared its descriptors from its process, and that those
// cannot be had.
const errOwnTable = unix.EOPNOTSUPP

// hasOther reports whether the thread has other descriptors than its process or, where kcmp(2) is
// refused, whether it has another file under a number.
func (s *targetSlot) hasOther(fd int) bool {
	order, errno := compareTables(s.pid, s.tid)
	if !refusesKcmp(errno) {
		return errno == 0 && order != 0
	}
	// One difference says little: other threads may put files there between two looks.
	for range differences {
		var ours, theirs [64]byte
		if string(readLink(s.tid, fd, ours[:])) == string(readLink(s.pid, fd, theirs[:])) {
			return false
		}
	}
	return true
}

const differences = 16

// threadGroup returns the tgid of a thread, from proc_pid_status(5); 0 where it is gone.
func threadGroup(tid int) int {
	var text [1024]byte // of which that is in the beginning
	file := openStatus(tid, text[:])
	if file < 0 {
		return 0
	}
	defer linux.Close(file)
	n, err := unix.Pread(file, text[:], 0)
	if err != nil {
		return 0
	}
	return statusField(text[:n], "Tgid:", 10)
}

// statusField returns the number behind key in a proc_pid_status(5) text, or 0.
func statusField(status []byte, key string, base int) int {
	_, rest, _ := bytes.Cut(status, []byte("\n"+key))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(line)), base, 64)
	return int(n)
}

// readMemory fills buf from the target's memory at addr. The errno is EFAULT where not all of it
// could be read, ESRCH where the thread is gone, EPERM where upconv may not look into it.
func readMemory(tid int, addr uint64, buf []byte) unix.Errno {
	local := unix.Iovec{Base: &buf[0]}
	local.SetLen(len(buf))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(buf)}
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(tid),
		uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if errno == 0 && int(n) != len(buf) {
		errno = unix.EFAULT
	}
	return errno
}

// writeMemory fills the target's memory at addr with data.
func writeMemory(tid int, addr uint64, data []byte) unix.Errno {
	local := unix.Iovec{Base: &data[0]}
	local.SetLen(len(data))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(data)}
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(tid),
		uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if errno == 0 && int(n) != len(data) {
		errno = unix.EFAULT
	}
	return errno
}

// closeOnExec reports whether the target's descriptor fd has FD_CLOEXEC: it belongs to the
// descriptor and not to the file, so a copy of the descriptor does not have it and only
// proc_pid_fdinfo(5) tells. ENOENT: there is no such descriptor. scratch is for the name and the
// text.
func (t *targets) closeOnExec(tid, fd int, scratch []byte) (bool, unix.Errno) {
	info, errno := t.fdinfo(tid, fd, scratch)
	return info.closesOnExec(), errno
}

// fdinfo is what proc_pid_fdinfo(5) tells of a descriptor: the flags of its file, with O_CLOEXEC if
// it is the descriptor's, and the inode number of the file (Linux 5.14).
type fdinfo struct {
	flags int
	ino   uint64
}

func (i *fdinfo) closesOnExec() bool { return i.flags&unix.O_CLOEXEC != 0 }

// fdinfo reads that of the target's descriptor fd. Errors and scratch are as for closeOnExec.
func (t *targets) fdinfo(tid, fd int, scratch []byte) (fdinfo, unix.Errno) {
	return t.fdinfoBy(tid, fd, scratch, readText)
}

// fdinfoBy is fdinfo with its own way to read the start of a file into scratch.
func (t *targets) fdinfoBy(tid, fd int, scratch []byte, read readFile) (fdinfo, unix.Errno) {
	info, errno := t.tryFdinfo(tid, fd, scratch, read)
	if t.makeRoom(errno) {
		info, errno = t.tryFdinfo(tid, fd, scratch, read)
	}
	return info, errno
}

// readFile reads the start of a file, and returns how long it is.
type readFile func(file int, to []byte) (n int, errno unix.Errno)

func readText(file int, to []byte) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(file), uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)), 0, 0, 0)
	return int(n), errno
}

func (t *targets) tryFdinfo(tid, fd int, scratch []byte, read readFile) (info fdinfo, errno unix.Errno) {
	// The slot is not locked meanwhile: if the number is an epoll set's by now, the program decides
	// how long the kernel takes to tell of it.
	slot := t.slot(tid)
	file := slot.takeInfo(tid, fd)
	if file < 0 {
		if file, errno = openFdinfo(tid, fd, scratch); errno != 0 {
			return info, errno
		}
	}
	info, errno = readOpenFdinfo(file, scratch, read)
	slot.keepInfo(tid, fd, file)
	return info, errno
}

// takeInfo returns the fdinfo file of a descriptor of a thread, which is the caller's then; -1 if
// the slot has none.
func (s *targetSlot) takeInfo(tid, fd int) (file int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tid != tid || s.infoFD != fd {
		return -1
	}
	s.infoFD = -1
	return s.info
}

// keepInfo takes ownership of an fdinfo file.
func (s *targetSlot) keepInfo(tid, fd, file int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tid != tid { // another thread's slot by now
		linux.Close(file)
		return
	}
	s.dropInfo()
	s.info, s.infoFD = file, fd
}

func openFdinfo(tid, fd int, scratch []byte) (int, unix.Errno) {
	path := append(scratch[:0], "/proc/"...)
	path = strconv.AppendInt(path, int64(tid), 10)
	path = append(path, "/fdinfo/"...)
	path = strconv.AppendInt(path, int64(fd), 10)
	path = append(path, 0)
	at := unix.AT_FDCWD
	file, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	return int(file), errno
}

func readOpenFdinfo(file int, scratch []byte, read readFile) (info fdinfo, errno unix.Errno) {
	text := scratch[:cap(scratch)]
	n, errno := read(file, text)
	if errno != 0 {
		return info, errno
	}
	var ok bool
	if info.flags, ok = fdinfoFlags(text[:n]); !ok {
		return info, unix.EIO
	}
	if at := bytes.Index(text[:n], []byte("\nino:")); at >= 0 {
		info.ino, _, _ = parseNumber(text[at+len("\nino:"):n], 10)
	}
	return info, 0
}

// fdinfoFlags returns the octal "flags:" of a proc_pid_fdinfo(5) text.
func fdinfoFlags(text []byte) (flags int, ok bool) {
	at := bytes.Index(text, []byte("flags:"))
	if at < 0 {
		return 0, false
	}
	for _, c := range bytes.TrimLeft(text[at+len("flags:"):], " \t") {
		if c < '0' || c > '7' {
			break
		}
		flags, ok = flags<<3|int(c-'0'), true
	}
	return flags, ok
}

// identity is what events say of a target.
type identity struct {
	pid    int    // the process; 0 where it is gone
	comm   string // proc_pid_comm(5)
	cgroup string // the cgroup v2 path, or where there is none the first v1 one
}

// identify reads who a thread is. It is slow: only for events.
func identify(tid int) identity {
	proc := "/proc/" + strconv.Itoa(tid)
	comm, _ := os.ReadFile(proc + "/comm")
	cgroups, _ := os.ReadFile(proc + "/cgroup")
	return identity{pid: threadGroup(tid), comm: string(bytes.TrimRight(comm, "\n")), cgroup: cgroupPath(cgroups)}
}

// cgroupPath picks the path out of a proc_pid_cgroup(5) text.
func cgroupPath(text []byte) string {
	first := ""
	for line := range bytes.Lines(text) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\n"), []byte(":"), 3)
		if len(fields) != 3 {
			continue
		}
		if string(fields[0]) == "0" {
			return string(fields[2])
		}
		if first == "" {
			first = string(fields[2])
		}
	}
	return first
}

// ownCgroup returns this process's cgroup v2 path, "" where there is no v2.
func ownCgroup() string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range bytes.Lines(text) {
		if path, ok := bytes.CutPrefix(bytes.TrimRight(line, "\n"), []byte("0::")); ok {
			return string(path)
		}
	}
	return ""
}
