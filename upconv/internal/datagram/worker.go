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
	Out     outgoing
	decided decided
	known   settledSockets
	moving  bool // it moves one now, holds a lock of session.moving for that, and must not wait

	SendDeadline time.Time          // until when that may send
	Futile       int                // how often in a row it could not send though there was room
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
