package supervisor

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
)

// call is one stopped system call, decoded.
type call struct {
	id   uint64 // of the notification
	tid  int    // the thread that is stopped, in upconv's pid namespace
	args [6]uint64
	fd   int // the first argument: the socket
	// addr and addrLen are the pointer and length of the socket address, in the target's memory.
	addr         uint64
	addrLen      uint32
	view         *view    // of its socket; nil: upconv has not looked, or cannot
	sa           []byte   // upconv's copy of the address; nil: not read, or it could not be
	name         string   // what call it is; of socketcall(2), the one that is meant
	fastOpen     fastOpen // of a send that connects
	sends        bool     // it is a send of datagrams, which are in worker.out
	progress     any      // how far its room has come with a call that is taken up again; nil: not yet
	decide       handler  // what decides it, also when it is taken up anew
	linux.Layout          // of its structures in the program's memory
	back         bool     // its socket is brought back to the origin, and the kernel makes it: see bringBack
	made         bool     // upconv has made it, or begun to
	guarded      bool     // it is not left to the kernel, see guard
	table        uint8    // what sharesTable has found; 0: it has not looked
	indirect     bool     // its arguments are in memory: socketcall(2)
	// permitted is the port that the kernel was seen to let the thread connect to, plus one; 0: it
	// was not asked.
	permitted int
	since     time.Time // when it was taken up, if that is not now: see aside
}

// handler decides what becomes of a call. It does not touch the listener, except to install a
// descriptor.
type handler func(d decider, c *call) outcome

// decider is a worker, of which each room knows its own part.
type decider interface{ base() *sessionWorker }

// outcome is what becomes of a call. The zero value lets the kernel run it as it stands.
type outcome struct {
	state state
	errno unix.Errno // if it returns: 0 for success
	value int64      // and what it returns then
	wait  waiter     // not nil: it answers later, on a goroutine of its own
	after handler    // of stateAside: decides the call in the place of call.decide, if that is not nil
}

// state is how far a call is decided.
type state uint8

const (
	stateNative    state = iota // the kernel runs it (SECCOMP_USER_NOTIF_FLAG_CONTINUE), unless wait is set
	stateReturns                // with errno, or with value
	stateElsewhere              // somebody else answers, or has already
	stateRaced                  // nothing has been done, as another thread has put another file under the number: it is decided anew
	stateUndecided              // whoever has asked goes on
	stateAside                  // it is decided anew, on a thread of its own, where that may wait
)

// Outcomes that say no more than a state.
var (
	carryOn   = outcome{}
	elsewhere = outcome{state: stateElsewhere}
	raced     = outcome{state: stateRaced}
	undecided = outcome{state: stateUndecided}
	aside     = outcome{state: stateAside}
)

// answer has the call return an errno, 0 for success.
func answer(errno unix.Errno) outcome { return outcome{state: stateReturns, errno: errno} }

// answerValue has the call return a value.
func answerValue(n int64) outcome { return outcome{state: stateReturns, value: n} }

// asideBy has a call be decided by do on a thread of its own, where it may wait.
func asideBy(do handler) outcome { return outcome{state: stateAside, after: do} }

// handler returns what decides a call that is aside.
func (o *outcome) handler(c *call) handler {
	if o.after != nil {
		return o.after
	}
	return c.decide
}

// carriesOn reports whether the kernel runs the call.
func (o *outcome) carriesOn() bool { return o.state == stateNative && !o.isLater() }

// returns reports whether the call returns now.
func (o *outcome) returns() bool { return o.state == stateReturns }

// isLater reports whether something that upconv does has yet to decide the call.
func (o *outcome) isLater() bool { return o.wait != nil || o.state == stateAside }

func (o *outcome) isRaced() bool     { return o.state == stateRaced }
func (o *outcome) isUndecided() bool { return o.state == stateUndecided }

// number returns the number of a system call in the architecture of this one.
func (c *call) number(name string) uint64 {
	arches := seccompx.NativeArches()
	arch := arches[0]
	if c.Compat {
		arch = arches[1]
	}
	nr, _ := arch.Syscall(name)
	return uint64(nr)
}

// maxSent is what one call sends at most: MAX_RW_COUNT, linux/fs.h.
const maxSent = 0x7ffff000

const maxRaces = 8

// fastOpen is what a send with MSG_FASTOPEN (RFC 7413) sends: on a TCP socket that is not connected
// it is a connect(2) and a send in one.
type fastOpen struct {
	on    bool
	flags uint32
	// vector is where the data is in the target's memory, as struct iovec.
	vector []unix.RemoteIovec
	// control is where its control messages are, and how long they are.
	control       uint64
	controlLength int
	sent          int    // how much of the data is
	cookie        uint64 // of the socket that the rest is for
	// result is where the number of bytes goes, besides being returned; 0: nowhere. sendmmsg(2)
	// returns messages.
	result uint64
}

// patient reports whether the target's call is one that waits, on a file with these status flags.
func (w *sessionWorker) patient(c *call, flags int) bool {
	return flags&unix.O_NONBLOCK == 0 && !(c.fastOpen.on && c.fastOpen.flags&unix.MSG_DONTWAIT != 0)
}
