package upconv

import (
	"bytes"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// sampling is how often the target is looked at for signals that a native wait would end at.
const sampling = 5 * time.Millisecond

// interruption watches for what ends a call that upconv itself waits for.
type interruption struct {
	shared int // looks in a row that saw a signal which any thread of the process may take
}

// look returns 0, or the errno to answer: ERESTARTSYS, which has the kernel do whatever the signal's handler asks for, or
// EINTR. timed is whether the wait ends after a time that the program has set.
func (i *interruption) look(s *Supervisor, c *call, timed bool) unix.Errno {
	if s.listener.Valid(c.id) != nil {
		return unix.EINTR // the target is gone; nobody will read the answer
	}
	own, any := pendingSignals(c.tid)
	switch left := i.left(own, any); {
	case own:
		return restart(timed)
	case left:
		return unix.EINTR
	}
	return 0
}

// left notes what a look has seen, and reports whether a signal that any thread may take has been left for this one. The kernel may
// have chosen another thread for it, and ERESTARTSYS is only for one that has a signal: so it must have stayed for a while.
func (i *interruption) left(own, any bool) bool {
	if own || !any {
		i.shared = 0
		return false
	}
	i.shared++
	return i.shared >= 3
}

// restart returns what a call says that a signal certainly ends. See signal(7): with a timeout set, it is never begun anew.
func restart(timed bool) unix.Errno {
	if timed {
		return unix.EINTR
	}
	return seccompx.ERestartSys
}

// pendingSignals reports whether a signal is waiting for the thread: own, certainly for it; any, for
// it or for another thread of its process.
func pendingSignals(tid int) (own, any bool) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return false, false
	}
	return signalsIn(status)
}

// signalsIn is pendingSignals for a proc_pid_status(5) text.
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

// onlyTaker reports whether a pending signal of a process can be for no other thread than this one, whose proc_pid_status(5)
// is given: all others block it.
func onlyTaker(tid, pid int, status []byte) bool {
	pending := statusField(status, "ShdPnd:", 16) &^ statusField(status, "SigBlk:", 16)
	tasks := "/proc/" + strconv.Itoa(pid) + "/task/"
	names, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	for _, entry := range names {
		if entry.Name() == strconv.Itoa(tid) {
			continue
		}
		other, err := os.ReadFile(tasks + entry.Name() + "/status")
		if err != nil || bytes.Contains(other, []byte("\nState:\tZ")) || bytes.Contains(other, []byte("\nState:\tX")) {
			continue // it has ended
		}
		if pending &= statusField(other, "SigBlk:", 16); pending == 0 {
			return false
		}
	}
	return true
}

// openStatus opens a thread's proc_pid_status(5). It returns -1 where that cannot be. scratch is for the name.
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
