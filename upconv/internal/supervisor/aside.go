package supervisor

import (
	"runtime"
	"time"

	"github.com/upconv/upconv/upconv/internal/trap"
)

// asideRun is a call that cannot be decided at once, and that no worker may be held up by. It has
// a thread to itself, which is a worker in everything but that it receives no notifications.
type asideRun struct {
	asideCall
	s   *Session
	c   call
	out outcome // what it has come to: stateAside
}

// putAside takes a call from its worker, which has come to out, to be decided where that may wait.
func (s *Session) putAside(c *call, out outcome) *asideRun {
	own := *c
	own.view = nil // which is its worker's memory
	own.since = time.Now()
	stop := trap.NewInterruption()
	a := &asideRun{s: s, c: own, out: out}
	a.stop, a.held = stop, trap.HeldCall{Listener: s.listener, ID: c.id, TID: c.tid, End: stop.End}
	return a
}

func (a *asideRun) run() {
	s := a.s
	s.held.Add(&a.held)
	pid := s.targets.Process(a.c.tid)
	if errno := s.threads.Take(pid, a.stop); errno != 0 {
		a.answer(answer(errno))
		return
	}
	runtime.LockOSThread()
	w := s.newWorker()
	w.aside = &a.asideCall
	err := w.enter()
	out := a.out
	if err != nil {
		s.warn("the call goes on natively", "tid", a.c.tid, "error", err)
		out = carryOn
	}
	for out.state == stateAside {
		w.closeDone() // what comes next may wait for long, and a copy keeps what the program closes alive
		out = out.handler(&a.c)(w, &a.c)
	}
	if out.wait == nil {
		a.answer(out)
	}
	w.close()
	if w.home == nil && !w.altered { // else the thread is in another place, and ends with this goroutine
		runtime.UnlockOSThread()
	}
	s.threads.GiveBack(pid)
	if out.wait != nil {
		s.held.Remove(&a.held)
		out.wait.Run()
	}
}

func (a *asideRun) answer(out outcome) {
	a.s.held.Remove(&a.held)
	if err := a.s.respond(a.c.id, out); err != nil {
		a.s.log.Debug("answer", "tid", a.c.tid, "error", err)
	}
}
