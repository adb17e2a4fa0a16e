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
	Taken time.Duration // when the latest notification came, as Clock says; of an aside call, when its worker began

	Sockaddr [linux.SizeofSockaddrStorage]byte // for the address of the call in work
	socket   sockstate.Socket                  // see SocketMemory
	viewed   view                              // what Call.View points to
	Scratch  [512]byte                         // for names in /proc and what is read there
	Long     []byte                            // for what is longer

	Done   []int // descriptors to close when the target has its answer
	spares spares
	processor
}

// processor is where a worker's thread may run.
type processor struct {
	CPUs      unix.CPUSet // where this thread may run
	OwnCPU    unix.CPUSet // the one processor where it runs while several workers are awake
	onOwnCPU  bool        // it is there now
	MayPin    bool        // this thread may run on more than one, so that there is a choice
	pinned    bool        // this thread is kept to one processor for now, see Pin
	pinnedFor uint32      // the target's thread that it is for
	pinnedYet int         // swaps for which it may stay so
}

// Init has a worker belong to a session, and live in home; nil: where upconv was started.
func (w *Worker) Init(s *Session, home *netns.Egress) {
	w.s, w.Home, w.Taken = s, home, Clock()
	w.Done = make([]int, 0, 2)
}

// SocketMemory returns the worker's one sockstate.Socket, which may still hold what an earlier call
// has filled in. Who fills it passes it on.
func (w *Worker) SocketMemory() *sockstate.Socket { return &w.socket }

// MayWait reports whether the worker has but one call to decide, so that it may wait. Any other
// worker would keep further calls waiting.
func (w *Worker) MayWait() bool { return w.Aside != nil }

// Base returns what this package has of a worker. It makes every worker a Decider.
func (w *Worker) Base() *Worker { return w }

// Enter takes the calling thread to the namespace that the worker lives in. The thread must be
// locked, and is not to be unlocked again.
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

// Clock returns the time since some moment before. It is half as expensive as time.Now, which also
// asks for the date.
func Clock() time.Duration { return time.Since(epoch) }
