package supervisor

import "golang.org/x/sys/unix"

// setsockopt handles a stopped setsockopt(2): one of the options that are not read at every swap.
// It is noted and goes on.
func (w *callsWorker) setsockopt(c *call) outcome {
	level, name := int(int32(c.args[1])), int(int32(c.args[2]))
	w.noteOption(level, name)
	if w.s.needs.atSocket() && namesInterface(level, name) {
		return w.toOrigin(c)
	}
	return w.setCrossed(c)
}

// noteOption notes that somebody sets an option.
func (w *callsWorker) noteOption(level, name int) {
	if !w.s.used.NoteSetting(level, name) && (level == unix.IPPROTO_TCP || level == unix.SOL_SOCKET) {
		// Most options of the other levels are for datagrams and multicast, and fail on TCP.
		w.s.log.Debug("a socket option that is not carried over to a new socket", "level", level, "option", name)
	}
}

// setOwner handles a stopped fcntl(2) or ioctl(2) that says who gets a socket's signals.
func (w *callsWorker) setOwner(c *call) outcome {
	w.s.used.Owner.Store(true)
	return carryOn
}
