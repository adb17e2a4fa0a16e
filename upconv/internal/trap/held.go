package trap

import (
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/target"
)

// HeldCall is a call that upconv itself waits for. The kernel ends its wait for the answer at
// nothing but a fatal signal (WAIT_KILLABLE_RECV). So upconv looks for what a native wait would end
// at: signals, stops, tracers.
type HeldCall struct {
	Listener *seccompx.Listener
	ID       uint64 // of the notification
	TID      int
	Timed    atomic.Bool      // the wait ends after a time that the program has set
	End      func(unix.Errno) // ends the wait, unless that is over

	all        *HeldCalls  // which it is one of
	restarting atomic.Bool // by restartForced

	mu     sync.Mutex // for status, gone and keys
	status int        // the thread's proc_pid_status(5), if opened
	opened bool
	gone   bool // remove has been called
	keys   watchKeys

	// The rest is only for sweep.
	pid     int // 0: not known yet
	began   time.Time
	stirred time.Time // when it began, or was last told of a signal
	next    time.Time // when it is looked at again
	thread  uint64    // when it began; 0: not known
	shared  int       // looks in a row that saw a signal which any thread of the process may take
	forced  time.Time // when it was last begun anew without a sign
}

// HeldCalls are all of them. One look goes over those that are due. A call is looked at less often
// the longer it waits, and all of them together only as often as that takes hardly any of the
// machine's time.
type HeldCalls struct {
	peeker func() *peek.Peeker // nil, or what it returns: threads are looked at in proc(5)
	turns  *Turns              // of what a program can hold up
	log    *slog.Logger

	mu       sync.Mutex
	calls    map[*HeldCall]struct{}
	timer    *time.Timer // starts a sweep
	due      time.Time   // when that is; zero: not set
	sweeping bool
	hurried  time.Time // until when all are looked at often

	cost    time.Duration // of one look
	tracers map[int]int   // of threads that had a tracer when they were last looked at; only for sweep
	signals signalWatch
}

// maxTracers is how many threads are remembered to have a tracer.
const maxTracers = 1024

const (
	sampling      = 5 * time.Millisecond   // between looks at a call that has just begun
	maxSampling   = 500 * time.Millisecond // and at one that has waited for long
	patience      = 4                      // a call is looked at again after one part of so many of its age
	sweepShare    = 150                    // one part of so many is what looking takes of one processor
	hurry         = 100 * time.Millisecond
	forceInterval = time.Second
)

// NewHeldCalls returns one that has no calls. peeker returns what looks at threads in the kernel,
// nil if nothing does, or not yet; turns are of what a program can hold up.
func NewHeldCalls(peeker func() *peek.Peeker, turns *Turns, log *slog.Logger) *HeldCalls {
	return &HeldCalls{peeker: peeker, turns: turns, log: log}
}

// peeks returns what looks at threads in the kernel, nil if nothing does.
func (all *HeldCalls) peeks() *peek.Peeker {
	if all.peeker == nil {
		return nil
	}
	return all.peeker()
}

var ownPID = os.Getpid()

// Add has a call be looked at until it is removed.
func (all *HeldCalls) Add(h *HeldCall) {
	h.all = all
	h.began = time.Now()
	h.stirred, h.next = h.began, h.began.Add(sampling)
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.calls == nil {
		all.calls = map[*HeldCall]struct{}{}
		all.timer = time.AfterFunc(time.Hour, all.sweep)
	}
	all.calls[h] = struct{}{}
	all.arm(h.next)
}

// arm has the next sweep be at a time, unless it is earlier anyway. The caller holds mu.
func (all *HeldCalls) arm(at time.Time) {
	if !all.sweeping && (all.due.IsZero() || at.Before(all.due)) {
		all.due = at
		all.timer.Reset(time.Until(at))
	}
}

// Remove forgets a call that has its answer.
func (all *HeldCalls) Remove(h *HeldCall) {
	all.mu.Lock()
	delete(all.calls, h)
	all.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opened {
		linux.Close(h.status)
	}
	h.opened, h.gone = false, true
	h.unwatch()
}

// Looked reports whether the call has been looked at.
func (h *HeldCall) Looked() bool {
	h.all.mu.Lock()
	defer h.all.mu.Unlock()
	return h.next.Sub(h.began) > sampling
}

// LookNow has all calls be looked at soon: something has happened that may concern them.
func (all *HeldCalls) LookNow() {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.calls) == 0 {
		return
	}
	now := time.Now()
	all.hurried = now.Add(hurry)
	all.arm(now)
}

// of returns the call of a thread, nil if none is held.
func (all *HeldCalls) of(tid int) *HeldCall {
	all.mu.Lock()
	defer all.mu.Unlock()
	for h := range all.calls {
		if h.TID == tid {
			return h
		}
	}
	return nil
}

