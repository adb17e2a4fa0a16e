package swap

import (
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// PortSet is a set of ports. Its methods may be called at the same time.
type PortSet [1 << 16 / 64]atomic.Uint64

// Add puts a port into the set.
func (p *PortSet) Add(port uint16) { p[port/64].Or(1 << (port % 64)) }

// Remove takes a port out of the set.
func (p *PortSet) Remove(port uint16) { p[port/64].And(^uint64(1 << (port % 64))) }

// Has reports whether a port is in the set.
func (p *PortSet) Has(port uint16) bool { return p[port/64].Load()&(1<<(port%64)) != 0 }

// NoteBound takes the port of a socket that the command is given for one that a program has asked
// for. fd stays the caller's.
func (s *Session) NoteBound(fd int) {
	var sock sockstate.Socket
	if sock.ReadName(fd) {
		s.AskedPorts.Add(sock.Port())
	}
}
