package supervisor

import "github.com/upconv/upconv/upconv/internal/netns"

// Worker is a worker as far as calls go that are made in the place of the kernel.
type guardWorker struct {
	streamWorker
	s       *guardSession
	altered bool // its thread lives in the file system as a target does
}

// Session is a session as far as calls go that are made in the place of the kernel.
type guardSession struct {
	streamSession
	naming naming // whether it may say who has sent something
}

func (w *guardWorker) Init(s *guardSession, home *netns.Egress) {
	w.s = s
	w.streamWorker.Init(&s.streamSession, home)
}
