package guard

import (
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/stream"
)

// Worker is what a thread that decides about calls has for this package, and for those below.
type Worker struct {
	stream.Worker
	s       *Session
	Altered bool // its thread lives in the file system as a target does, and is not to be used for anything else
}

// Session is what a listener has for this package, and for those below.
type Session struct {
	stream.Session
	naming naming // whether it may say who has sent something
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}
