package supervisor

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/calls"
	"github.com/upconv/upconv/upconv/internal/session"
)

// crew is the workers of a session.
type crew struct {
	busy    atomic.Int32   // how many have a notification
	workers atomic.Int32   // how many there are
	awake   atomic.Int32   // how many do not sleep
	all     sync.WaitGroup // of them
	adding  atomic.Bool    // one more is about to be started
	wake    chan struct{}  // wakes one of them
	gone    chan struct{}  // closed when nobody is left under the filter
	watch   watch          // over them
	holdups holdups        // processes whose calls hold some
}

func newCrew() *crew {
	c := &crew{wake: make(chan struct{}), gone: make(chan struct{})}
	c.watch.wake = make(chan struct{}, 1)
	return c
}

// worker is one thread that answers notifications.
//
// The kernel wakes every thread that waits in RECV for every notification, and all but one of them
// for nothing: with a second one waiting, a connect takes half as long again. So only the first
// worker always waits. The extra ones sleep, are woken when notifications arrive faster than the
// first takes them, and go back to sleep when they find that they work alone.
type worker struct {
	calls.Worker
	s            *Session
	index        int
	extra        bool // not the first
	notification seccompx.Notification

	serial  uint32        // of the calls that it has handled
	current atomic.Uint64 // the call that it handles: the thread, and serial; 0: none; or the constant relieved
	heldBy  atomic.Int64  // of a relieved worker: the process

	yielded time.Duration // when the Go scheduler last heard of this thread
	lastTID uint32
	streak  int // notifications in a row that had been waiting, and came from other threads than the one before
	lonely  int // notifications in a row that no other worker overlapped with
}

// When to wake an extra worker, and when one goes back to sleep.
const (
	queued      = 3 * time.Microsecond // a Receive this short did not wait
	wakeStreak  = 2
	lonelyLimit = 64
)

// yieldAfter is how long a worker works without a word to the Go scheduler. After 10 ms that would
// think that it hangs, take its P from it again and again, and wake up every 20 us to do so: a busy
// worker's calls would take a tenth longer. A worker that has been atRest need not hurry: its next
// call may come at any moment.
const (
	yieldAfter = 8 * time.Millisecond
	atRest     = time.Millisecond
)

// run answers notifications until nobody is left under the filter, or another worker has relieved
// this one. ready, if not nil, is told whether it can. The thread must be locked.
func (w *worker) run(ready chan<- error) {
	defer w.Close()
	err := w.Enter()
	if ready != nil {
		ready <- err
	}
	if err != nil {
		w.s.Log.Error("worker", "error", err)
		w.s.all.Done()
		return
	}
	w.MayPin = unix.SchedGetaffinity(0, &w.CPUs) == nil && w.CPUs.Count() > 1
	w.OwnCPU = nth(&w.CPUs, w.index)
	for !w.extra || w.sleep() {
		if err = w.serve(); err == errRelieved {
			w.serveHeld()
			return
		} else if err != nil {
			if w.Lost == nil && !errors.Is(err, seccompx.ErrGone) {
				w.s.Log.Error("receive", "error", err)
			}
			break
		}
	}
	if !w.extra && w.Lost == nil {
		close(w.s.gone)
	}
	w.s.all.Done()
}

// errRelieved says that another worker has taken the place of one that a call had held.
var errRelieved = errors.New("relieved")

// employ has a thread run a worker: one that has nothing to do, or a new one. A thread that has
// been in another namespace is not one for a worker that stays where upconv was started.
func (n *Node) employ(w *worker, ready chan<- error) {
	j := job{w, ready}
	if w.Home != nil {
		select {
		case n.idle <- j:
			return
		default:
		}
	}
	go n.thread(j)
}

// job is what a thread is to run.
type job struct {
	w     *worker
	ready chan<- error
}

// idleThread is how long a thread waits for a job.
const idleThread = 10 * time.Second

// thread is the life of a thread of workers.
func (n *Node) thread(j job) {
	// Never unlocked: the thread lives in another namespace from here on, and ends with this
	// goroutine.
	runtime.LockOSThread()
	for {
		j.w.run(j.ready)
		if j.w.Lost != nil {
			return
		}
		select {
		case j = <-n.idle:
		case <-time.After(idleThread):
			return
		}
	}
}

// newWorker returns one that takes no notifications.
func (s *Session) newWorker() *worker {
	w := &worker{s: s}
	w.Init(&s.Session, s.home)
	return w
}

// sleep returns true when the worker is needed, and false when nobody is left under the filter.
func (w *worker) sleep() bool {
	w.KeepToOwnCPU(false)
	w.s.awake.Add(-1)
	defer w.s.awake.Add(1)
	select {
	case <-w.s.wake:
		w.lonely = 0
		return true
	case <-w.s.gone:
		return false
	}
}

// serve answers notifications until an error or, for an extra worker, until it is not needed.
func (w *worker) serve() error {
	s, n := w.s, &w.notification
	for {
		waiting := session.Clock()
		if waiting-w.yielded > yieldAfter {
			runtime.Gosched()
			w.yielded = waiting
		}
		if err := s.Listener.Receive(n); err != nil {
			return err
		}
		if w.Taken = session.Clock(); w.Taken-waiting > atRest {
			w.yielded = w.Taken
		}
		if s.holdups.any.Load() > 0 && s.holdups.queue(n) {
			continue
		}
		// One thread alone can be that fast: it is woken in the middle of Respond.
		alone := n.PID == w.lastTID
		w.lastTID = n.PID
		if alone || w.Taken-waiting > queued {
			w.streak = 0
		} else if w.streak++; w.streak >= wakeStreak {
			s.wakeWorker()
		}
		if s.busy.Add(1) > 1 || w.streak > 0 {
			w.lonely = 0
		}
		w.KeepToOwnCPU(s.awake.Load() > 1)
		current := w.noteCall(n)
		if s.watch.sleeping.Load() { // after noteCall: the watch looks once more after it says that it sleeps
			s.watch.rouse()
		}
		w.conclude(n, w.Handle(n))
		if !w.current.CompareAndSwap(current, 0) {
			return errRelieved
		}
		if w.Lost != nil {
			return w.Lost
		}
		s.busy.Add(-1)
		if w.lonely++; w.extra && w.lonely > lonelyLimit {
			return nil
		}
	}
}

// conclude sends what a call has come to, or has somebody else go on with it, and tidies up after
// it.
func (w *worker) conclude(n *seccompx.Notification, out session.Outcome) {
	switch {
	case out.State == session.StateAside:
		go w.s.putAside(&w.Call, out).run()
	case out.Wait != nil:
		go out.Wait.Run()
	case out.State == session.StateElsewhere:
	default:
		if err := w.s.Respond(n.ID, out); err != nil && !errors.Is(err, seccompx.ErrTargetGone) {
			w.s.Warn("answer", "tid", n.PID, "error", err)
		}
	}
	w.Tidy()
}
