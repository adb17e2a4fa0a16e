package swap

import (
	"slices"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// tableSharers returns the other processes that have the descriptor table of a call's thread
// (clone(2), CLONE_FILES without CLONE_THREAD). threads is how many its own process has, and
// replacement is a copy of the socket that has just been put under the call's descriptor.
func (w *Worker) tableSharers(c *session.Call, threads, replacement int) (pids []int) {
	var link string
	shares := func(pid int) bool {
		order, errno := target.CompareTables(c.TID, pid)
		if !target.RefusesKcmp(errno) {
			return errno == 0 && order == 0
		}
		if link == "" {
			link = target.SocketLink(linux.InodeOf(replacement))
		}
		return target.IsLink(pid, c.FD, link) // nobody else can have it yet, but for a child that was made since
	}
	if c.View == nil {
		return target.SharingRelatives(c.TID, shares)
	}
	if c.View.Table <= threads {
		return nil
	}
	own := target.ThreadGroup(c.TID)
	return slices.DeleteFunc(target.NumbersIn("/proc"), func(pid int) bool { return pid == own || !shares(pid) })
}
