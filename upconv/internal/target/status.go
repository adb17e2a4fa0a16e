package target

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// ThreadGroup returns the tgid of a thread, from proc_pid_status(5); 0 where it is gone.
func ThreadGroup(tid int) int {
	var text [1024]byte // of which that is in the beginning
	file := OpenStatus(tid, text[:])
	if file < 0 {
		return 0
	}
	defer linux.Close(file)
	n, err := unix.Pread(file, text[:], 0)
	if err != nil {
		return 0
	}
	return StatusField(text[:n], "Tgid:", 10)
}

// StatusField returns the number behind key in a proc_pid_status(5) text, or 0.
func StatusField(status []byte, key string, base int) int {
	_, rest, _ := bytes.Cut(status, []byte("\n"+key))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(line)), base, 64)
	return int(n)
}

// EffectiveOf returns the capabilities that a thread has in effect, whose proc_pid_status(5) is
// given, and whether it has them in upconv's own user namespace.
func EffectiveOf(tid int, status []byte) (all uint64, same bool) {
	own, errOwn := os.Readlink("/proc/self/ns/user")
	of, err := os.Readlink("/proc/" + strconv.Itoa(tid) + "/ns/user")
	return uint64(StatusField(status, "CapEff:", 16)), errOwn == nil && err == nil && own == of
}

// SignalsIn reads in a proc_pid_status(5) text whether a signal is waiting for the thread: own,
// certainly for it; any, for it or for another thread of its process.
func SignalsIn(status []byte) (own, any bool) {
	blocked := StatusField(status, "SigBlk:", 16)
	own = StatusField(status, "SigPnd:", 16)&^blocked != 0
	any = StatusField(status, "ShdPnd:", 16)&^blocked != 0
	if any && StatusField(status, "Threads:", 10) == 1 {
		own = true
	}
	return own, own || any
}

// fewThreads is how many are looked at to find out whom a signal is for.
const fewThreads = 64

// OnlyTaker reports whether a pending signal of a process can be for no other thread than this one:
// all others block it. status is proc_pid_status(5) of this one, nil if it has not been read.
func OnlyTaker(tid, pid int, status []byte) bool {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task/"
	if status == nil {
		status, _ = os.ReadFile(tasks + strconv.Itoa(tid) + "/status")
	}
	pending := StatusField(status, "ShdPnd:", 16) &^ StatusField(status, "SigBlk:", 16)
	if pending == 0 || StatusField(status, "Threads:", 10) > fewThreads {
		return false
	}
	for _, thread := range ThreadsOf(pid) {
		if thread == tid {
			continue
		}
		other, err := os.ReadFile(tasks + strconv.Itoa(thread) + "/status")
		if err != nil || SaysEnded(other) {
			continue
		}
		if pending &= StatusField(other, "SigBlk:", 16); pending == 0 {
			return false
		}
	}
	return true
}

// SaysEnded reports whether a thread has ended, whose proc_pid_status(5) is given.
func SaysEnded(status []byte) bool {
	return bytes.Contains(status, []byte("\nState:\tZ")) || bytes.Contains(status, []byte("\nState:\tX"))
}

// OpenStatus opens a thread's proc_pid_status(5). It returns -1 where that cannot be. scratch is
// for the name.
func OpenStatus(tid int, scratch []byte) int {
	path := append(scratch[:0], "/proc/"...)
	path = strconv.AppendInt(path, int64(tid), 10)
	path = append(path, "/status\x00"...)
	at := unix.AT_FDCWD
	file, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return -1
	}
	return int(file)
}

// ThreadsOf returns the threads of a process, which is named by one of them.
func ThreadsOf(tid int) []int { return NumbersIn("/proc/" + strconv.Itoa(tid) + "/task") }

// NumbersIn returns the names in a directory that are numbers.
func NumbersIn(path string) (numbers []int) {
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

// childrenOf returns the children of all threads of a process: proc_pid_task(5).
func childrenOf(pid int) (pids []int) {
	for _, tid := range ThreadsOf(pid) {
		text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/children")
		for _, field := range bytes.Fields(text) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
