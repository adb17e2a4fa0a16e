package supervisor

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Worker is what a thread that decides about calls has of its own. Its buffers are reused from call to
// call. The rooms above embed it, and add theirs.
type sessionWorker struct {
	s    *sessionSession
	home *netns.Egress // the namespace that this thread lives in; nil: where upconv was started
	lost error         // why its thread is in a namespace that it must not make sockets in; nil: it is not

	alone bool          // it has one call to decide, and may wait
	aside *asideCall    // that call; nil: it is not alone, and must not wait
	taken time.Duration // when the latest notification was, by clock; of a worker that is alone, when it began

	sockaddr   [linux.SizeofSockaddrStorage]byte
	socketInfo sockstate.Socket
	viewed     view      // what call.view points to
	scratch    [512]byte // for names in /proc and what is read there
	long       []byte    // for what is longer

	done   []int // descriptors to close when the target has its answer
	spares spares
	processor
}

// processor is where a worker's thread may run.
type processor struct {
	cpus      unix.CPUSet // where this thread may run
	own       unix.CPUSet // the one processor where it runs while several workers are awake
	settled   bool        // it does
	mayPin    bool        // on more than one
	pinned    bool        // to one processor for now
	pinnedFor uint32      // the target's thread
	pinnedYet int         // swaps for which it may stay so
}

// Init has a worker belong to a session, and live in home.
func (w *sessionWorker) init(s *sessionSession, home *netns.Egress) {
	w.s, w.home, w.alone, w.taken = s, home, true, clock()
	w.done = make([]int, 0, 2)
}

// base makes every worker a decider.
func (w *sessionWorker) base() *sessionWorker { return w }

// Enter takes the thread, which must be locked and is not to be unlocked again, to where the worker lives.
func (w *sessionWorker) enter() error {
	if w.home == nil {
		return nil
	}
	return w.home.NS.Enter()
}

// Close closes what the worker has, and lets its thread run where it likes.
func (w *sessionWorker) close() {
	if w.settled || w.pinned {
		linux.SetAffinity(&w.cpus)
	}
	w.spares.close()
	w.closeDone()
}

var epoch = time.Now()

// clock is the time since some moment before: half as expensive as time.Now, which also asks for
// the date.
func clock() time.Duration { return time.Since(epoch) }
