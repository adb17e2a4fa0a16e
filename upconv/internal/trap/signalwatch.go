package trap

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/upconv/internal/peek"
)

// signalWatch has the kernel tell of signals for threads whose calls are held, where upconv has
// BPF. Then a call that has waited for long is looked at as soon as there is one.
type signalWatch struct {
	tried  bool                        // to have it; only for sweep
	teller atomic.Pointer[peek.Teller] // nil: it cannot be had, or not yet

	mu    sync.Mutex
	calls map[peek.Key]int // how many are watched by a key

	// What has been told since the last sweep, and whether more may have been, which is lost.
	// HeldCalls.mu is for these.
	told map[peek.Key]bool
	all  bool
	rest time.Duration // until it may be looked what has been told since, for a look at all that it concerns
}

// watchAfter is how long a call has waited when it is worth a millisecond, once, to be told of
// signals.
const watchAfter = 100 * time.Millisecond

// stormSampling is between looks for signals that come all the time.
const stormSampling = 8 * sampling

// beginWatch has signals be told of from now on if the call is one that has waited for long, once.
func (h *HeldCall) beginWatch(now time.Time) {
	w := &h.all.signals
	peeker := h.all.peeks()
	if w.tried || peeker == nil || now.Sub(h.began) < watchAfter {
		return
	}
	w.tried = true
	go h.all.watchSignals(peeker)
}

// watchSignals begins to be told of signals. It takes a goroutine of its own.
func (all *HeldCalls) watchSignals(peeker *peek.Peeker) {
	teller, err := peeker.Tell()
	if err != nil {
		all.log.Debug("signals for calls that wait are looked for now and then", "error", err)
		return
	}
	all.signals.teller.Store(teller)
	told, lost := []peek.Told(nil), true // each call is to be looked at, to be watched
	pause := sampling
	for err == nil {
		all.mu.Lock()
		all.signals.note(told, lost)
		all.mu.Unlock()
		all.sweep()
		// There may be any number of signals, which may concern nobody that waits.
		all.mu.Lock()
		rest := min(max(pause, all.signals.rest), maxSampling)
		all.mu.Unlock()
		time.Sleep(rest)
		slept := time.Now()
		told, lost, err = teller.Wait(told[:0])
		if pause = min(2*pause, stormSampling); time.Since(slept) > sampling {
			pause = sampling
		}
	}
}

// waits reports whether there is something for take. The caller holds HeldCalls.mu.
func (w *signalWatch) waits() bool { return len(w.told) > 0 || w.all }

// note keeps what has been told for the next sweep. The caller holds HeldCalls.mu.
func (w *signalWatch) note(told []peek.Told, lost bool) {
	if w.told == nil {
		w.told = map[peek.Key]bool{}
	}
	for _, one := range told {
		w.told[one.Key] = true
	}
	w.all = w.all || lost
}

// take returns the calls that what has been told is about: all of the process, as a signal for one
// thread can stop the others. It is told of again from now on. The caller holds HeldCalls.mu.
func (w *signalWatch) take(calls map[*HeldCall]struct{}) (concerned map[*HeldCall]bool) {
	if !w.waits() {
		return nil
	}
	processes := map[peek.Key]bool{}
	for h := range calls {
		if w.told[h.keys.thread] || w.told[h.keys.process] {
			processes[h.keys.process] = true
		}
	}
	concerned = map[*HeldCall]bool{}
	for h := range calls {
		if w.all || processes[h.keys.process] {
			concerned[h] = true
		}
	}
	for key := range w.told {
		w.renew(key)
	}
	clear(w.told)
	w.all = false
	return concerned
}

// renew has a key be told of once more.
func (w *signalWatch) renew(key peek.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls[key] > 0 {
		w.teller.Load().Watch(key)
	}
}

// watchKeys are what a call is watched by: the keys of its thread and of its process. Zero: it is
// not.
type watchKeys struct{ thread, process peek.Key }

// watch has signals for a call's thread be told of, from the next moment on. It reports whether
// they were not before.
func (h *HeldCall) watch(thread *peek.Thread) bool {
	w := &h.all.signals
	teller := w.teller.Load()
	h.mu.Lock()
	defer h.mu.Unlock()
	if teller == nil || h.gone || h.keys != (watchKeys{}) {
		return false
	}
	keys := watchKeys{thread.ThreadKey(), thread.ProcessKey()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls[keys.thread] == 0 && teller.Watch(keys.thread) != 0 {
		return false // there are too many
	}
	if w.calls[keys.process] == 0 && teller.Watch(keys.process) != 0 {
		if w.calls[keys.thread] == 0 {
			teller.Forget(keys.thread)
		}
		return false
	}
	if w.calls == nil {
		w.calls = map[peek.Key]int{}
	}
	w.calls[keys.thread]++
	w.calls[keys.process]++
	h.keys = keys
	return true
}

// unwatch ends watch, if that has begun. The caller holds the call's mu.
func (h *HeldCall) unwatch() {
	if h.keys == (watchKeys{}) {
		return
	}
	w := &h.all.signals
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range []peek.Key{h.keys.thread, h.keys.process} {
		if w.calls[key]--; w.calls[key] == 0 {
			delete(w.calls, key)
			w.teller.Load().Forget(key)
		}
	}
}
