package target

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const kcmpFiles = 2 // KCMP_FILES of kcmp(2)

// CompareTables compares the descriptor tables of two threads: 0 where they are the same. The
// kernel may wait for an execve(2) of theirs; so it is not a RawSyscall.
func CompareTables(a, b int) (order int, errno unix.Errno) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpFiles, 0, 0, 0)
	return int(r), errno
}

// RefusesKcmp reports whether an errno of kcmp(2) says nothing about the descriptors that it was
// asked about.
func RefusesKcmp(errno unix.Errno) bool {
	switch errno {
	case 0, unix.ENOENT, unix.EBADF, unix.EINVAL, unix.ESRCH:
		return false
	}
	return true
}

// SharingRelatives looks for such processes among the parents and the children of those that it
// knows. To look at all processes takes long, and hardly any process shares its table.
func SharingRelatives(tid int, shares func(pid int) bool) (pids []int) {
	seen := []int{ThreadGroup(tid)}
	for next := 0; next < len(seen); next++ {
		relatives := childrenOf(seen[next])
		if status, err := os.ReadFile("/proc/" + strconv.Itoa(seen[next]) + "/status"); err == nil {
			relatives = append(relatives, StatusField(status, "PPid:", 10))
		}
		for _, pid := range relatives {
			if !slices.Contains(seen, pid) && shares(pid) {
				seen = append(seen, pid)
			}
		}
	}
	return seen[1:]
}

// ErrOwnTable says that a thread has unshared its descriptors from its process, and that those
// cannot be had.
const ErrOwnTable = unix.EOPNOTSUPP

const differences = 16

// hasOther reports whether the thread has other descriptors than its process or, where kcmp(2) is
// refused, whether it has another file under a number.
func (s *targetSlot) hasOther(fd int) bool {
	order, errno := CompareTables(s.pid, s.tid)
	if !RefusesKcmp(errno) {
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
