package receive

import (
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/swap"
)

// Worker is what a thread that decides about calls has for this package, and for those below.
type Worker struct {
	swap.Worker
	s       *Session
	receive *receiveBuffers // nil: not needed yet
	reading reception
}

// Session is what a listener has for this package, and for those below.
type Session struct {
	swap.Session
	Receivers receivers // calls that wait for a datagram
}

// Init has a session belong to a node. rouse wakes who watches over Receivers.Current, if it
// sleeps.
func (s *Session) Init(n *session.Node, rouse func()) {
	s.Receivers.rouse = rouse
	s.Session.Init(n)
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}
