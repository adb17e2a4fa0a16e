package stream

import (
	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Worker is a worker as far as streams go.
type Worker struct {
	datagram.Worker
	s *Session
}

// Session is a session as far as streams go.
type Session struct {
	datagram.Session
	ports      ports
	Restricted restrictions
}

func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}

// workerOf returns what this package has of a worker.
func WorkerOf(d session.Decider) *Worker {
	return d.(interface{ inStream() *Worker }).inStream()
}

func (w *Worker) inStream() *Worker { return w }
