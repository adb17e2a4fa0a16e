package upconv

import (
	"slices"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// tableSharers returns the other processes that have the descriptor table of a call's thread
// (clone(2), CLONE_FILES without CLONE_THREAD). threads is how many its own process has, and
// replacement is a copy of the socket that has just been put under the call's descriptor.
func (w *worker) tableSharers(c *call, threads, replacement int) (pids []int) {
	var link string
	shares := func(pid int) bool {
		order, errno := compareTables(c.tid, pid)
		if !refusesKcmp(errno) {
			return errno == 0 && order == 0
		}
		if link == "" {
			link = socketLink(linux.InodeOf(replacement))
		}
		return isLink(pid, c.fd, link) // nobody else can have it yet, but for a child that was made since
	}
	if !w.sighted {
		return sharingRelatives(c.tid, shares)
	}
	if w.sight.Table <= threads {
		return nil
	}
	own := threadGroup(c.tid)
	return slices.DeleteFunc(numbersIn("/proc"), func(pid int) bool { return pid == own || !shares(pid) })
}
