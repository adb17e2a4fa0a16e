package supervisor

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/target"
)

// fetch copies the target's descriptor; tidy closes the copy. Where it cannot, out is not
// undecided.
func (w *sessionWorker) fetch(c *call, e *event.Pending) (fd int, out outcome) {
	fd, errno := w.s.targets.Getfd(c.tid, c.fd)
	switch errno {
	case 0:
		w.done = append(w.done, fd)
		return fd, undecided
	case unix.EBADF:
		return -1, answer(unix.EBADF) // the number may be another file's by the time the kernel looks
	case unix.EPERM, target.ErrOwnTable:
		w.unserved(e, "its descriptors cannot be fetched", errno)
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return -1, w.fail(e, "pidfd_getfd", errno)
	}
	return -1, carryOn // ESRCH: nobody will read the answer
}

// fail answers that upconv itself could not do something, and says so.
func (w *sessionWorker) fail(e *event.Pending, doing string, errno unix.Errno) outcome {
	w.s.warn(e.Call+": "+doing+" failed; the program sees the error", "dst", e.Dst, "tid", e.TID, "error", errno)
	e.Add("upconv failed: " + doing)
	w.s.events.Record(e, errno)
	return answer(errno)
}

// unserved notes a target that upconv may not look into: its call goes on natively. what is what
// upconv could not do.
func (w *sessionWorker) unserved(e *event.Pending, what string, errno unix.Errno) {
	why, cure := target.WhyForbidden(e.TID)
	if errno == target.ErrOwnTable {
		why, cure = "it is a thread that has unshared them from its process", target.CureThread
	}
	e.Add("not served, the call stays native: " + what + ": " + why)
	w.s.events.Record(e, errno)
	w.s.warn("not served, its calls stay native: "+what+": "+why, "cure", cure, "tid", e.TID, "comm", target.Identify(e.TID).Comm, "error", errno)
}

// underWay turns the errnos that say "not finished, and nothing is wrong" into success, for events.
func underWay(errno unix.Errno) unix.Errno {
	if errno == unix.EINPROGRESS || errno == unix.EALREADY {
		return 0
	}
	return errno
}
