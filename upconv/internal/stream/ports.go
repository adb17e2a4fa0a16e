package stream

import (
	"sync"
	"time"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/swap"
)

// A stream that was bound takes its port along to the egress, and then the port is free in the
// origin. Natively bind(2) would say EADDRINUSE, and programs go through port after port until it
// does not. So upconv remembers, for each port, the latest stream that has left with it. When a
// program asks for that port again, the kernel is asked whether that stream is there yet (in
// TIME_WAIT it is, and so it is after a connect(2) that has failed), and whether the new socket
// could have the port beside it. No descriptor is kept for that, and what strangers have in the
// egress does not count.
//
// Datagram sockets need none of this: their companions have the port in the origin.

// ports is what is remembered of ports. Its size does not depend on how many sockets there are: at
// most 4 MB, when every port has been used.
type ports struct {
	gone swap.PortSet // those that a stream has left with; set and cleared with mu

	diagMu   sync.Mutex              // held while sock_diag(7) is asked
	diag     map[companion.Place]int // the sockets through which it is, by where they are
	sequence uint32
	reply    [16 << 10]byte

	mu sync.Mutex // of what follows
	// pages are the streams that have left, by port. One that is nil has none.
	pages [1 << 16 / portsPerPage]*[portsPerPage]departure
	// Threads that have asked for a port: the latest ones, by the low bits of the port and by those
	// of the thread's number.
	byPort   [256][4]asking
	byThread [256]asking
}

// asking is a bind(2) that the kernel may be about to make.
type asking struct {
	tid  int
	port uint16
	at   time.Duration // as session.Clock says
}

const (
	portsPerPage = 64
	// bindTakes is how long a thread may take from being told to go on to the end of its bind(2).
	bindTakes = 10 * time.Millisecond
)

// departure is the latest stream that has left the origin with a port.
type departure struct {
	to companion.Place // a namespace, or companion.OnInet6: the origin
	// moving is whether it is about to be connected. Then the rest is not known yet.
	moving      bool
	inet6       bool // it is an AF_INET6 socket
	cookie      uint64
	peerPort    uint16
	zone        uint32   // sin6_scope_id of the peer
	local, peer [16]byte // IPv4 addresses are IPv4-mapped
}

// of returns the entry of a port. The caller holds mu.
func (p *ports) of(port uint16) *departure {
	page := &p.pages[port/portsPerPage]
	if *page == nil {
		*page = new([portsPerPage]departure)
	}
	return &(*page)[port%portsPerPage]
}

// put notes a departure, in the place of an earlier one.
func (p *ports) put(port uint16, d departure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*p.of(port) = d
	p.gone.Add(port)
}

// ask is for a thread that asks for a port. It returns what has left with that; if nothing has, the
// kernel is to decide.
func (p *ports) ask(tid int, port uint16) (d departure, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := asking{tid, port, session.Clock()}
	p.byThread[tid%len(p.byThread)] = now
	latest, oldest := &p.byPort[int(port)%len(p.byPort)], 0
	for i := range latest {
		if latest[i].tid == tid {
			oldest = i
			break
		}
		if latest[i].at < latest[oldest].at {
			oldest = i
		}
	}
	latest[oldest] = now
	if p.gone.Has(port) {
		return *p.of(port), true
	}
	return d, false
}

// goesOn is for a thread that makes another call, and so has done its bind(2).
func (p *ports) goesOn(tid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byThread[tid%len(p.byThread)] = asking{tid: tid, at: session.Clock()}
}

// isContended reports whether another thread than tid was told to go on with its bind(2) to a port,
// and may not have done it yet. A thread that has made another call since has.
func (p *ports) isContended(tid int, port uint16) bool {
	now := session.Clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.byPort[int(port)%len(p.byPort)] {
		if a.port == port && a.tid != tid && now-a.at < bindTakes {
			if next := p.byThread[a.tid%len(p.byThread)]; next.tid != a.tid || next.at == a.at {
				return true
			}
		}
	}
	return false
}

// forget is for a departure that is over; if another one with the same port has begun meanwhile, it
// does nothing.
func (p *ports) forget(port uint16, d departure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *p.of(port) == d {
		p.gone.Remove(port)
	}
}

// cancel is for a stream that was about to leave for a place, and does not leave.
func (p *ports) cancel(port uint16, to companion.Place) {
	p.forget(port, departure{to: to, moving: true})
}
