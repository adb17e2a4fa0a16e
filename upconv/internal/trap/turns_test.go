package trap

import (
	"sync/atomic"
	"testing"

	"github.com/upconv/upconv/upconv/internal/testkit"
)

// TestTurns has one process hold up all turns that it can have. Others have theirs, and nothing of
// it is lost.
func TestTurns(t *testing.T) {
	var all Turns
	const greedy, other, work = 1, 2, 100
	var begun, done atomic.Int32
	release := make(chan struct{})
	process := func(pid int) func() int { return func() int { return pid } }
	for range work {
		go func() {
			of := all.Take(process(greedy))
			begun.Add(1)
			<-release
			all.GiveBack(of)
			done.Add(1)
		}()
	}
	testkit.Until(t, "all its turns are taken", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		p := all.by[greedy]
		return p != nil && len(p.waiting) == work-maxSharedTurns-maxTurns
	})
	if n := begun.Load(); n != maxSharedTurns+maxTurns {
		t.Errorf("one process has %d turns", n)
	}
	for range 3 { // would wait for ever
		all.GiveBack(all.Take(process(other)))
	}
	close(release)
	testkit.Until(t, "all is done", func() bool { return done.Load() == work })
	if len(all.by) != 0 || all.shared.Load() != 0 {
		t.Errorf("%d processes and %d turns are left", len(all.by), all.shared.Load())
	}
}
