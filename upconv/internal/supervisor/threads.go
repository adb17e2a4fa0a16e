package supervisor

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/birth"
)

const (
	// FirstWorkers is how many workers there are at the start. More are started when they are
	// needed.
	FirstWorkers = 2
	mostWorkers  = 8
)

// wakeWorker has one more worker help, if there is one or can be. It does not wait.
func (s *Session) wakeWorker() {
	workers := s.workers.Load()
	if s.awake.Load() < workers {
		select {
		case s.wake <- struct{}{}:
		default:
		}
		return
	}
	if int(workers) < min(mostWorkers, runtime.NumCPU()) && s.adding.CompareAndSwap(false, true) {
		go s.addWorker()
	}
}

// addWorker starts one more worker, with a thread and a processor of the Go scheduler of its own,
// if a thread can be had.
func (s *Session) addWorker() {
	if birth.TryTasks(2) < 2 {
		return // and none will be asked for again
	}
	index := s.workers.Load()
	runtime.GOMAXPROCS(int(index) + 1)
	s.awake.Add(1)
	s.workers.Add(1)
	ready := make(chan error, 1)
	s.startWorker(int(index), ready)
	if err := <-ready; err != nil {
		s.awake.Add(-1) // it has ended
		s.Log.Debug("one worker less", "error", err)
		return
	}
	s.adding.Store(false)
}

// nth returns the n-th processor of a set, counting round.
func nth(set *unix.CPUSet, n int) (one unix.CPUSet) {
	n %= max(1, set.Count())
	for cpu := 0; ; cpu++ {
		if !set.IsSet(cpu) {
			if cpu > 1<<16 {
				return *set
			}
			continue
		}
		if n == 0 {
			one.Set(cpu)
			return one
		}
		n--
	}
}
