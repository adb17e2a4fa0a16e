package supervisor

import (
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/nat64"
)

// Worker is a worker as far as sockets of other families go.
type crossingWorker struct {
	session.Worker
	s          *crossingSession
	crossing   crossing
	unixSpares unixSpares
	usedUnix   bool // a Unix socket was used
}

// Session is a session as far as sockets of other families go.
type crossingSession struct {
	session.Session
	// discovery is of the prefix for nat64:auto; nil where no route needs it.
	discovery  *nat64.Discovery
	anyCrossed atomic.Bool              // some socket has been replaced by one of another family
	told       toldAddresses            // what programs know as their own addresses since
	nextPort   atomic.Uint32            // see anyPort
	back       atomic.Pointer[backward] // see originalAddr
}

func (w *crossingWorker) init(s *crossingSession, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}

// Tidy does what need not be done while the target waits: it closes the sockets of the last swap
// and makes the next ones.
func (w *crossingWorker) tidy() {
	w.Worker.Tidy()
	if w.usedUnix {
		w.refillUnix(&w.crossing.pass)
		w.usedUnix = false
	}
}

func (w *crossingWorker) close() {
	w.Worker.Close()
	for _, fd := range w.unixSpares.fds {
		linux.Close(fd)
	}
}
