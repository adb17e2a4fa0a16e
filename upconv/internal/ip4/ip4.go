// Package ip4 treats IPv4 addresses as numbers, of which the first octet is the most significant.
package ip4

import (
	"encoding/binary"
	"net/netip"
)

// Number returns an IPv4 address as a number. It panics for an address of another family.
func Number(addr netip.Addr) uint32 {
	b := addr.As4()
	return binary.BigEndian.Uint32(b[:])
}

// Addr returns the IPv4 address that a number stands for.
func Addr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// Mask returns a number whose first bits, 0 to 32, are set, and no others.
func Mask(bits int) uint32 { return ^uint32(0) << (32 - bits) }
