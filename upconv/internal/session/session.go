package session

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Session is what upconv has for one listener, as far as all packages above need it.
type Session struct {
	*Node
	Listener *seccompx.Listener
	Rules    atomic.Pointer[Ruleset] // the policy in force
	Origin   *netns.Origin
	Needs    Needs      // what the filter was made for; it does not change
	Events   *event.Log // nil: nobody wants them

	Used  sockstate.OptionsUsed
	Fresh sockstate.FreshSockets // what nobody has done anything to

	Sights atomic.Pointer[Sights] // nil: not permitted, or not needed, or not known yet
	open   sync.Once              // done when that is known
	blind  func()                 // is told if sockets cannot be looked at after all

	Swapped atomic.Bool   // some socket has been swapped: so one that is to go direct may be one of an egress
	Moved   atomic.Bool   // some datagram socket has been
	Moves   atomic.Uint64 // how many times datagram sockets have been
	Made    MadeSockets

	Broken   chan error   // is sent why the session cannot go on
	lastWarn atomic.Int64 // UnixNano of the last warning about a call
}

// Init has a session belong to a node. blind is told if sockets cannot be looked at in the kernel
// although the session needs that.
func (s *Session) Init(n *Node, blind func()) {
	s.Node, s.Broken, s.blind = n, make(chan error, 1), blind
}

// Fail says that the session cannot go on. Whoever has made it must see to it that no program goes
// on without it.
func (s *Session) Fail(err error) {
	select {
	case s.Broken <- err:
	default: // it has been said
	}
}

// Respond answers a call with its outcome. What has not been decided yet it answers with EBADF, and
// never leaves to the kernel. The error is that of [seccompx.Listener.Respond].
func (s *Session) Respond(id uint64, out Outcome) error {
	switch out.State {
	case stateNative:
		return s.Listener.Continue(id)
	case StateReturns:
	default: // never to the kernel: it has not been decided that it may be
		out.Errno = unix.EBADF
	}
	if out.Errno != 0 {
		out.Value = 0
	}
	return s.Listener.Respond(id, out.Value, int(out.Errno))
}

// Warn logs what went wrong with a call, at most once a second: a program in a loop must not flood
// anybody, nor wait for whoever reads.
func (s *Session) Warn(msg string, args ...any) {
	now, last := time.Now().UnixNano(), s.lastWarn.Load()
	if now-last < int64(time.Second) || !s.lastWarn.CompareAndSwap(last, now) {
		return
	}
	go s.Log.Warn(msg, args...)
}
