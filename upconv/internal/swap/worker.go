package swap

import (
	"time"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Worker is what a thread that decides about calls has for this package, and for those below.
type Worker struct {
	crossing.Worker
	s         *Session
	lastLook  *lastLook // nil: not needed yet
	info      setInfo
	sets      []setCopy // those of the target's epoll sets that its socket is in, until CloseSets
	witnesses int       // an epoll set of its own, see witness; -1: none

	tagged time.Duration // when it was last looked whether there are many net_cls cgroups; 0: never
	tags   bool          // there are
}

// Session is what a listener has for this package, and for those below.
type Session struct {
	crossing.Session
	Epolls     epolls        // who has epoll sets
	Companions companion.Set // the other sockets of datagram sockets
	Moving     movingSockets // the datagram sockets that are moved now
	goingOn    goingOn
	AskedPorts PortSet // ports that a program has ever asked bind(2) for
}

// Init has a session belong to a node.
func (s *Session) Init(n *session.Node) { s.Session.Init(n, s.Epolls.blind) }

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s, w.witnesses = s, -1
	w.Worker.Init(&s.Session, home)
}

// Enter takes the thread to where workers live, and makes what it needs there.
func (w *Worker) Enter() error {
	if err := w.Worker.Enter(); err != nil {
		return err
	}
	w.newWitnesses()
	return nil
}

// Close closes what the worker has.
func (w *Worker) Close() {
	w.Worker.Close()
	w.info.close()
	if w.witnesses >= 0 {
		linux.Close(w.witnesses)
	}
}
