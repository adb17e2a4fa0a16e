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
	view         *view        // of its socket; nil: upconv has not looked, or cannot
	sa           []byte       // upconv's copy of the address; nil: not read, or it could not be
	name         string       // what call it is; of socketcall(2), the one that is meant
	fastOpen     fastOpen     // of a send that connects
	sends        bool         // it is a send of datagrams, which are in worker.out
	guardedSend  *guardedSend // of a send that upconv makes in the place of the kernel; nil: not yet
	linux.Layout              // of its structures in the program's memory
	back         bool         // its socket is brought back to the origin, and the kernel makes it: see bringBack
	made         bool         // upconv has made it, or begun to
	guarded      bool         // it is not left to the kernel, see guard
	table        uint8        // what sharesTable has found; 0: it has not looked
	indirect     bool         // its arguments are in memory: socketcall(2)
	// permitted is the port that the kernel was seen to let the thread connect to, plus one; 0: it
	// was not asked.
	permitted int
	since     time.Time // when it was taken up, if that is not now: see aside
}

// handler decides what becomes of a call. It does not touch the listener, except to install a
// descriptor.
type handler func(w *worker, c *call) outcome

// outcome is what becomes of a call. The zero value lets the kernel run it as it stands.
type outcome struct {
	state state
	errno unix.Errno // if it returns: 0 for success
	value int64      // and what it returns then
	wait  waiter     // not nil: it answers later, on a goroutine of its own
	again handler    // not nil: decides the call, on a thread of its own, where that may wait
}

// state is how far a call is decided.
type state uint8

const (
	stateNative    state = iota // the kernel runs it (SECCOMP_USER_NOTIF_FLAG_CONTINUE), unless wait or again is set
	stateReturns                // with errno, or with value
	stateElsewhere              // somebody else answers, or has already
	stateRaced                  // nothing has been done, as another thread has put another file under the number: it is decided anew
	stateUndecided              // whoever has asked goes on
)

// Outcomes that say no more than a state.
var (
	carryOn   = outcome{}
	elsewhere = outcome{state: stateElsewhere}
	raced     = outcome{state: stateRaced}
	undecided = outcome{state: stateUndecided}
)

// answer has the call return an errno, 0 for success.
func answer(errno unix.Errno) outcome { return outcome{state: stateReturns, errno: errno} }

// answerValue has the call return a value.
func answerValue(n int64) outcome { return outcome{state: stateReturns, value: n} }

// aside has a call be decided by do on a thread of its own, where it may wait.
func aside(do handler) outcome { return outcome{again: do} }

// carriesOn reports whether the kernel runs the call.
func (o *outcome) carriesOn() bool { return o.state == stateNative && !o.isLater() }

// returns reports whether the call returns now.
func (o *outcome) returns() bool { return o.state == stateReturns }

// isLater reports whether something that upconv does has yet to decide the call.
func (o *outcome) isLater() bool { return o.wait != nil || o.again != nil }

func (o *outcome) isRaced() bool     { return o.state == stateRaced }
func (o *outcome) isUndecided() bool { return o.state == stateUndecided }

// callNumbers is more than the number of any call in the table, in any architecture.
const callNumbers = 512

// The rows of the table by the numbers that the kernel knows the calls by: for each of
// NativeArches, and in socketcall(2).
var (
	rowsByNumber     [2][callNumbers]*callRow
	rowsOfSocketcall [linux.SocketcallSendmmsg + 1]*callRow
)

func init() {
	for i := range calls {
		row := &calls[i]
		for of, arch := range seccompx.NativeArches() {
			if nr, ok := arch.Syscall(row.name); ok && row.handle != nil {
				rowsByNumber[of][nr] = row
			}
		}
		if row.socketcall != 0 {
			rowsOfSocketcall[row.socketcall] = row
		}
	}
}

// rowFor returns the row of a call by its number in an architecture; nil if nobody handles it.
func rowFor(arch seccompx.Arch, nr int32) *callRow {
	of := 0
	switch arch {
	case seccompx.NativeArch():
	case seccompx.I386:
		of = 1
	default:
		return nil
	}
	if uint32(nr) >= callNumbers {
		return nil
	}
	return rowsByNumber[of][nr]
}

// handle decides what becomes of a notification.
func (w *worker) handle(n *seccompx.Notification) outcome {
	if n.PID == 0 {
		return carryOn // a thread outside our pid namespace: cannot be named, cannot be served
	}
	c := &w.call
	// The kernel takes int arguments from the low half of the register, so the high half is
	// dropped.
	*c = call{id: n.ID, tid: int(n.PID), args: n.Data.Args, fd: int(int32(n.Data.Args[0])), Layout: linux.Layout{Compat: n.Data.Arch == seccompx.I386}}
	row := rowFor(n.Data.Arch, n.Data.Nr)
	if row == nil {
		return carryOn
	}
	c.name = row.name
	return row.handle(w, c)
}

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

// connectCall is connect(2).
func (w *worker) connectCall(c *call) outcome {
	if w.s.restricted.isDecoy(c.tid) {
		return carryOn
	}
	c.addr, c.addrLen = c.args[1], uint32(c.args[2])
	return w.connect(c)
}
