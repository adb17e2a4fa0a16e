package supervisor

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/target"
)

// A call can hold its worker for as long as a program likes. Reading the program's memory waits for
// a page that a user-space pager or a dead file system never delivers, and a socket stays locked
// while a thread of the program waits for such a page. So a watch looks at the workers, and starts
// another one for a worker that one call holds too long. The held worker then belongs to the
// process that holds it: it serves nobody else, and ends when that process has nothing more for it.

// maxHeldBy is how many workers one process may hold at a time. Its further calls wait for those.
const maxHeldBy = 2

const (
	watchInterval = 10 * time.Millisecond // between looks; a call may hold a worker for one to two
	watchIdle     = 100                   // looks that saw no call before the watch sleeps
)

// relieved is what stands in worker.current when another worker has taken its place.
const relieved = 1

// watch looks for workers that are held.
type watch struct {
	workers  [mostWorkers]atomic.Pointer[worker] // by worker.index; nil: not started
	sleeping atomic.Bool
	wake     chan struct{}
}

// rouse wakes the watch, which sleeps while there are no calls.
func (v *watch) rouse() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// rouseIfAsleep wakes the watch if it sleeps, for who has just noted what it works on.
func (v *watch) rouseIfAsleep() {
	if v.sleeping.Load() {
		v.rouse()
	}
}

// watchWorkers relieves workers that a call holds, until nobody is left under the filter.
func (s *Session) watchWorkers() {
	v := &s.watch
	var seen [mostWorkers]uint64
	seenReceiver := uint64(0)
	idle := 0
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-v.wake:
			ticker.Reset(watchInterval)
			v.sleeping.Store(false)
		case <-s.gone:
			return
		}
		idle++
		for i := range v.workers {
			w, current := v.callOf(i)
			if current != 0 {
				idle = 0
				if current == seen[i] {
					s.relieve(w, current)
				}
			}
			seen[i] = current
		}
		current := s.Receivers.Current.Load()
		if current != 0 {
			idle = 0
			if current == seenReceiver {
				s.Receivers.Relieve(current)
			}
		}
		seenReceiver = current
		if idle > watchIdle {
			idle = 0
			v.sleeping.Store(true)
			if v.busy() || s.Receivers.Current.Load() != 0 { // with a call that was taken up before its worker could see that the watch sleeps
				v.sleeping.Store(false)
			} else {
				ticker.Stop()
			}
		}
	}
}

// callOf returns a worker and the call that it handles, 0 for none.
func (v *watch) callOf(index int) (w *worker, current uint64) {
	if w = v.workers[index].Load(); w != nil {
		current = w.current.Load()
	}
	return w, current
}

// busy reports whether any worker handles a call.
func (v *watch) busy() bool {
	for i := range v.workers {
		if _, current := v.callOf(i); current != 0 {
			return true
		}
	}
	return false
}

// relieve starts another worker in the place of w, if the call current still holds that.
func (s *Session) relieve(w *worker, current uint64) {
	pid := target.ThreadGroup(int(current >> 32))
	w.heldBy.Store(int64(pid))
	s.holdups.add(pid)
	if !w.current.CompareAndSwap(current, relieved) {
		s.holdups.remove(pid)
		return
	}
	s.busy.Add(-1)
	fresh := s.newWorker()
	fresh.index, fresh.extra = w.index, w.extra
	s.watch.workers[w.index].Store(fresh)
	s.node.employ(fresh, nil)
}

// holdups are the processes whose calls hold workers.
type holdups struct {
	any atomic.Int32 // how many there are
	mu  sync.Mutex
	by  map[int]*holdup // by process
}

// holdup is a process whose calls hold workers.
type holdup struct {
	workers int                     // how many it holds
	waiting []seccompx.Notification // its calls that wait for one of them
}

// add notes that a process holds one worker more.
func (h *holdups) add(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.by[pid]
	if p == nil {
		if h.by == nil {
			h.by = map[int]*holdup{}
		}
		p = &holdup{}
		h.by[pid] = p
		h.any.Add(1)
	}
	p.workers++
}

// remove notes that a process holds one worker less.
func (h *holdups) remove(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(pid)
}

// drop is remove; the caller holds mu.
func (h *holdups) drop(pid int) {
	p := h.by[pid]
	if p.workers--; p.workers == 0 {
		delete(h.by, pid)
		h.any.Add(-1)
	}
}

// queue has a call wait for the workers that its process holds, if those are as many as it may
// hold.
func (h *holdups) queue(n *seccompx.Notification) bool {
	pid := target.ThreadGroup(int(n.PID))
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.by[pid]
	if p == nil || p.workers < maxHeldBy {
		return false
	}
	p.waiting = append(p.waiting, *n)
	return true
}

// next returns a call that waits for a worker that its process holds. Where there is none, the
// process has lost the caller.
func (h *holdups) next(pid int) (n seccompx.Notification, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.by[pid]
	if len(p.waiting) == 0 {
		h.drop(pid)
		return n, false
	}
	n, p.waiting = p.waiting[0], p.waiting[1:]
	return n, true
}

// noteCall notes which call holds the worker now.
func (w *worker) noteCall(n *seccompx.Notification) (current uint64) {
	w.serial++
	current = uint64(n.PID)<<32 | uint64(w.serial&0x7fffffff)<<1 // never 0 for a thread that has a number, nor relieved
	w.current.Store(current)
	return current
}

// serveHeld answers the calls of the process that has held the worker, which another one has
// relieved, until there are no more.
func (w *worker) serveHeld() {
	pid := int(w.heldBy.Load())
	for {
		n, ok := w.s.holdups.next(pid)
		if !ok {
			return
		}
		w.notification = n
		w.conclude(&w.notification, w.Handle(&w.notification))
	}
}