// Threads returns the threads whose calls are held.
func (all *HeldCalls) Threads() map[int]bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.calls) == 0 {
		return nil
	}
	tids := make(map[int]bool, len(all.calls))
	for h := range all.calls {
		tids[h.TID] = true
	}
	return tids
}

// sweep looks at the calls that are due, and says when the next one is.
func (all *HeldCalls) sweep() {
	began := time.Now()
	all.mu.Lock()
	if all.sweeping {
		all.mu.Unlock()
		return
	}
	all.sweeping, all.due = true, time.Time{}
	hurried := began.Before(all.hurried)
	concerned := all.signals.take(all.calls)
	var list []*HeldCall
	for h := range all.calls {
		if concerned[h] && began.Sub(h.stirred) > maxSampling {
			h.stirred = began // something may come of the signal a little later
		}
		// Who is due in a while is looked at as well: fewer sweeps.
		ahead := h.pause(began) / 2
		if hurried || concerned[h] || began.Add(ahead).After(h.next) && began.Sub(h.began) >= sampling {
			list = append(list, h)
		}
	}
	all.mu.Unlock()

	round := lookRound{now: began, all: all}
	var torn []*HeldCall // each may be the one of its process that a signal is for
	again := make([]time.Duration, len(list))
	for i, h := range list {
		h.beginWatch(began)
		switch again[i] = h.pause(began); h.look(&round) {
		case signShared:
			torn = append(torn, h)
		case signOfOthers:
			again[i] = sampling
		}
	}
	round.settle(torn)

	all.mu.Lock()
	defer all.mu.Unlock()
	all.sweeping = false
	for i, h := range list {
		h.next = began.Add(again[i])
	}
	if len(list) > 0 { // a sweep may have been held up
		each := time.Since(began) / time.Duration(len(list))
		all.cost = min(each, max(all.cost+all.cost/4, time.Microsecond))
	}
	all.signals.rest = sweepShare * all.cost * time.Duration(len(concerned))
	if round.hurry || len(torn) > 0 {
		all.hurried = time.Now().Add(hurry)
	}
	if len(all.calls) == 0 {
		return
	}
	now := time.Now()
	next := now.Add(maxSampling)
	for h := range all.calls {
		if h.next.Before(next) {
			next = h.next
		}
	}
	if rest := now.Add(sweepShare * all.cost * time.Duration(len(list))); next.Before(rest) {
		next = rest
	}
	if now.Before(all.hurried) {
		next = now.Add(sampling)
	}
	if all.signals.waits() {
		next = now
	}
	all.arm(next)
}

// pause is how long a call is not looked at again.
func (h *HeldCall) pause(now time.Time) time.Duration {
	return min(max(sampling, now.Sub(h.stirred)/patience), maxSampling)
}

// sign is what a look has seen.
type sign uint8

const (
	signNone     sign = iota // or the call has ended
	signOfOthers             // of something that another thread may take care of
	signShared               // of a signal that nobody takes, and that may be for this thread
)

// lookRound is one sweep: what it has found out about processes.
type lookRound struct {
	now       time.Time
	all       *HeldCalls
	scratch   [4096]byte
	processes map[int]*processLook
	held      map[int]bool // threads whose calls are held; nil: not asked yet
	hurry     bool         // others must be looked at soon
}

// processLook is what one sweep has seen of a process.
type processLook struct{ stopped, frozen bool }

// signs are what one look at a thread has seen.
type signs struct {
	own     bool // it has a signal to take, or is to stop
	any     bool // it, or another thread of its process, has a signal to take
	exact   bool // that is all, but for a freezer of cgroup version 1
	certain bool // and for that too, and any is nothing to the thread unless own
	// Only if not exact:
	threads, tracer int
	status          []byte // proc_pid_status(5)
}

// look looks at the target of a call for what ends its wait, and ends it.
func (h *HeldCall) look(round *lookRound) sign {
	seen, ok := h.signs(round)
	if !ok {
		return signNone
	}
	if h.pid == 0 {
		h.pid = target.ThreadGroup(h.TID)
	}
	if !seen.any || seen.own {
		h.shared = 0
	} else {
		h.shared++
	}
	attached := !seen.exact && round.all.attached(h.TID, seen.tracer)
	process := &processLook{}
	if !seen.certain {
		process = round.process(h, &seen)
	}
	switch {
	case seen.own:
		h.interrupt()
	case process.frozen, process.stopped && seen.tracer == 0: // with one, that says nothing of each thread
		h.interrupt()
		round.hurry = true // the other threads are to stop as well
	case h.shared == 1 && target.OnlyTaker(h.TID, h.pid, seen.status):
		h.interrupt()
	case attached, seen.tracer != 0 && !h.Timed.Load() && round.now.Sub(later(h.began, h.forced)) >= forceInterval:
		// Nothing tells that a tracer wants a thread of its own to stop.
		h.forced = round.now
		if sendIgnored(h.TID, seen.status) {
			return signOfOthers // it is seen to be pending by the next look
		}
	case h.shared >= 3:
		return signShared
	case seen.any:
		return signOfOthers
	}
	return signNone
}

