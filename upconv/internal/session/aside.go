package session

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/trap"
)

// Waiter answers a call later, on a goroutine of its own.
type Waiter interface{ Run() }

// AsideCall is a call that has a thread to itself, because deciding about it may take long.
type AsideCall struct {
	Held trap.HeldCall      // the call, as one that upconv waits for
	Stop *trap.Interruption // what ends its waits
}

// AwaitThread takes one of the threads that calls of the process pid may have, and waits until
// there is one; the caller gives it back to s.Threads. If something ends the wait of the target's
// call, the errno is what the call says, and there is no thread.
func (s *Session) AwaitThread(c *Call, pid int) unix.Errno {
	stop := trap.NewInterruption()
	held := trap.HeldCall{Listener: s.Listener, ID: c.ID, TID: c.TID, End: stop.End}
	s.Held.Add(&held)
	defer s.Held.Remove(&held)
	return s.Threads.Take(pid, stop)
}
