package supervisor

import (
	"runtime"
	"time"

	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// asideRun is a call that cannot be decided at once, and that no worker may be held up by. It has
// a thread to itself, which is a worker in everything but that it receives no notifications.
type asideRun struct {
	session.AsideCall
	s   *Session
	c   session.Call
	out session.Outcome // what it has come to: session.StateAside
}

// putAside takes a call from its worker, which has come to out, to be decided where that may wait.
func (s *Session) putAside(c *session.Call, out session.Outcome) *asideRun {
	own := *c
	own.View = nil // which is its worker's memory
	own.Since = time.Now()
	stop := trap.NewInterruption()
	a := &asideRun{s: s, c: own, out: out}
	a.Stop, a.Held = stop, trap.HeldCall{Listener: s.Listener, ID: c.ID, TID: c.TID, End: stop.End}
	return a
}

// run waits for a thread, decides the call there, and answers it.
func (a *asideRun) run() {
	s := a.s
	s.Held.Add(&a.Held)
	pid := s.Targets.Process(a.c.TID)
	if errno := s.Threads.Take(pid, a.Stop); errno != 0 {
		a.answer(session.Answer(errno))
		return
	}
	runtime.LockOSThread()
	w := s.newWorker()
	w.Aside = &a.AsideCall
	err := w.Enter()
	out := a.out
	if err != nil {
		s.Warn("the call goes on natively", "tid", a.c.TID, "error", err)
		out = session.CarryOn
	}
	for out.State == session.StateAside {
		w.CloseDone() // what comes next may wait for long, and a copy keeps what the program closes alive
		out = out.Handler(&a.c)(w, &a.c)
	}
	if out.Wait == nil {
		a.answer(out)
	}
	w.Close()
	if w.Home == nil && !w.Altered { // else the thread is in another place, and ends with this goroutine
		runtime.UnlockOSThread()
	}
	s.Threads.GiveBack(pid)
	if out.Wait != nil {
		s.Held.Remove(&a.Held)
		out.Wait.Run()
	}
}

// answer answers the call.
func (a *asideRun) answer(out session.Outcome) {
	a.s.Held.Remove(&a.Held)
	if err := a.s.Respond(a.c.ID, out); err != nil {
		a.s.Log.Debug("answer", "tid", a.c.TID, "error", err)
	}
}
