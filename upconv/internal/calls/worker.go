package calls

import (
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/guard"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Worker is a thread's part in deciding about calls, this package's and all those below.
type Worker struct {
	guard.Worker
	s          *guard.Session
	Call       session.Call     // in work
	reads      *sockstate.Reads // nil: not needed yet
	connecting event.Pending    // of a connect(2), or a send that connects; here, so that none is on the heap
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *guard.Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(s, home)
}

// workerOf returns what this package has of a worker.
func workerOf(d session.Decider) *Worker {
	return d.(interface{ inCalls() *Worker }).inCalls()
}

func (w *Worker) inCalls() *Worker { return w }

// connectAnew is connect for a call that is taken up again.
func connectAnew(d session.Decider, c *session.Call) session.Outcome {
	return workerOf(d).connect(c)
}

// bindAnew is bind for a call that is taken up again.
func bindAnew(d session.Decider, c *session.Call) session.Outcome { return workerOf(d).bind(c) }

// sendAnew is send for a call that is taken up again.
func sendAnew(d session.Decider, c *session.Call) session.Outcome { return workerOf(d).send(c) }
