package upconv

import (
	"runtime"
	"sync"
)

// The Go runtime ends the process where it needs a thread and cannot have one (RLIMIT_NPROC,
// pids.max). So upconv needs few, looks whether it can have them before it does anything
// (doctor.CheckTasks), and keeps some idle for the time when the program has used up all others.

// frontThreads and supervisorThreads are how many idle threads the two processes keep.
const (
	frontThreads      = 4
	supervisorThreads = 6
)

// haveThreads has the Go runtime start some threads, which it keeps.
func haveThreads(n int) {
	var all, done sync.WaitGroup
	all.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread() // one for each
			all.Done()
			all.Wait()
			runtime.UnlockOSThread()
		})
	}
	done.Wait()
}
