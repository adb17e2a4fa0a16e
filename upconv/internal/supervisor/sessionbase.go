package supervisor

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

// Session is what upconv has for one listener, as far as all rooms need it. The rooms above embed it, and
// add theirs.
type sessionSession struct {
	*sessionNode
	listener *seccompx.Listener
	rules    atomic.Pointer[ruleset]
	origin   *netns.Origin
	needs    needs      // what the filter was made for
	events   *event.Log // nil: nobody wants them

	used  sockstate.OptionsUsed
	fresh sockstate.FreshSockets // what nobody has done anything to

	sights atomic.Pointer[sights] // nil: not permitted, or not needed, or not yet
	open   sync.Once              // has it become clear which
	blind  func()                 // is told if sockets cannot be looked at after all

	swapped atomic.Bool   // some socket has been: so one that is to go direct may be one of an egress
	moved   atomic.Bool   // and some datagram socket
	moves   atomic.Uint64 // how many of those have been
	made    madeSockets

	broken   chan error   // is sent why the session cannot go on
	lastWarn atomic.Int64 // UnixNano of the last warning about a call
}

// fail says that the session cannot go on. Whoever has made it must see to it that no program goes
// on without it.
func (s *sessionSession) fail(err error) {
	select {
	case s.broken <- err:
	default: // it has been said
	}
}

// respond sends the outcome of a call.
func (s *sessionSession) respond(id uint64, out outcome) error {
	switch out.state {
	case stateNative:
		return s.listener.Continue(id)
	case stateReturns:
	default: // never to the kernel: it has not been decided that it may be
		out.errno = unix.EBADF
	}
	if out.errno != 0 {
		out.value = 0
	}
	return s.listener.Respond(id, out.value, int(out.errno))
}

// warn logs what went wrong with a call, at most once a second: a program in a loop must not flood
// anybody, nor wait for whoever reads.
func (s *sessionSession) warn(msg string, args ...any) {
	now, last := time.Now().UnixNano(), s.lastWarn.Load()
	if now-last < int64(time.Second) || !s.lastWarn.CompareAndSwap(last, now) {
		return
	}
	go s.log.Warn(msg, args...)
}
