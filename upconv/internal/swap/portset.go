package swap

import (
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// PortSet is a set of ports. Its methods may be called at the same time.
type PortSet [1 << 16 / 64]atomic.Uint64

func (p *PortSet) Add(port uint16) { p[port/64].Or(1 << (port % 64)) }

func (p *PortSet) Remove(port uint16) { p[port/64].And(^uint64(1 << (port % 64))) }

func (p *PortSet) Has(port uint16) bool { return p[port/64].Load()&(1<<(port%64)) != 0 }

// NoteBound takes notice of the port of a socket that the command is given.
func (s *Session) NoteBound(fd int) {
	var sock sockstate.Socket
	if sock.ReadName(fd) {
		s.AskedPorts.Add(sock.Port())
	}
}
