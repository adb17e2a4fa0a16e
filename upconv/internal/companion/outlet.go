package companion

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/siit"
)

// outlet is what there is in a namespace to hand on through: raw sockets for packets of IPv4 and of
// IPv6; -1: none, as it is not permitted.
type outlet struct{ v4, v6 int }

func (o outlet) close() {
	for _, fd := range []int{o.v4, o.v6} {
		if fd >= 0 {
			linux.Close(fd)
		}
	}
}

// send sends a datagram, which is behind handedOn, from src to the socket with a name.
func (o outlet) send(packet []byte, src, to netip.AddrPort) {
	switch addr := src.Addr(); {
	case addr.Is4():
		o.send4(packet, src, to)
	case addr.Is6() && !addr.IsLinkLocalUnicast(): // that would be on the loopback's link
		o.send6(packet, src, to)
	}
}

// send4 sends to the socket's address, or to 127.0.0.1.
func (o outlet) send4(packet []byte, src, to netip.AddrPort) {
	dst := to.Addr()
	if !dst.Is4() || dst.IsUnspecified() {
		dst = linux.Loopback4
	}
	packet = packet[handedOn-ipv4Header-udpHeader:]
	if len(packet) > linux.MaxPacket {
		return
	}
	// RFC 791 and RFC 768. The kernel fills in the header's checksum and identification, raw(7);
	// that of UDP may be left out.
	h := packet[:ipv4Header+udpHeader]
	clear(h)
	h[0], h[8], h[9] = 4<<4|ipv4Header/4, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(h[2:], uint16(len(packet)))
	s4, d4 := src.Addr().As4(), dst.As4()
	copy(h[12:], s4[:])
	copy(h[16:], d4[:])
	binary.BigEndian.PutUint16(h[20:], src.Port())
	binary.BigEndian.PutUint16(h[22:], to.Port())
	binary.BigEndian.PutUint16(h[24:], uint16(len(packet)-ipv4Header))
	unix.Sendto(o.v4, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: d4})
}

// send6 is for an AF_INET6 socket that hears from an IPv6 peer. It sends to the socket's address,
// or to ::1.
func (o outlet) send6(packet []byte, src, to netip.AddrPort) {
	dst := to.Addr()
	if !dst.Is6() || dst.IsUnspecified() {
		dst = netip.IPv6Loopback()
	}
	length := len(packet) - ipv6Header
	if o.v6 < 0 || length > linux.MaxPacket {
		return
	}
	// RFC 8200, and RFC 768 with its section 8.1: there must be a checksum, which is not 0. It is
	// also about a pseudo header, and that comes to the same in any order.
	h := packet[:ipv6Header+udpHeader]
	clear(h)
	s16, d16 := src.Addr().As16(), dst.As16()
	copy(h[8:], s16[:])
	copy(h[24:], d16[:])
	binary.BigEndian.PutUint16(h[40:], src.Port())
	binary.BigEndian.PutUint16(h[42:], to.Port())
	binary.BigEndian.PutUint16(h[44:], uint16(length))
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[7] = unix.IPPROTO_UDP
	sum := siit.Checksum(packet)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[46:], sum)
	h[0], h[6], h[7] = 6<<4, unix.IPPROTO_UDP, 64
	unix.Sendto(o.v6, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Addr: d16})
}
