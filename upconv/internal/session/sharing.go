package session

import "github.com/upconv/upconv/upconv/internal/peek"

// What SharesTable finds.
const (
	TableOwn    = 1 + iota // the thread alone has its table of descriptors
	TableShared            // others have it too, or that cannot be seen
)

// Guards reports whether a call must not be left to the kernel: the policy has an egress, and
// another thread may put a socket of that under the number meanwhile.
func (w *Worker) Guards(c *Call) bool {
	return len(w.s.Rules.Load().Cookies) > 0 && w.SharesTable(c)
}

// SharesTable reports whether another thread may put another file under the number of a call: the
// two have one table of descriptors, or nothing shows that they do not. If it may not, it may not
// as long as the thread is stopped. The number itself can change if it is in memory, as with
// socketcall(2).
func (w *Worker) SharesTable(c *Call) bool {
	if c.Table == 0 {
		c.Table = TableShared
		if !c.Indirect && (c.View.Alone() || c.View == nil && w.ownsTable(c.TID)) {
			c.Table = TableOwn
		}
	}
	return c.Table == TableShared
}

// ownsTable reports whether a thread is seen to share its descriptors with nobody.
func (w *Worker) ownsTable(tid int) bool {
	all := w.s.Looks()
	var thread peek.Thread
	return all != nil && all.Peeker.LookAtThread(tid, &thread) == 0 && thread.OwnTable
}
