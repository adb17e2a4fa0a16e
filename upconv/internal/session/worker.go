package session

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Worker is what a thread that decides about calls has of its own. Its buffers are reused from call
// to call.
type Worker struct {
	s    *Session
	Home *netns.Egress // the namespace that this thread lives in; nil: where upconv was started
	Lost error         // why its thread is in a namespace that it must not make sockets in; nil: it is not

	Aside *AsideCall    // the one call that it has to decide; nil: others wait for it as well
	Taken time.Duration // when the latest notification was, by clock; of one that may wait, when it began

	Sockaddr [linux.SizeofSockaddrStorage]byte
	socket   sockstate.Socket // see SocketMemory
	viewed   view             // what Call.View points to
	Scratch  [512]byte        // for names in /proc and what is read there
	Long     []byte           // for what is longer

	Done   []int // descriptors to close when the target has its answer
	spares spares
	processor
}

// processor is where a worker's thread may run.
type processor struct {
	CPUs      unix.CPUSet // where this thread may run
	OwnCPU    unix.CPUSet // the one processor where it runs while several workers are awake
	onOwnCPU  bool        // it does
	MayPin    bool        // on more than one
	pinned    bool        // to one processor for now
	pinnedFor uint32      // the target's thread
	pinnedYet int         // swaps for which it may stay so
}

// Init has a worker belong to a session, and live in home.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s, w.Home, w.Taken = s, home, Clock()
	w.Done = make([]int, 0, 2)
}

// SocketMemory returns memory for what there is to know of a socket, which may have something in it
// yet. There is one of it: whoever has filled it passes it on.
func (w *Worker) SocketMemory() *sockstate.Socket { return &w.socket }

// MayWait reports whether the worker has but one call to decide. Else others wait for it as well.
func (w *Worker) MayWait() bool { return w.Aside != nil }

// Base makes every worker a decider.
func (w *Worker) Base() *Worker { return w }

// Enter takes the thread, which must be locked and is not to be unlocked again, to where the worker
// lives.
func (w *Worker) Enter() error {
	if w.Home == nil {
		return nil
	}
	return w.Home.NS.Enter()
}

// Close closes what the worker has, and lets its thread run where it likes.
func (w *Worker) Close() {
	if w.onOwnCPU || w.pinned {
		linux.SetAffinity(&w.CPUs)
	}
	w.spares.close()
	w.CloseDone()
}

var epoch = time.Now()

// Clock is the time since some moment before: half as expensive as time.Now, which also asks for
// the date.
func Clock() time.Duration { return time.Since(epoch) }
