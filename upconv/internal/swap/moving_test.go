package swap

import (
	"sync"
	"testing"
)

// TestMovingSockets has many goroutines move few sockets: one at a time moves each, also where
// others move another one for ever. No lock is left afterwards, and none is made for each move.
func TestMovingSockets(t *testing.T) {
	var m movingSockets
	const apart, sockets, rounds = 16, 4, 1000 // inode numbers with the same low bits
	forever := m.Lock(apart * sockets)
	var all sync.WaitGroup
	var movers [sockets]int
	for i := range 4 * sockets {
		all.Go(func() {
			for range rounds {
				l := m.Lock(uint64(apart * (i % sockets)))
				movers[i%sockets]++
				m.Unlock(l)
			}
		})
	}
	all.Wait()
	for i, n := range movers {
		if n != 4*rounds {
			t.Errorf("socket %d was moved %d times at a time of its own, want %d", i, n, 4*rounds)
		}
	}
	m.Unlock(forever)
	if len(m.locks) != 0 || len(m.spare) > 4*sockets+1 {
		t.Errorf("%d locks are held and %d are kept", len(m.locks), len(m.spare))
	}
	if n := testing.AllocsPerRun(100, func() { m.Unlock(m.Lock(1 << 40)) }); n != 0 {
		t.Errorf("a move allocates %v times", n)
	}
}