// signs reads what there is to see. ok is false where nobody waits for the answer any more.
func (h *HeldCall) signs(round *lookRound) (seen signs, ok bool) {
	if h.pid == 0 && h.Listener.Valid(h.ID) != nil { // for the first time: later, what names the thread is known
		h.End(unix.EINTR)
		return seen, false
	}
	var thread peek.Thread
	if h.lookAtThread(&thread) {
		if h.thread == 0 {
			h.thread = thread.Began
		}
		if thread.Ending || thread.Began != h.thread {
			h.End(unix.EINTR)
			return seen, false
		}
		seen.own, seen.exact, seen.certain = thread.Interrupted, true, thread.Certain
		if !seen.certain {
			seen.own = seen.own || thread.Threads == 1 && thread.Shared != 0
			seen.any = thread.Shared != 0
		}
		seen.any = seen.any || seen.own
		return seen, true
	}
	if seen.status = h.readStatus(round.scratch[:]); seen.status == nil || target.SaysEnded(seen.status) {
		if h.Listener.Valid(h.ID) != nil {
			h.End(unix.EINTR)
		}
		return seen, false
	}
	seen.own, seen.any = target.SignalsIn(seen.status)
	seen.threads, seen.tracer = target.StatusField(seen.status, "Threads:", 10), target.StatusField(seen.status, "TracerPid:", 10)
	if seen.tracer == ownPID { // for a moment
		seen.tracer = 0
	}
	return seen, true
}

// lookAtThread looks at the call's thread by BPF. It reports whether it could.
func (h *HeldCall) lookAtThread(thread *peek.Thread) bool {
	peeker := h.all.peeks()
	if peeker == nil || peeker.LookAtThread(h.TID, thread) != 0 {
		return false
	}
	if h.watch(thread) { // a signal that came before is not told of
		return peeker.LookAtThread(h.TID, thread) == 0
	}
	return true
}

// attached reports whether a thread has got another tracer, or 0, since it was last looked at.
func (all *HeldCalls) attached(tid, tracer int) bool {
	before := all.tracers[tid]
	switch {
	case tracer == before:
		return false
	case tracer == 0:
		delete(all.tracers, tid)
		return false
	case all.tracers == nil, len(all.tracers) >= maxTracers:
		all.tracers = map[int]int{}
	}
	all.tracers[tid] = tracer
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// readStatus returns the thread's proc_pid_status(5), nil where it cannot be read.
func (h *HeldCall) readStatus(scratch []byte) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return nil
	}
	if !h.opened {
		h.status = target.OpenStatus(h.TID, scratch)
		h.opened = h.status >= 0
	}
	if !h.opened {
		return nil
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(h.status), uintptr(unsafe.Pointer(&scratch[0])), uintptr(len(scratch)), 0, 0, 0)
	if errno != 0 { // it has ended
		return nil
	}
	return scratch[:n]
}

// interrupt ends a call of a thread that has a signal to take, or is to stop.
func (h *HeldCall) interrupt() { h.End(Restart(h.Timed.Load())) }

// process returns what there is to know of the process of a thread, which has been seen.
func (round *lookRound) process(h *HeldCall, seen *signs) *processLook {
	if p := round.processes[h.pid]; p != nil {
		return p
	}
	p := &processLook{frozen: target.InFrozenCgroup(h.TID, seen.exact)}
	if !seen.exact && seen.threads > 1 { // of a single one the signal that stops it is pending
		if round.held == nil {
			round.held = round.all.Threads()
		}
		p.stopped = target.GroupStopped(h.pid, round.held)
	}
	if round.processes == nil {
		round.processes = map[int]*processLook{}
	}
	round.processes[h.pid] = p
	return p
}

// settle ends one call of each process that a signal has been left for. The kernel chooses the
// first thread before others.
func (round *lookRound) settle(torn []*HeldCall) {
	pids := map[int]*HeldCall{}
	for _, h := range torn {
		h.shared = 0
		if chosen := pids[h.pid]; chosen == nil || h.TID == h.pid {
			pids[h.pid] = h
		}
	}
	for _, h := range pids {
		h.restartForced()
	}
}

// restartForced has a held call begin anew although it is not certain that its thread has a signal
// to take: a tracer's interruption sees to it that the kernel understands ERESTARTSYS. Where that
// is not permitted the program is told EINTR.
func (h *HeldCall) restartForced() {
	if !h.restarting.CompareAndSwap(false, true) {
		return
	}
	pid := h.pid
	go func() {
		defer h.restarting.Store(false)
		// The program may be in the middle of an execve(2).
		defer h.all.turns.GiveBack(h.all.turns.Take(func() int { return pid }))
		if !h.all.RestartThreads([]int{h.TID}) {
			h.End(unix.EINTR)
		}
	}()
}
