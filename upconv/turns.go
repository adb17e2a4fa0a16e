package upconv

import "sync"

// turns bound how many goroutines that are not workers do anything at a time that one process can
// hold up: each has a thread then. The others of that process wait without one. Turns end with
// the process, as what it holds up does.
type turns struct {
	mu sync.Mutex
	by map[int]*turn // by process
}

type turn struct {
	taken   int
	waiting []chan struct{} // in order; each is closed when its turn has come
}

// maxTurns is how many turns a process has at a time.
const maxTurns = 2

// take waits for a turn of a process.
func (t *turns) take(pid int) {
	if next := t.tryTake(pid); next != nil {
		<-next
	}
}

// tryTake returns nil if a turn has been taken, and else what is closed when it has.
func (t *turns) tryTake(pid int) (next chan struct{}) {
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

// giveBack passes a turn on to the next one that waits.
func (t *turns) giveBack(pid int) {
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
