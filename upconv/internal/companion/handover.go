package companion

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Unread is what has come for a socket, and nobody has received yet. It is to come for another one.
type Unread struct {
	raw     outlet
	to      netip.AddrPort
	packets [][]byte // datagrams, behind handedOn
	from    []netip.AddrPort
}

// TakeOut takes it out of a socket in whose place current is, if it can be handed over to that.
// There is an outlet in the namespace of current.
func (k *Set) TakeOut(was *Companion, current int) (u Unread) {
	var now sockstate.Socket
	if !sockstate.ExamineDatagram(current, &now) || now.Port() == 0 {
		return u
	}
	addr, _ := netip.AddrFromSlice(now.Address())
	u.to = netip.AddrPortFrom(addr.Unmap(), now.Port())
	k.mu.Lock()
	u.raw = k.raw[now.Netns]
	k.mu.Unlock()
	packet := make([]byte, handedOn+linux.MaxPacket)
	for range maxHandedOver {
		n, from, err := unix.Recvfrom(was.FD, packet[handedOn:], unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			break
		}
		if err == nil {
			u.packets, u.from = append(u.packets, slices.Clone(packet[:handedOn+n])), append(u.from, was.sender(from))
		}
	}
	return u
}

// HandOver sends it there.
func (u *Unread) HandOver() {
	for i, packet := range u.packets {
		u.raw.send(packet, u.from[i], u.to)
	}
}

// maxHandedOver is how many datagrams that have come for a socket are handed over at most.
const maxHandedOver = 256
