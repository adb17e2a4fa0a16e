package guard

import (
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/stream"
)

// Worker is a worker as far as calls go that are made in the place of the kernel.
type Worker struct {
	stream.Worker
	s       *Session
	Altered bool // its thread lives in the file system as a target does
}

// Session is a session as far as calls go that are made in the place of the kernel.
type Session struct {
	stream.Session
	naming naming // whether it may say who has sent something
}

func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}
