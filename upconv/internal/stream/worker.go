package stream

import (
	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Worker is what a thread that decides about calls has for this package, and for those below.
type Worker struct {
	datagram.Worker
	s *Session
}

// Session is what a listener has for this package, and for those below.
type Session struct {
	datagram.Session
	ports      ports
	Restricted restrictions
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}

// workerOf returns what this package has of a worker.
func workerOf(d session.Decider) *Worker {
	return d.(interface{ inStream() *Worker }).inStream()
}

func (w *Worker) inStream() *Worker { return w }
