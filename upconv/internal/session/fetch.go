package session

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Fetch copies the target's descriptor. Tidy closes the copy, unless the caller does so before by
// CloseNow. If out is not undecided there is none, and out is what becomes of the call.
func (w *Worker) Fetch(c *Call, e *event.Pending) (fd int, out Outcome) {
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	switch errno {
	case 0:
		w.Done = append(w.Done, fd)
		return fd, Undecided
	case unix.EBADF:
		return -1, Answer(unix.EBADF) // the number may be another file's by the time the kernel looks
	case unix.EPERM, target.ErrOwnTable:
		w.Unserved(e, "its descriptors cannot be fetched", errno)
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return -1, w.Fail(e, "pidfd_getfd", errno)
	}
	return -1, CarryOn // ESRCH: nobody will read the answer
}

// Fail answers a call with the errno of something that upconv itself could not do, and says so in
// the log and in the event.
func (w *Worker) Fail(e *event.Pending, doing string, errno unix.Errno) Outcome {
	w.s.Warn(e.Call+": "+doing+" failed; the program sees the error", "dst", e.Dst, "tid", e.TID, "error", errno)
	e.Add("upconv failed: " + doing)
	w.s.Events.Record(e, errno)
	return Answer(errno)
}

// Unserved notes a target that upconv may not look into: its call goes on natively. what is what
// upconv could not do.
func (w *Worker) Unserved(e *event.Pending, what string, errno unix.Errno) {
	why, cure := target.WhyForbidden(e.TID)
	if errno == target.ErrOwnTable {
		why, cure = "it is a thread that has unshared them from its process", target.CureThread
	}
	e.Add("not served, the call stays native: " + what + ": " + why)
	w.s.Events.Record(e, errno)
	w.s.Warn("not served, its calls stay native: "+what+": "+why, "cure", cure, "tid", e.TID, "comm", target.Identify(e.TID).Comm, "error", errno)
}
