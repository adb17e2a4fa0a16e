package supervisor

import (
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/guard"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Worker is what decides about calls.
type callsWorker struct {
	guard.Worker
	s          *guard.Session
	call       session.Call
	reads      *sockstate.Reads // nil: not needed yet
	connecting event.Pending    // of a connect(2), or a send that connects; here, so that none is on the heap
}

// Init has a worker belong to a session, and live in home.
func (w *callsWorker) Init(s *guard.Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(s, home)
}

// workerOf returns what this package has of a worker.
func callsWorkerOf(d session.Decider) *callsWorker {
	return d.(interface{ inCalls() *callsWorker }).inCalls()
}

func (w *callsWorker) inCalls() *callsWorker { return w }

func connectAnew(d session.Decider, c *session.Call) session.Outcome {
	return callsWorkerOf(d).connect(c)
}

func sendAnew(d session.Decider, c *session.Call) session.Outcome { return callsWorkerOf(d).send(c) }
