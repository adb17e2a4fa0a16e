package upconv

import (
	"bytes"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// tableSharers returns the other processes that have the descriptor table of a call's thread
// (clone(2), CLONE_FILES without CLONE_THREAD). threads is how many its own process has, and
// replacement is a copy of the socket that has just been put under the call's descriptor.
func (w *worker) tableSharers(c *call, threads, replacement int) (pids []int) {
	var link string
	shares := func(pid int) bool {
		order, errno := compareTables(c.tid, pid)
		if !refusesKcmp(errno) {
			return errno == 0 && order == 0
		}
		if link == "" {
			link = socketLink(linux.InodeOf(replacement))
		}
		return isLink(pid, c.fd, link) // nobody else can have it yet, but for a child that was made since
	}
	if !w.sighted {
		return sharingRelatives(c.tid, shares)
	}
	if w.sight.Table <= threads {
		return nil
	}
	own := threadGroup(c.tid)
	return slices.DeleteFunc(numbersIn("/proc"), func(pid int) bool { return pid == own || !shares(pid) })
}

// sharingRelatives looks for such processes among the parents and the children of those that it
// knows. To look at all processes takes long, and hardly any process shares its table.
func sharingRelatives(tid int, shares func(pid int) bool) (pids []int) {
	seen := []int{threadGroup(tid)}
	for next := 0; next < len(seen); next++ {
		relatives := childrenOf(seen[next])
		if status, err := os.ReadFile("/proc/" + strconv.Itoa(seen[next]) + "/status"); err == nil {
			relatives = append(relatives, statusField(status, "PPid:", 10))
		}
		for _, pid := range relatives {
			if !slices.Contains(seen, pid) && shares(pid) {
				seen = append(seen, pid)
			}
		}
	}
	return seen[1:]
}

// childrenOf returns the children of all threads of a process: proc_pid_task(5).
func childrenOf(pid int) (pids []int) {
	for _, tid := range threadsOf(pid) {
		text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/children")
		for _, field := range bytes.Fields(text) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

const kcmpFiles = 2 // KCMP_FILES of kcmp(2)

// compareTables compares the descriptor tables of two threads: 0 where they are the same. The
// kernel may wait for an execve(2) of theirs; so it is not a RawSyscall.
func compareTables(a, b int) (order int, errno unix.Errno) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpFiles, 0, 0, 0)
	return int(r), errno
}

// threadsOf returns the threads of a process, which is named by one of them.
func threadsOf(tid int) []int { return numbersIn("/proc/" + strconv.Itoa(tid) + "/task") }

// numbersIn returns the names in a directory that are numbers.
func numbersIn(path string) (numbers []int) {
	dir, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if number, err := strconv.Atoi(name); err == nil {
			numbers = append(numbers, number)
		}
	}
	return numbers
}
