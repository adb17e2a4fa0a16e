package supervisor

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/trap"
)

// waiter answers a call later, on a goroutine of its own.
type waiter interface{ Run() }

// asideCall is a call that has a thread to itself, because deciding about it may take long.
type asideCall struct {
	held trap.HeldCall
	stop *trap.Interruption // what ends its waits
}

// awaitThread takes one of the threads that calls of a process may have. Where something ends the
// wait of the target's call, it returns what the call says.
func (s *sessionSession) awaitThread(c *call, pid int) unix.Errno {
	stop := trap.NewInterruption()
	held := trap.HeldCall{Listener: s.listener, ID: c.id, TID: c.tid, End: stop.End}
	s.held.Add(&held)
	defer s.held.Remove(&held)
	return s.threads.Take(pid, stop)
}
