package trap

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// Interruption ends a wait of upconv's that takes a thread of its own.
type Interruption struct {
	mu     sync.Mutex
	errno  unix.Errno    // what the call says; 0: nothing has ended it yet
	ended  chan struct{} // closed then
	thread int           // one that is in a system call, which ends with EINTR at a signal; 0: none
}

// NewInterruption returns one that nothing has ended.
func NewInterruption() *Interruption { return &Interruption{ended: make(chan struct{})} }

// End ends the wait, once.
func (i *Interruption) End(errno unix.Errno) {
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

// Happened returns what has ended the wait, or 0.
func (i *Interruption) Happened() unix.Errno {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.errno
}

// How long a system call waits at most before it is looked whether the wait has ended: the signal
// may come too early for it.
const (
	ShortSlice = 5 * time.Millisecond
	LongSlice  = 250 * time.Millisecond
)

// During makes a system call that waits for up to a slice, which the caller must double each time.
// It returns what has ended the wait, or 0. The goroutine must be locked to its thread.
func (i *Interruption) During(do func()) unix.Errno {
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

// Restart returns what a call says that a signal certainly ends. See signal(7): with a timeout set,
// it is never begun anew.
func Restart(timed bool) unix.Errno {
	if timed {
		return unix.EINTR
	}
	return seccompx.ERestartSys
}

// Await waits until something can be received from ready, or until the wait is ended: then it
// returns what the call says.
func (i *Interruption) Await(ready <-chan struct{}) unix.Errno {
	select {
	case <-ready:
		return 0
	case <-i.ended:
		return i.errno
	}
}
