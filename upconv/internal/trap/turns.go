package trap

import (
	"sync"
	"sync/atomic"
)

// Turns bound how many goroutines that are not workers do anything at a time that a program can
// hold up: each has a thread then. There are some turns for everybody, for which nobody need find
// out which process it is. When these are taken, each process has a few of its own, and what else
// is to be done for it waits. Turns end with the process, as what it holds up does.
type Turns struct {
	shared atomic.Int32 // how many of those for everybody are taken
	mu     sync.Mutex
	by     map[int]*turn // by process
}

type turn struct {
	taken   int
	waiting []chan struct{} // in order; each is closed when its turn has come
}

const (
	maxSharedTurns = 16 // for everybody
	maxTurns       = 2  // of each process
)

// sharedTurn is what take returns for one of those for everybody. No process has that number.
const sharedTurn = -1

// Take waits for a turn. process says whose it would be. What take returns is for giveBack.
func (t *Turns) Take(process func() int) (of int) {
	if t.shared.Add(1) <= maxSharedTurns {
		return sharedTurn
	}
	t.shared.Add(-1)
	pid := process()
	if next := t.tryTake(pid); next != nil {
		<-next
	}
	return pid
}

// tryTake returns nil if a turn has been taken, and else what is closed when it has.
func (t *Turns) tryTake(pid int) (next chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.by[pid]
	if p == nil {
		if t.by == nil {
			t.by = map[int]*turn{}
		}
		p = &turn{}
		t.by[pid] = p
	}
	if p.taken < maxTurns {
		p.taken++
		return nil
	}
	next = make(chan struct{})
	p.waiting = append(p.waiting, next)
	return next
}

// GiveBack passes a turn on to the next one that waits, if it was one of a process.
func (t *Turns) GiveBack(pid int) {
	if pid == sharedTurn {
		t.shared.Add(-1)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.by[pid]
	if len(p.waiting) > 0 {
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
	} else if p.taken--; p.taken == 0 {
		delete(t.by, pid)
	}
}
