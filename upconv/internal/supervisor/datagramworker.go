package supervisor

import (
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/receive"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
)

// Worker is a worker as far as datagrams go.
type datagramWorker struct {
	receive.Worker
	s       *datagramSession
	sending event.Pending // of a send; here, so that none is on the heap
	out     outgoing
	decided decided
	known   settledSockets
	moving  bool // it moves one now, holds a lock of session.moving for that, and must not wait

	sendDeadline time.Time          // until when that may send
	futile       int                // how often in a row it could not send though there was room
	control      siit.ControlBuffer // of messages to send
}

// Session is a session as far as datagrams go.
type datagramSession struct {
	receive.Session
	returned session.MadeSockets          // datagram sockets of the origin that have taken the place of connected ones
	sends    [256]atomic.Pointer[sendKey] // see recordSend
}

func (w *datagramWorker) Init(s *datagramSession, home *netns.Egress) {
	w.s = s
	w.Worker.Init(&s.Session, home)
}
