package supervisor

import (
	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Worker is a worker as far as streams go.
type streamWorker struct {
	datagram.Worker
	s *streamSession
}

// Session is a session as far as streams go.
type streamSession struct {
	datagram.Session
	ports      ports
	restricted restrictions
}

func (w *streamWorker) Init(s *streamSession, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}

// workerOf returns what this package has of a worker.
func streamWorkerOf(d session.Decider) *streamWorker {
	return d.(interface{ inStream() *streamWorker }).inStream()
}

func (w *streamWorker) inStream() *streamWorker { return w }
