package datagram

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Events of sends: one for each new place that a socket sends to.

// sendKey is what one event stands for, however many datagrams follow. The socket is told by its
// cookie.
type sendKey struct {
	cookie uint64
	dst    netip.AddrPort
	errno  unix.Errno
	note   string
}

// recordSend records where a socket sends to, when that is new.
func (w *Worker) recordSend(e *event.Pending, errno unix.Errno) {
	if w.s.Events == nil || !e.Dst.IsValid() {
		return
	}
	fd := e.Local
	if fd == 0 {
		fd = e.From
	}
	key := sendKey{linux.CookieOf(fd), e.Dst, errno, e.Note}
	slot := &w.s.sends[(uint(key.cookie)*7+uint(e.Dst.Port())+uint(e.Dst.Addr().As16()[15]))%uint(len(w.s.sends))]
	if before := slot.Load(); before != nil {
		if key.note == "" {
			key.note = before.note // which has been told
		}
		if *before == key {
			return
		}
		key.note = e.Note
	}
	slot.Store(&key)
	w.s.Events.Record(e, errno)
}

// recordSent is recordSend for the first n messages, which have gone the same way as e.Dst,
// the first one's.
func (w *Worker) recordSent(e *event.Pending, n int) {
	w.recordSend(e, 0)
	if w.s.Events == nil || !e.Dst.IsValid() {
		return
	}
	for _, m := range w.Out.Messages[1:max(n, 1)] {
		if _, dst, ok := SendDestination(m.Name); ok && dst != e.Dst {
			e.Dst, e.Decision, e.Note = dst, w.DecideDatagram(dst), ""
			e.Recorded = false // it was that of another message
			w.recordSend(e, 0)
		}
	}
}

// sent records a send that has failed.
func (w *Worker) sent(e *event.Pending, errno unix.Errno) session.Outcome {
	w.recordSend(e, errno)
	return session.Answer(errno)
}
