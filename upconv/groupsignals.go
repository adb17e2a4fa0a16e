package upconv

import (
	"time"

	"golang.org/x/sys/unix"
)

// groupSignal is a signal that the process group was sent.
type groupSignal struct {
	sig  unix.Signal
	seen time.Time
}

// groupMemory is how long a signal to the group is taken for the twin of one to the front process.
const groupMemory = time.Second

// absorb asks the canary what the group was sent.
func (p *process) absorb() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	seen, err := p.canary.heard()
	if err != nil {
		return
	}
	for i, n := range seen {
		sig := unix.Signal(i + 1)
		for range n {
			p.group = append(p.group, groupSignal{sig, now})
		}
		if n > 0 && stopsGroup(sig) {
			p.groupStopped = now
		}
	}
}

// toTheGroup reports whether a signal that the front process got went to the whole process group,
// as from a terminal or from kill(2) with a negative pid. The kernel sends to the youngest process
// of a group first, so the canary has had it before the front process, and the command has had it
// too.
func (p *process) toTheGroup(sig unix.Signal) bool {
	p.absorb()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	found := false
	kept := p.group[:0]
	for _, g := range p.group {
		if !found && g.sig == sig {
			found = true
		} else if now.Sub(g.seen) < groupMemory {
			kept = append(kept, g)
		}
	}
	p.group = kept
	if stopsGroup(sig) && p.commandStopped.Load() {
		found = true // a terminal may send several, of which the canary sees one
	}
	if sig == unix.SIGCONT && now.Sub(p.groupStopped) < stopMemory {
		found = true // from before the stop, which has taken it away from the canary
	}
	return found
}

// stopMemory is how long after a stop signal to the group a SIGCONT is taken for one from before
// it.
const stopMemory = 100 * time.Millisecond

// stopsGroup reports whether a signal is one that a terminal driver sends to stop a process group.
func stopsGroup(sig unix.Signal) bool {
	return sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU
}
