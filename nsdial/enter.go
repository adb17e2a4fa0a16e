//go:build linux

package nsdial

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// residence is how sure we are that a thread lives in the namespace.
type residence uint8

const (
	// entered threads were moved by Enter and are the caller's since: they may
	// have gone elsewhere, or have ended and left their tid to another.
	entered residence = iota + 1
	// resident threads are our own.
	resident
)

// Enter moves the calling thread into the namespace, for good. The caller must
// have called [runtime.LockOSThread], and must never unlock it: when the
// goroutine returns the runtime ends the thread instead of giving it, and with
// it the namespace, to somebody else. Do not do this on the main thread (that of
// main.init and of a goroutine that happens to be on it), which the runtime
// cannot end.
//
// On a thread that entered, plain socket(2) is all it takes, and Socket costs
// little more than that.
//
// If the thread already lives in the namespace nothing happens and no privilege
// is needed. Otherwise see setns(2); if that is not permitted the error says
// what is needed, and is fs.ErrPermission. On error the thread is where it was.
func (n *Namespace) Enter() error {
	if err := n.enter(); err != nil {
		return err
	}
	n.settle(unix.Gettid(), entered)
	if n.cookie.Load() == 0 && !n.noCookie.Load() {
		// Now is the cheapest time to learn it, and perhaps the only one: the
		// process may drop the privilege to ever come here again.
		if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			_, _ = n.learnCookie(fd)
			unix.Close(fd)
		}
	}
	return nil
}

func (n *Namespace) enter() error {
	// The lock keeps Close from closing the descriptor, and the kernel from
	// giving its number to another file, before setns has looked at it.
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return n.errClosed()
	}
	// Without /proc there is no telling; setns will.
	if current, err := currentID(); err == nil && current == n.id {
		return nil
	}
	switch err := unix.Setns(n.fd, unix.CLONE_NEWNET); err {
	case nil:
		return nil
	case unix.EPERM:
		return fmt.Errorf("%s: enter: %w (needs CAP_SYS_ADMIN, in the user namespace that owns it and in the caller's)", n, err)
	default:
		return fmt.Errorf("%s: enter: %w", n, err)
	}
}

// settle notes that the thread tid lives here.
func (n *Namespace) settle(tid int, how residence) {
	n.mu.Lock()
	defer n.mu.Unlock()
	here := *n.here.Load()
	if here[tid] >= how {
		return
	}
	here = maps.Clone(here)
	if here == nil {
		here = make(map[int]residence)
	}
	// Nobody tells us when a thread of the caller's ends, so look at them
	// whenever the map grows: it never holds more than live threads and one.
	for t, how := range here {
		if how == entered && ended(t) {
			delete(here, t)
		}
	}
	here[tid] = how
	n.here.Store(&here)
}

// leave notes that our own thread tid is about to end.
func (n *Namespace) leave(tid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	here := maps.Clone(*n.here.Load())
	delete(here, tid)
	n.here.Store(&here)
	n.ending = append(slices.DeleteFunc(n.ending, ended), tid)
}

// ended tells whether no thread of the process has this tid.
func ended(tid int) bool { return unix.Tgkill(unix.Getpid(), tid, 0) == unix.ESRCH }
