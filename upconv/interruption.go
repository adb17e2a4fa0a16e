package upconv

import (
	"os"
	"sync"
	"time"

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
