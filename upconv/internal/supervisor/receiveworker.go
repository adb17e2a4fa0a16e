package supervisor

import (
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/swap"
)

// Worker is a worker as far as receiving goes.
type receiveWorker struct {
	swap.Worker
	s       *receiveSession
	receive *receiveBuffers // nil: not needed yet
	reading reception
}

// Session is a session as far as receiving goes.
type receiveSession struct {
	swap.Session
	receivers receivers // calls that wait for a datagram
}

func (w *receiveWorker) Init(s *receiveSession, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}
