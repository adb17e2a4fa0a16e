//go:build linux

package seccompx

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnOwnThread runs f in a new goroutine on an OS thread that nobody else gets: it ends after f,
// with all that f has changed about it. This is the place for [Install], and for starting a program
// with os/exec that is to be under the filter. OnOwnThread returns when f has; the thread may need
// a moment more. f must not unlock the goroutine from its thread.
//
// A plain goroutine with [runtime.LockOSThread] does not always do. The first thread of a process
// does not end with the goroutine: it sleeps for ever, under the filter, which then never becomes
// unused ([ErrGone]).
func OnOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() == unix.Getpid() {
			// Keep the first thread busy, so that the next goroutine is on another, and give
			// it back as it was.
			OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
