package supervisor

import (
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// portSet is a set of ports. Its methods may be called at the same time.
type portSet [1 << 16 / 64]atomic.Uint64

func (p *portSet) add(port uint16) { p[port/64].Or(1 << (port % 64)) }

func (p *portSet) remove(port uint16) { p[port/64].And(^uint64(1 << (port % 64))) }

func (p *portSet) has(port uint16) bool { return p[port/64].Load()&(1<<(port%64)) != 0 }

// noteBound takes notice of the port of a socket that the command is given.
func (s *swapSession) noteBound(fd int) {
	var sock sockstate.Socket
	if sock.ReadName(fd) {
		s.asked.add(sock.Port())
	}
}
