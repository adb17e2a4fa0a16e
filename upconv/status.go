package upconv

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

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

// signalsIn reads in a proc_pid_status(5) text whether a signal is waiting for the thread: own,
// certainly for it; any, for it or for another thread of its process.
func signalsIn(status []byte) (own, any bool) {
	blocked := statusField(status, "SigBlk:", 16)
	own = statusField(status, "SigPnd:", 16)&^blocked != 0
	any = statusField(status, "ShdPnd:", 16)&^blocked != 0
	if any && statusField(status, "Threads:", 10) == 1 {
		own = true
	}
	return own, own || any
}

// fewThreads is how many are looked at to find out whom a signal is for.
const fewThreads = 64

// onlyTaker reports whether a pending signal of a process can be for no other thread than this one:
// all others block it. status is proc_pid_status(5) of this one, nil if it has not been read.
func onlyTaker(tid, pid int, status []byte) bool {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task/"
	if status == nil {
		status, _ = os.ReadFile(tasks + strconv.Itoa(tid) + "/status")
	}
	pending := statusField(status, "ShdPnd:", 16) &^ statusField(status, "SigBlk:", 16)
	if pending == 0 || statusField(status, "Threads:", 10) > fewThreads {
		return false
	}
	for _, thread := range threadsOf(pid) {
		if thread == tid {
			continue
		}
		other, err := os.ReadFile(tasks + strconv.Itoa(thread) + "/status")
		if err != nil || saysEnded(other) {
			continue
		}
		if pending &= statusField(other, "SigBlk:", 16); pending == 0 {
			return false
		}
	}
	return true
}

// saysEnded reports whether a thread has ended, whose proc_pid_status(5) is given.
func saysEnded(status []byte) bool {
	return bytes.Contains(status, []byte("\nState:\tZ")) || bytes.Contains(status, []byte("\nState:\tX"))
}

// openStatus opens a thread's proc_pid_status(5). It returns -1 where that cannot be. scratch is
// for the name.
func openStatus(tid int, scratch []byte) int {
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
