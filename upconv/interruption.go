package upconv

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// interruption ends a wait of upconv's that takes a thread of its own.
type interruption struct {
	mu     sync.Mutex
	errno  unix.Errno    // what the call says; 0: nothing has ended it yet
	ended  chan struct{} // closed then
	thread int           // one that is in a system call, which ends with EINTR at a signal; 0: none
}

func newInterruption() *interruption { return &interruption{ended: make(chan struct{})} }

// end ends the wait, once.
func (i *interruption) end(errno unix.Errno) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.errno != 0 {
		return
	}
	i.errno = errno
	close(i.ended)
	if i.thread != 0 {
		unix.Tgkill(os.Getpid(), i.thread, unix.SIGURG) // for which the Go runtime has a handler that does nothing
	}
}

// happened returns what has ended the wait, or 0.
func (i *interruption) happened() unix.Errno {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.errno
}

// How long a system call waits at most before it is looked whether the wait has ended: the signal
// may come too early for it.
const (
	shortSlice = 5 * time.Millisecond
	longSlice  = 250 * time.Millisecond
)

// during makes a system call that waits for up to a slice, which the caller must double each time.
// It returns what has ended the wait, or 0. The goroutine must be locked to its thread.
func (i *interruption) during(do func()) unix.Errno {
	i.mu.Lock()
	i.thread = unix.Gettid()
	errno := i.errno
	i.mu.Unlock()
	if errno != 0 {
		return errno
	}
	do()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.thread = 0
	return i.errno
}

// restart returns what a call says that a signal certainly ends. See signal(7): with a timeout set,
// it is never begun anew.
func restart(timed bool) unix.Errno {
	if timed {
		return unix.EINTR
	}
	return seccompx.ERestartSys
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
