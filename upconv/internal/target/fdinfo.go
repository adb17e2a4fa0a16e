package target

import (
	"bytes"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// CloseOnExec reports whether the target's descriptor fd has FD_CLOEXEC: it belongs to the
// descriptor and not to the file, so a copy of the descriptor does not have it and only
// proc_pid_fdinfo(5) tells. ENOENT: there is no such descriptor. scratch is for the name and the
// text.
func (t *Threads) CloseOnExec(tid, fd int, scratch []byte) (bool, unix.Errno) {
	info, errno := t.fdinfo(tid, fd, scratch)
	return info.ClosesOnExec(), errno
}

// fdinfo is what proc_pid_fdinfo(5) tells of a descriptor: the flags of its file, with O_CLOEXEC if
// it is the descriptor's, and the inode number of the file (Linux 5.14).
type fdinfo struct {
	Flags int
	Ino   uint64
}

// ClosesOnExec reports whether execve(2) closes the descriptor.
func (i *fdinfo) ClosesOnExec() bool { return i.Flags&unix.O_CLOEXEC != 0 }

// fdinfo reads that of the target's descriptor fd. Errors and scratch are as for closeOnExec.
func (t *Threads) fdinfo(tid, fd int, scratch []byte) (fdinfo, unix.Errno) {
	return t.FdinfoBy(tid, fd, scratch, readText)
}

// FdinfoBy is fdinfo with its own way to read the start of a file into scratch.
func (t *Threads) FdinfoBy(tid, fd int, scratch []byte, read readFile) (fdinfo, unix.Errno) {
	info, errno := t.tryFdinfo(tid, fd, scratch, read)
	if t.MakeRoom(errno) {
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

func (t *Threads) tryFdinfo(tid, fd int, scratch []byte, read readFile) (info fdinfo, errno unix.Errno) {
	// The slot is not locked meanwhile: if the number is an epoll set's by now, the program decides
	// how long the kernel takes to tell of it.
	slot := t.slot(tid)
	file := slot.takeInfo(tid, fd)
	if file < 0 {
		if file, errno = OpenFdinfo(tid, fd, scratch); errno != 0 {
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

func (s *targetSlot) dropInfo() {
	if s.infoFD >= 0 {
		unix.Close(s.info)
		s.infoFD = -1
	}
}

// OpenFdinfo opens the proc_pid_fdinfo(5) of a descriptor, which is the caller's then. scratch is
// for its name.
func OpenFdinfo(tid, fd int, scratch []byte) (int, unix.Errno) {
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
	if info.Flags, ok = fdinfoFlags(text[:n]); !ok {
		return info, unix.EIO
	}
	if at := bytes.Index(text[:n], []byte("\nino:")); at >= 0 {
		info.Ino, _, _ = ParseNumber(text[at+len("\nino:"):n], 10)
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

// ParseNumber reads a number behind spaces. It is false where there is none.
func ParseNumber(text []byte, base uint64) (n uint64, rest []byte, ok bool) {
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
