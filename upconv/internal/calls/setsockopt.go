package calls

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/session"
)

// setsockopt handles a stopped setsockopt(2): one of the options that are not read at every swap.
// It is noted and goes on.
func (w *Worker) setsockopt(c *session.Call) session.Outcome {
	level, name := int(int32(c.Args[1])), int(int32(c.Args[2]))
	w.noteOption(level, name)
	if w.s.Needs.AtSocket() && namesInterface(level, name) {
		return w.toOrigin(c)
	}
	return w.SetCrossed(c)
}

// noteOption notes that somebody sets an option.
func (w *Worker) noteOption(level, name int) {
	if !w.s.Used.NoteSetting(level, name) && (level == unix.IPPROTO_TCP || level == unix.SOL_SOCKET) {
		// Most options of the other levels are for datagrams and multicast, and fail on TCP.
		w.s.Log.Debug("a socket option that is not carried over to a new socket", "level", level, "option", name)
	}
}

// setOwner handles a stopped fcntl(2) or ioctl(2) that says who gets a socket's signals.
func (w *Worker) setOwner(c *session.Call) session.Outcome {
	w.s.Used.Owner.Store(true)
	return session.CarryOn
}
