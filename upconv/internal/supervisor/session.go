package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/guard"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/receive"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/stream"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Session answers the notifications of one listener. Its workers are goroutines locked to OS
// threads that live in the policy's first egress, so that a socket there costs no hand-over.
type Session struct {
	guard.Session
	node *Node
	*crew
	home        *netns.Egress // where the workers live; nil: where upconv was started
	udp         policy.UDPMode
	swapAt      policy.SwapAt
	stopLooking context.CancelFunc
}

// Parts are what a session takes besides its plan. They are the session's from then on.
type Parts struct {
	Listener *seccompx.Listener
	Origin   *netns.Origin
	Events   *event.Log // nil: nobody wants them
	// Discover asks the resolvers of the origin for the prefixes of nat64:auto, once.
	Discover func(context.Context) ([]netip.Prefix, time.Duration, error)
}

// NewSession returns a session that nobody serves before Start. What the plan and the parts have is
// the session's from then on.
func (n *Node) NewSession(p *Plan, with Parts) *Session {
	s := n.newSession()
	s.Listener, s.Origin, s.Events = with.Listener, with.Origin, with.Events
	s.home, s.Needs, s.udp, s.swapAt = p.home, p.needs, p.udp, p.swapAt
	s.Rules.Store(p.rules)
	s.Restricted.Any.Store(p.needs.Swaps && stream.AreRestricted())
	s.Used.Note(p.needs.Passes)
	s.Fresh.Learn(s.Origin)
	if e := s.Origin.Egress; e != nil && !s.Needs.AtSocket() && (s.home == nil || p.rules.Policy.Fallback().Kind != policy.Netns) {
		s.home = e // where most sockets are made
	} else if e != nil && s.home.Cookie == e.Cookie {
		e.NS.Close()
		s.Origin.Egress = s.home
	}
	if p.rules.Policy.Discovers() {
		s.Discovery = nat64.NewDiscovery(with.Discover, n.Log)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sessions[s] = struct{}{}
	return s
}

// newSession returns a session that has nothing yet but its node.
func (n *Node) newSession() *Session {
	s := &Session{node: n, crew: newCrew()}
	s.Init(n.Node, s.watch.rouseIfAsleep)
	return s
}

// NoteInherited takes notice of descriptors that the command is given: sets and sockets which
// nobody was seen to make. They stay the caller's.
func (s *Session) NoteInherited(fds []int) {
	for _, fd := range fds {
		if what, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && what == "anon_inode:[eventpoll]" {
			s.Epolls.Any.Store(true)
		}
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err == nil && (domain == unix.AF_INET || domain == unix.AF_INET6) { // with options that somebody may have set
			s.Used.SetAll()
			s.NoteBound(fd)
		}
	}
}

// GetReady has the session get ready to look at sockets in the kernel, a little later.
func (s *Session) GetReady() {
	if s.Needs.Sees {
		time.AfterFunc(session.SightsDelay, s.OpenSights)
	}
}

// Replace puts a policy into the place of the one in force. It returns an error, and changes
// nothing, if the policy needs what the command was not started for.
func (s *Session) Replace(p *policy.Policy, mappings *nat64.Mappings) error {
	if err := s.canTake(p); err != nil {
		return err
	}
	before := s.Rules.Load().Egress
	egress, _, err := netns.OpenEgresses(p, before)
	if err != nil {
		return err
	}
	// Sockets that are in an egress of an earlier policy are still known to be, and what has just
	// been decided by that is still carried out.
	for target, e := range before {
		if egress[target] == nil {
			egress[target] = e
		} else if !slices.Contains(slices.Collect(maps.Values(egress)), e) {
			egress[fmt.Sprintf("/earlier/%d", e.Cookie)] = e
		}
	}
	s.Rules.Store(session.NewRuleset(p, mappings, egress))
	return nil
}

// Wait waits until nobody is left under the filter, or the session cannot go on: then it returns
// why.
func (s *Session) Wait() error {
	select {
	case err := <-s.Broken:
		return err
	case <-s.gone:
		s.all.Wait()
		return nil
	}
}

// close gives up all that the session has, its listener included. Nobody may be left under the
// filter.
func (s *Session) close() {
	s.node.mu.Lock()
	delete(s.node.sessions, s)
	s.node.mu.Unlock()
	if s.stopLooking != nil {
		s.stopLooking()
	}
	s.Receivers.Close()
	s.Companions.Close()
	s.Listener.Close()
	all := slices.Collect(maps.Values(s.Rules.Load().Egress))
	if e := s.Origin.Egress; e != nil && !slices.Contains(all, e) {
		all = append(all, e)
	}
	for _, e := range all {
		e.NS.Close()
	}
	s.Origin.Close()
}

// Start lets workers loose on the listener and returns when all of them are ready. They end when
// nobody is left under the filter.
func (s *Session) Start() error {
	if s.Needs.Crosses() {
		receive.LengthFirst() // now, when there are descriptors for sure
	}
	const n = FirstWorkers
	s.awake.Store(n)
	s.workers.Store(n)
	ready := make(chan error)
	if s.Discovery != nil {
		looking, stop := context.WithCancel(context.Background())
		s.stopLooking = stop
		go s.Discovery.Run(looking)
	}
	for i := range n {
		s.startWorker(i, ready)
	}
	var failed error
	for range n {
		failed = errors.Join(failed, <-ready)
	}
	go s.watchWorkers()
	return failed
}

// startWorker starts the worker of an index. It says to ready whether it could get to where workers
// live.
func (s *Session) startWorker(index int, ready chan<- error) {
	w := s.newWorker()
	w.index, w.extra = index, index > 0
	s.watch.workers[index].Store(w)
	s.all.Add(1)
	s.node.employ(w, ready)
}
