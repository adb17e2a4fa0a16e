package linux

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths of socket addresses: what connect(2) demands at least, and the most it takes.
const (
	SizeofFamily          = 2   // what connect(2) takes to disconnect: AF_UNSPEC alone
	SizeofSockaddrIn      = 16  // struct sockaddr_in
	SizeofSockaddrIn6Min  = 24  // SIN6_LEN_RFC2133, net/ipv6.h: without sin6_scope_id
	SizeofSockaddrIn6     = 28  // struct sockaddr_in6
	SizeofSockaddrStorage = 128 // struct sockaddr_storage
)

// MaxUnixName is how long sun_path is, unix(7).
const MaxUnixName = 108

// FamilyOf returns the address family of a socket address, 0 if it has none.
func FamilyOf(sa []byte) int {
	if len(sa) < SizeofFamily {
		return 0
	}
	return int(binary.NativeEndian.Uint16(sa))
}

// Destination returns the IPv4 destination in a socket address: that of an AF_INET address or the
// IPv4-mapped one of an AF_INET6 address (RFC 4291 section 2.5.5.2). ok is false for all others.
func Destination(sa []byte) (family int, dst netip.AddrPort, ok bool) {
	if len(sa) < SizeofSockaddrIn {
		return 0, dst, false
	}
	family = int(binary.NativeEndian.Uint16(sa))
	port := binary.BigEndian.Uint16(sa[2:])
	switch {
	case family == unix.AF_INET:
		return family, netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), port), true
	case family == unix.AF_INET6 && len(sa) >= SizeofSockaddrIn6Min:
		addr := netip.AddrFrom16([16]byte(sa[8:24]))
		if addr.Is4In6() {
			return family, netip.AddrPortFrom(addr.Unmap(), port), true
		}
	}
	return family, dst, false
}

// Inet6Destination returns the destination in an AF_INET6 address.
func Inet6Destination(sa []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(sa[8:24])), binary.BigEndian.Uint16(sa[2:]))
}

// SockaddrIn6 returns a struct sockaddr_in6, without sin6_scope_id. An IPv4 address becomes an
// IPv4-mapped one.
func SockaddrIn6(addr netip.Addr, port uint16) (sa [SizeofSockaddrIn6]byte) {
	binary.NativeEndian.PutUint16(sa[:], unix.AF_INET6)
	binary.BigEndian.PutUint16(sa[2:], port)
	bytes := addr.As16()
	copy(sa[8:], bytes[:])
	return sa
}

// AddressIn is the bytes of the IP address within a struct sockaddr_in or sockaddr_in6.
func AddressIn(domain int, name *[SizeofSockaddrIn6]byte) []byte {
	if domain == unix.AF_INET6 {
		return name[8:24] // sin6_addr
	}
	return name[4:8] // sin_addr
}

// Loopback4 is 127.0.0.1.
var Loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
