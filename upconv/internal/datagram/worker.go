package datagram

import (
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/receive"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
)

// Worker is what a thread that decides about calls has for this package, and for those below.
type Worker struct {
	receive.Worker
	s       *Session
	sending event.Pending // of a send; here, so that none is on the heap
	Out     outgoing      // what the send in work sends
	decided decided
	known   settledSockets
	moving  bool // it moves a socket now, and so holds a lock of Session.Moving

	SendDeadline time.Time          // until when the send in work may wait; zero: it has not waited yet
	Futile       int                // how often in a row that could not send though there was room
	Control      siit.ControlBuffer // of messages to send
}

// Session is what a listener has for this package, and for those below.
type Session struct {
	receive.Session
	returned session.MadeSockets          // datagram sockets of the origin that have taken the place of connected ones
	sends    [256]atomic.Pointer[sendKey] // see recordSend
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}

// mayWait reports whether the worker has but one call to decide, and is not in the middle of a
// move: others may want the lock, and what comes for the old socket would not be handed on.
func (w *Worker) mayWait() bool { return w.MayWait() && !w.moving }
