package openfile

import (
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// What epoll and SIGIO remember of a descriptor is the number that it had in the process that
// asked, and that must be the target's. So the supervisor keeps the low numbers, which are those
// that most programs use, free for that: they are all /dev/null when it starts, and whatever it
// opens itself comes behind them.

// maxReserved is the end of the numbers that are kept free, at most.
const maxReserved = 256

// ownNumbers is how many numbers the supervisor must find for itself: some 25 to start a command,
// and a few in passing.
const ownNumbers = 32

// fewestNumbers is how many there must be for the supervisor to get as far as telling what is
// missing.
const fewestNumbers = 16

// ReserveLimit returns the end of the numbers to keep free under a limit of RLIMIT_NOFILE. It is 0
// where the ones behind it, but for those that are inherited, were too few for the supervisor
// itself.
func ReserveLimit(limit uint64, inherited []int) (int, error) {
	unused := func(start uint64) uint64 {
		left := limit - start
		for _, fd := range inherited {
			if uint64(fd) >= start && uint64(fd) < limit {
				left--
			}
		}
		return left
	}
	if limit < 3+fewestNumbers || unused(3) < fewestNumbers {
		return 0, fmt.Errorf("RLIMIT_NOFILE is %d, and upconv needs some %d descriptors of its own: %w", limit, ownNumbers, unix.EMFILE)
	}
	end := min(maxReserved, limit/4)
	if unused(end) < ownNumbers {
		return 0, nil
	}
	return int(end), nil
}

// UnusedNumber returns the lowest number from start on that is not in taken. Standard descriptors
// are never unused.
func UnusedNumber(start int, taken []int) int {
	for number := max(start, 3); ; number++ {
		if !slices.Contains(taken, number) {
			return number
		}
	}
}

// numbers are the descriptors of this process that may become something else for a moment.
type numbers struct {
	reserved [maxReserved]atomic.Uint32
	null     int   // another one of /dev/null
	atStart  []int // what this process had opened itself when it started, in order
	// privateFrom is where numbers begin that are never used in the table of descriptors that all
	// threads share. Growing that takes memory for good, and some milliseconds (synchronize_rcu in
	// expand_files, fs/file.c).
	privateFrom int
	private     privateTables
}

// What is in numbers.reserved.
const (
	notKept uint32 = iota // or not yet: the number may be of something
	keptFree
	keptBusy // it is something else now
)

// Free are those of this process.
var Free numbers

// Adopt finds out which numbers below limit are kept free: those that this process was given at its
// start but for the ones in use, which are above standard error.
func (n *numbers) Adopt(limit int, inUse []int) {
	n.privateFrom = 1 << 16
	n.atStart = openedAtStart(limit + len(inUse))
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	n.null = fd
	end := min(limit, maxReserved)
	for fd := 3; fd < end; fd++ {
		if fd != n.null {
			n.reserved[fd].Store(keptFree)
		}
	}
	const setCloseOnExec = 4 // CLOSE_RANGE_CLOEXEC, linux/close_range.h (Linux 5.11)
	if end > 3 && unix.CloseRange(3, uint(end-1), setCloseOnExec) != nil {
		for fd := 3; fd < end; fd++ {
			unix.CloseOnExec(fd)
		}
	}
	for _, fd := range inUse {
		unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0) // execve(2) is to pass these on
		if fd < maxReserved {
			n.reserved[fd].Store(notKept)
		}
	}
}

// openedAtStart returns the descriptors that are closed on execve(2), in order. given is how many
// the process was given at most, besides the standard ones: it has opened few itself, each under
// the lowest number that was free.
func openedAtStart(given int) (fds []int) {
	const few = 32
	for fd := 3; fd < 3+given+few; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC != 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Keep closes descriptors, and keeps their numbers free from here on.
func (n *numbers) Keep(limit int, fds []int) {
	for _, fd := range fds {
		if n.null > 0 && fd < min(limit, maxReserved) && unix.Dup3(n.null, fd, unix.O_CLOEXEC) == nil {
			n.reserved[fd].Store(keptFree)
		} else {
			unix.Close(fd)
		}
	}
}

// Control does epoll_ctl(2) on a set to a file, as if that had the given number: one operation, or
// several until one fails. set and file are descriptors of this process, in which the number may
// mean something else.
func (n *numbers) Control(set, file, number int, event *unix.EpollEvent, ops ...uintptr) unix.Errno {
	d := underNumber{file: file, number: number, set: set, event: *event}
	copy(d.ops[:], ops)
	return n.do(&d)
}

// SetFlags does fcntl(2), F_SETFL, to a file as if it had the given number.
func (n *numbers) SetFlags(file, number, flags int) unix.Errno {
	return n.do(&underNumber{file: file, number: number, set: -1, flags: flags})
}

// underNumber is what is to be done to a file under a number.
type underNumber struct {
	file, number int
	set          int        // of epoll_ctl(2); -1: F_SETFL
	ops          [2]uintptr // EPOLL_CTL_ADD and so on
	event        unix.EpollEvent
	flags        int // of F_SETFL
}

// do does it under the number, wherever that can be had. The kernel may take its time: a set is
// locked while epoll_wait(2) writes into a program's memory. So nobody waits here for the number of
// somebody else.
func (n *numbers) do(d *underNumber) unix.Errno {
	if d.file == d.number {
		return d.run()
	}
	if d.number < maxReserved && n.reserved[d.number].CompareAndSwap(keptFree, keptBusy) {
		_, _, errno := unix.Syscall(unix.SYS_DUP3, uintptr(d.file), uintptr(d.number), unix.O_CLOEXEC)
		if errno == 0 {
			errno = d.run()
			unix.Syscall(unix.SYS_DUP3, uintptr(n.null), uintptr(d.number), unix.O_CLOEXEC) // see linux.Close
		}
		n.reserved[d.number].Store(keptFree)
		return errno
	}
	if d.number >= maxReserved && d.number < n.privateFrom {
		got, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(d.file), unix.F_DUPFD_CLOEXEC, uintptr(d.number))
		if errno == 0 {
			defer linux.Close(int(got))
			if int(got) == d.number {
				return d.run()
			}
		}
	}
	// It is the number of a descriptor of upconv's, which may be the set itself; or it is too high.
	return n.private.do(*d, n.atStart)
}

// run does it where the file has the number.
func (d *underNumber) run() (errno unix.Errno) {
	if d.set < 0 {
		_, _, errno = unix.Syscall(unix.SYS_FCNTL, uintptr(d.number), unix.F_SETFL, uintptr(d.flags))
		return errno
	}
	for _, op := range d.ops {
		if op != 0 && errno == 0 {
			_, _, errno = unix.Syscall6(unix.SYS_EPOLL_CTL, uintptr(d.set), op, uintptr(d.number), uintptr(unsafe.Pointer(&d.event)), 0, 0)
		}
	}
	return errno
}
