package crossing

import (
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/nat64"
)

// Worker is what a thread that decides about calls has for this package, and for those below.
type Worker struct {
	session.Worker
	s          *Session
	Crossing   Crossing          // of the call in work
	found      passport.Passport // see PassportOf
	unixSpares unixSpares
	UsedUnix   bool // Tidy is to make new ones
}

// Session is what a listener has for this package, and for those below.
type Session struct {
	session.Session
	// Discovery is of the prefix for nat64:auto; nil where no route needs it.
	Discovery  *nat64.Discovery
	AnyCrossed atomic.Bool              // some socket has been replaced by one of another family
	Told       toldAddresses            // what programs have been told as their own addresses since
	nextPort   atomic.Uint32            // see anyPort
	back       atomic.Pointer[backward] // what Session.backward has returned last
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}

// Tidy does what need not be done while the target waits: it closes the sockets of the last swap
// and makes the next ones.
func (w *Worker) Tidy() {
	w.Worker.Tidy()
	if w.UsedUnix {
		w.refillUnix(&w.Crossing.Pass)
		w.UsedUnix = false
	}
}

// Close closes what the worker has.
func (w *Worker) Close() {
	w.Worker.Close()
	for _, fd := range w.unixSpares.fds {
		linux.Close(fd)
	}
}
