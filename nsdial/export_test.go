//go:build linux

package nsdial

// TIDs are the package's own threads in the namespace.
func (n *Namespace) TIDs() []int {
	var tids []int
	for tid, how := range *n.here.Load() {
		if how == resident {
			tids = append(tids, tid)
		}
	}
	return tids
}

// RunThread is what a goroutine of startThread runs, on the calling one.
func (n *Namespace) RunThread(work func()) error {
	n.threads.Add(1)
	started := make(chan error, 1)
	n.thread(started, work)
	return <-started
}

// HandOver is Socket without the short cut of a thread that lives there.
func (n *Namespace) HandOver(family, typ, proto int) (int, error) {
	return n.handOver(family, typ, proto)
}

// ForgetCookies makes the kernel look older than 5.14.
func (n *Namespace) ForgetCookies() {
	n.cookie.Store(0)
	n.noCookie.Store(true)
}

const (
	MaxMakers = maxMakers
	MaxIdle   = maxIdle
)
