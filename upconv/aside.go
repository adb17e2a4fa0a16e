package upconv

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// waiter answers a call later, on a goroutine of its own.
type waiter interface{ run() }

// aside is a call that cannot be decided at once, and that no worker may be held up by. It has a thread to itself, which is a
// worker in everything but that it receives no notifications.
type aside struct {
	s  *Supervisor
	c  call
	do func(*worker, *call) outcome
}

// maxAside is how many calls may have a thread at a time. The Go runtime does not survive 10,000 of them.
const maxAside = 512

// aside takes a call from its worker. do may block.
func (s *Supervisor) aside(c *call, do func(*worker, *call) outcome) outcome {
	own := *c
	own.since = time.Now()
	return outcome{wait: &aside{s, own, do}}
}

func (a *aside) run() {
	s := a.s
	if errno := s.await(&a.c, s.threads); errno != 0 {
		a.answer(answer(errno))
		return
	}
	runtime.LockOSThread()
	w := s.newWorker()
	err := w.settleIn()
	var out outcome
	if err != nil {
		s.warn("the call goes on natively", "tid", a.c.tid, "error", err)
	} else {
		out = a.do(w, &a.c)
	}
	if out.wait == nil {
		a.answer(out)
	}
	w.end()
	if w.home == nil { // else it is in another namespace, and ends with this goroutine
		runtime.UnlockOSThread()
	}
	s.threads <- struct{}{}
	if out.wait != nil {
		out.wait.run()
	}
}

func (a *aside) answer(out outcome) {
	if err := a.s.respond(a.c.id, out); err != nil {
		a.s.log.Debug("answer", "tid", a.c.tid, "error", err)
	}
}

// await waits until something can be received from ready, or something ends the wait of the target's call: then it returns the
// errno to answer.
func (s *Supervisor) await(c *call, ready <-chan struct{}) unix.Errno {
	select {
	case <-ready:
		return 0
	default:
	}
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	var watch interruption
	for {
		select {
		case <-ready:
			return 0
		case <-tick.C:
			if errno := watch.look(s, c, false); errno != 0 {
				return errno
			}
		}
	}
}
