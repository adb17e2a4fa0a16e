package session

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
)

// Call is one stopped system call, decoded.
type Call struct {
	ID   uint64 // of the notification
	TID  int    // the thread that is stopped, in upconv's pid namespace
	Args [6]uint64
	FD   int // the first argument: the socket
	// Addr and AddrLen are the pointer and length of the socket address, in the target's memory.
	Addr         uint64
	AddrLen      uint32
	View         *view    // of its socket; nil: upconv has not looked, or cannot
	Sockaddr     []byte   // upconv's copy of the address; nil: not read, or it could not be
	Name         string   // what call it is; of socketcall(2), the one that is meant
	FastOpen     FastOpen // of a send that connects
	Sends        bool     // it is a send of datagrams, which are in datagram.Worker.Out
	Progress     any      // how far its room has come with a call that is taken up again; nil: not yet
	Decide       Handler  // what decides it, also when it is taken up anew
	linux.Layout          // of its structures in the program's memory
	Made         bool     // upconv has made it, or begun to
	Guarded      bool     // upconv makes it in the place of the kernel, see calls/guard.go
	Table        uint8    // what SharesTable has found: TableOwn or TableShared; 0: it has not looked
	Indirect     bool     // its arguments are in memory: socketcall(2)
	// Permitted is the port that the kernel was seen to let the thread connect to, plus one; 0: it
	// was not asked.
	Permitted int
	Since     time.Time // when it was put aside; zero: it was not
}

// Handler decides what becomes of a call, with what the worker d has. It does not touch the
// listener, except to install a descriptor.
type Handler func(d Decider, c *Call) Outcome

// Decider is a worker, of which each room knows its own part.
type Decider interface{ Base() *Worker }

// Outcome is what becomes of a call. The zero value lets the kernel run it as it stands.
type Outcome struct {
	State State
	Errno unix.Errno // if it returns: 0 for success
	Value int64      // what it returns then, on success
	Wait  Waiter     // not nil: it answers later, on a goroutine of its own
	after Handler    // of StateAside: decides the call in the place of Call.Decide, if that is not nil
}

// State is how far a call is decided.
type State uint8

const (
	stateNative    State = iota // the kernel runs it (SECCOMP_USER_NOTIF_FLAG_CONTINUE), unless Wait is set
	StateReturns                // with Errno, or with Value
	StateElsewhere              // somebody else answers, or has already
	stateRaced                  // nothing has been done, as another thread has put another file under the number: it is decided anew
	stateUndecided              // there is nothing to say yet: whoever has asked goes on
	StateAside                  // it is decided anew, on a thread of its own, where that may wait
)

// Outcomes that say no more than a state.
var (
	CarryOn   = Outcome{}
	Elsewhere = Outcome{State: StateElsewhere}
	Raced     = Outcome{State: stateRaced}
	Undecided = Outcome{State: stateUndecided}
	Aside     = Outcome{State: StateAside}
)

// Answer has the call return an errno, 0 for success.
func Answer(errno unix.Errno) Outcome { return Outcome{State: StateReturns, Errno: errno} }

// AnswerValue has the call return a value.
func AnswerValue(n int64) Outcome { return Outcome{State: StateReturns, Value: n} }

// AsideBy has a call be decided by do on a thread of its own, where it may wait.
func AsideBy(do Handler) Outcome { return Outcome{State: StateAside, after: do} }

// Handler returns what decides a call that is aside.
func (o *Outcome) Handler(c *Call) Handler {
	if o.after != nil {
		return o.after
	}
	return c.Decide
}

// CarriesOn reports whether the kernel runs the call.
func (o *Outcome) CarriesOn() bool { return o.State == stateNative && !o.IsLater() }

// Returns reports whether the call returns now.
func (o *Outcome) Returns() bool { return o.State == StateReturns }

// IsLater reports whether something that upconv does has yet to decide the call.
func (o *Outcome) IsLater() bool { return o.Wait != nil || o.State == StateAside }

// IsRaced reports whether the call is decided anew, as another file has come under the number.
func (o *Outcome) IsRaced() bool { return o.State == stateRaced }

// IsUndecided reports whether whoever has asked goes on with the call.
func (o *Outcome) IsUndecided() bool { return o.State == stateUndecided }

// Number returns the number of a system call in the architecture that the call is of.
func (c *Call) Number(name string) uint64 {
	arches := seccompx.NativeArches()
	arch := arches[0]
	if c.Compat {
		arch = arches[1]
	}
	nr, _ := arch.Syscall(name)
	return uint64(nr)
}

// MaxSent is what one call sends at most: MAX_RW_COUNT, linux/fs.h.
const MaxSent = 0x7ffff000

// MaxRaces is how often something is tried again because another thread has come in between. A call
// that is raced more often is answered with EBADF, which it natively could be as well.
const MaxRaces = 8

// FastOpen is what a send with MSG_FASTOPEN (RFC 7413) sends: on a TCP socket that is not connected
// it is a connect(2) and a send in one.
type FastOpen struct {
	On    bool
	Flags uint32
	// Vector is where the data is in the target's memory, as struct iovec.
	Vector []unix.RemoteIovec
	// Control is where its control messages are, and how long they are.
	Control       uint64
	ControlLength int
	Sent          int    // how much of the data is
	Cookie        uint64 // of the socket that the rest is for
	// Result is where the number of bytes goes, besides being returned; 0: nowhere. sendmmsg(2)
	// returns messages.
	Result uint64
}

// Patient reports whether the target's call is one that waits, on a file with these status flags
// (F_GETFL).
func (w *Worker) Patient(c *Call, flags int) bool {
	return flags&unix.O_NONBLOCK == 0 && !(c.FastOpen.On && c.FastOpen.Flags&unix.MSG_DONTWAIT != 0)
}
