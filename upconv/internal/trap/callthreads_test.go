package trap

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestCallThreads has one process want all threads: half of them are left for others, of which each
// gets some. No call is lost, whatever ends its wait.
func TestCallThreads(t *testing.T) {
	var all CallThreads
	got := func(waiting []chan struct{}) (n int) {
		for _, ready := range waiting {
			select {
			case <-ready:
				n++
			default:
			}
		}
		return n
	}
	const greedy, second, third = 1, 2, 3
	ask := func(pid, n int) (waiting []chan struct{}) {
		for range n {
			if ready := all.ask(pid); ready != nil {
				waiting = append(waiting, ready)
			}
		}
		return waiting
	}
	mine := ask(greedy, 3*maxAside)
	if has := 3*maxAside - len(mine); has != maxAside/2 {
		t.Fatalf("one process has %d of %d threads", has, maxAside)
	}
	if has := maxAside - len(ask(second, maxAside)); has != maxAside/4 {
		t.Errorf("another one has %d, want %d", has, maxAside/4)
	}
	if waiting := ask(third, 1); len(waiting) != 0 {
		t.Error("a third one has none")
	}

	// A wait that a signal ends.
	stop := NewInterruption()
	stop.End(unix.EINTR)
	if errno := all.Take(greedy, stop); errno != unix.EINTR {
		t.Errorf("a wait that is ended says %v", errno)
	}
	// One that has got its thread in that moment.
	all.withdraw(greedy, mine[0])
	mine = mine[1:]

	for range maxAside / 2 {
		all.GiveBack(greedy)
	}
	for served := 0; served < len(mine); {
		n := got(mine)
		if n == served {
			t.Fatalf("%d calls wait though their process has no thread", len(mine)-n)
		}
		for range n - served {
			all.GiveBack(greedy)
		}
		served = n
	}
}
