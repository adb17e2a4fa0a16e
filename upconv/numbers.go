package upconv

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What epoll and SIGIO remember of a descriptor is the number that it had in the process that asked, and that
// must be the target's. So the supervisor keeps the low numbers, which are those that most programs use, free for
// that: they are all /dev/null when it starts, and whatever it opens itself comes behind them.

// maxReserved is the end of the numbers that are kept free, at most.
const maxReserved = 256

// ownNumbers is how many numbers the supervisor must find for itself: some 25 to start a command, and a few in passing.
const ownNumbers = 32

// fewestNumbers is how many there must be for the supervisor to get as far as telling what is missing.
const fewestNumbers = 16

// reserveLimit returns the end of the numbers to keep free under a limit of RLIMIT_NOFILE. It is 0 where the ones behind
// it, but for those that are inherited, were too few for the supervisor itself.
func reserveLimit(limit uint64, inherited []int) (int, error) {
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

// unusedNumber returns the lowest number from start on that is not in taken. Standard descriptors are never unused.
func unusedNumber(start int, taken []int) int {
	for number := max(start, 3); ; number++ {
		if !slices.Contains(taken, number) {
			return number
		}
	}
}

// numbers are the descriptors of this process that may become something else for a moment.
type numbers struct {
	mu       sync.Mutex // held while one is
	reserved [maxReserved]bool
	null     int // another one of /dev/null
}

var free numbers

// adopt finds out which numbers below limit are kept free: those that this process was given at its start but for
// the ones in use, which are above standard error.
func (n *numbers) adopt(limit int, inUse []int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	n.null = fd
	end := min(limit, maxReserved)
	for fd := 3; fd < end; fd++ {
		n.reserved[fd] = fd != n.null
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
			n.reserved[fd] = false
		}
	}
}

// keep closes descriptors, and keeps their numbers free from here on.
func (n *numbers) keep(limit int, fds []int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, fd := range fds {
		if n.null > 0 && fd < min(limit, maxReserved) && unix.Dup3(n.null, fd, unix.O_CLOEXEC) == nil {
			n.reserved[fd] = true
		} else {
			unix.Close(fd)
		}
	}
}

// with calls do with a descriptor for the file fd that has a given number.
func (n *numbers) with(fd, number int, do func() unix.Errno) unix.Errno {
	if fd == number {
		return do()
	}
	if number < maxReserved && n.reserved[number] {
		n.mu.Lock()
		defer n.mu.Unlock()
		if _, _, errno := unix.RawSyscall(unix.SYS_DUP3, uintptr(fd), uintptr(number), unix.O_CLOEXEC); errno != 0 {
			return errno
		}
		errno := do()
		unix.RawSyscall(unix.SYS_DUP3, uintptr(n.null), uintptr(number), unix.O_CLOEXEC)
		return errno
	}
	got, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, uintptr(number))
	if errno == 0 {
		defer closeFD(int(got))
		if int(got) == number {
			return do()
		}
	}
	return withElsewhere(fd, number, do)
}

// can reports whether with is quick.
func (n *numbers) can(number int) bool { return number >= maxReserved || n.reserved[number] }

// withElsewhere is for a number that upconv itself uses for something else: on a thread with a
// descriptor table of its own, which ends with it.
func withElsewhere(fd, number int, do func() unix.Errno) (errno unix.Errno) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		all := ^uint64(0)
		if errno = unshareFiles(); errno != 0 {
			return
		}
		// The number may be one that the Go runtime uses, on this thread too: no signal may let it in
		// between, and what was there comes back.
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
		var before uintptr
		if before, _, errno = unix.RawSyscall(unix.SYS_FCNTL, uintptr(number), unix.F_DUPFD_CLOEXEC, uintptr(number)+1); errno != 0 {
			return
		}
		if _, _, errno = unix.RawSyscall(unix.SYS_DUP3, uintptr(fd), uintptr(number), unix.O_CLOEXEC); errno != 0 {
			return
		}
		errno = do()
		unix.RawSyscall(unix.SYS_DUP3, before, uintptr(number), unix.O_CLOEXEC)
	}()
	<-done
	return errno
}

// unshareFiles gives the calling thread a descriptor table of its own. Filters of containers refuse unshare(2), whatever it is for,
// without CAP_SYS_ADMIN; close_range(2), of no descriptor at all, does the same.
func unshareFiles() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_FILES, 0, 0)
	if errno == 0 {
		return 0
	}
	if _, _, other := unix.RawSyscall(unix.SYS_CLOSE_RANGE, lastFD, lastFD, closeRangeUnshare); other != 0 {
		return errno
	}
	return 0
}

const (
	lastFD            = 1<<32 - 1 // which nobody has
	closeRangeUnshare = 2         // CLOSE_RANGE_UNSHARE, linux/close_range.h (Linux 5.9)
)
