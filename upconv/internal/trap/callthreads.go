package trap

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// CallThreads are the threads that calls may have to themselves. A process may have as many as are
// left: so the first one has half of them at most, and there are always some for another one.
// Further calls of a process wait until it has a thread again; it may hold up its own for as long
// as it lives.
type CallThreads struct {
	mu      sync.Mutex
	used    int
	by      map[int]*threadUser
	waiting []*threadUser // those that have calls which wait, in turn
}

// threadUser is a process.
type threadUser struct {
	used  int
	calls []chan struct{} // those that wait, in order; each is closed when it has a thread
}

// maxAside is how many threads there are for calls. The Go runtime does not survive 10,000 of them.
const maxAside = 512

// Take waits for a thread for a call of a process. Where something ends the wait before, it returns
// what the call says.
func (t *CallThreads) Take(pid int, stop *Interruption) unix.Errno {
	ready := t.ask(pid)
	if ready == nil {
		return 0
	}
	errno := stop.Await(ready)
	if errno != 0 {
		t.withdraw(pid, ready)
	}
	return errno
}

// ask takes a thread, and returns nil; or what is closed when there is one.
func (t *CallThreads) ask(pid int) (ready chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.by[pid]
	if p == nil {
		if t.by == nil {
			t.by = map[int]*threadUser{}
		}
		p = &threadUser{}
		t.by[pid] = p
	}
	if t.mayHave(p) {
		t.used++
		p.used++
		return nil
	}
	ready = make(chan struct{})
	if p.calls = append(p.calls, ready); len(p.calls) == 1 {
		t.waiting = append(t.waiting, p)
	}
	return ready
}

// mayHave reports whether a process may have another thread.
func (t *CallThreads) mayHave(p *threadUser) bool { return p.used < maxAside-t.used }

// withdraw is for a call that does not wait any more, or has got a thread meanwhile.
func (t *CallThreads) withdraw(pid int, ready chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.by[pid]
	i := slices.Index(p.calls, ready)
	if i < 0 {
		t.release(pid)
		return
	}
	if p.calls = slices.Delete(p.calls, i, i+1); len(p.calls) == 0 {
		t.waiting = slices.DeleteFunc(t.waiting, func(other *threadUser) bool { return other == p })
		t.forget(pid)
	}
}

// GiveBack is for a call that needs its thread no more.
func (t *CallThreads) GiveBack(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(pid)
}

// release gives threads to calls that wait, when one of a process has become free.
func (t *CallThreads) release(pid int) {
	t.used--
	t.by[pid].used--
	for passed := 0; passed < len(t.waiting); {
		p := t.waiting[0]
		t.waiting = t.waiting[1:]
		if passed++; t.mayHave(p) {
			t.used++
			p.used++
			close(p.calls[0])
			p.calls = p.calls[1:]
			passed = 0
		}
		if len(p.calls) > 0 {
			t.waiting = append(t.waiting, p)
		}
	}
	t.forget(pid)
}

// forget drops a process that has no calls.
func (t *CallThreads) forget(pid int) {
	if p := t.by[pid]; p.used == 0 && len(p.calls) == 0 {
		delete(t.by, pid)
	}
}
