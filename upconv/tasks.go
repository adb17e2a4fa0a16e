package upconv

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/upconv/upconv/upconv/internal/birth"
)

// The Go runtime ends the process where it needs a thread and cannot have one (RLIMIT_NPROC,
// pids.max). So upconv needs few, looks whether it can have them before it does anything, and keeps
// some idle for the time when the program has used up all others.

const (
	// frontThreads and supervisorThreads are how many idle threads the two processes keep.
	frontThreads      = 4
	supervisorThreads = 6
	// tasksNeeded is how many processes and threads upconv comes to have besides those that the
	// front process has when it looks: in that process, the supervisor, the canary and the command.
	// TestPidsLimit holds it.
	tasksNeeded = 24
)

// checkTasks returns an error if the processes and threads that upconv needs cannot be had.
func checkTasks() error {
	if n := birth.TryTasks(tasksNeeded); n < tasksNeeded {
		return fmt.Errorf("of the %d more processes and threads that upconv and the command need, only %d can be had: raise the limit "+
			"(docker run --pids-limit, TasksMax= of a unit, pids.max of the cgroup; ulimit -u of the user)", tasksNeeded, n)
	}
	return nil
}

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
