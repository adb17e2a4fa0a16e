package supervisor

import (
	"time"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/policy"
)

// newEvent begins the event of a call.
func (w *sessionWorker) newEvent(c *call, proto policy.Proto) event.Pending {
	return event.Pending{Began: w.now(), Call: c.name, TID: c.tid, FD: c.fd, Proto: proto}
}

// now is the time a call was taken up, where anybody wants to know.
func (w *sessionWorker) now() time.Time {
	if w.s.events == nil {
		return time.Time{}
	}
	return time.Now()
}
