package session

import (
	"time"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/policy"
)

// NewEvent begins the event of a call.
func (w *Worker) NewEvent(c *Call, proto policy.Proto) event.Pending {
	return event.Pending{Began: w.Now(), Call: c.Name, TID: c.TID, FD: c.FD, Proto: proto}
}

// Now is the time a call was taken up, where anybody wants to know.
func (w *Worker) Now() time.Time {
	if w.s.Events == nil {
		return time.Time{}
	}
	return time.Now()
}
