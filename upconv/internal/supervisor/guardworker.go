package supervisor

import (
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/stream"
)

// Worker is a worker as far as calls go that are made in the place of the kernel.
type guardWorker struct {
	stream.Worker
	s       *guardSession
	altered bool // its thread lives in the file system as a target does
}

// Session is a session as far as calls go that are made in the place of the kernel.
type guardSession struct {
	stream.Session
	naming naming // whether it may say who has sent something
}

func (w *guardWorker) Init(s *guardSession, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}
