package supervisor

import "github.com/upconv/upconv/upconv/internal/peek"

// What sharesTable has found.
const (
	tableOwn = 1 + iota
	tableShared
)

// guards reports whether a call must not be left to the kernel: the policy has an egress, and
// another thread may put a socket of that under the number meanwhile.
func (w *sessionWorker) guards(c *call) bool {
	return len(w.s.rules.Load().cookies) > 0 && w.sharesTable(c)
}

// sharesTable reports whether another thread may put another file under the number of a call: they
// have one table of descriptors, or it cannot be seen that they do not. If not, nobody does as long
// as the thread is stopped. The number itself can change where that is in memory, of socketcall(2).
func (w *sessionWorker) sharesTable(c *call) bool {
	if c.table == 0 {
		c.table = tableShared
		if !c.indirect && (c.view.alone() || c.view == nil && w.ownsTable(c.tid)) {
			c.table = tableOwn
		}
	}
	return c.table == tableShared
}

// ownsTable reports whether a thread is seen to share its descriptors with nobody.
func (w *sessionWorker) ownsTable(tid int) bool {
	all := w.s.looks()
	var thread peek.Thread
	return all != nil && all.peeker.LookAtThread(tid, &thread) == 0 && thread.OwnTable
}
