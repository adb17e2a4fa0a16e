// Package nat64 says which IPv6 addresses stand for IPv4 ones: by a prefix (RFC 6052), which the
// network's resolvers may tell of (RFC 7050), or by explicit mappings (RFC 7757). But for Discover,
// which asks the resolvers, it is pure.
package nat64

import (
	"errors"
	"fmt"
	"net/netip"
)

// Prefix is an IPv6 prefix that IPv4 addresses are embedded in, RFC 6052 section 2. It is
// comparable and immutable. The zero value is no prefix: IsValid tells.
type Prefix struct {
	addr netip.Addr
	bits uint8
}

// WellKnownPrefix is 64:ff9b::/96, RFC 6052 section 2.1, which takes global IPv4 addresses only.
var WellKnownPrefix = Prefix{netip.MustParseAddr("64:ff9b::"), 96}

// uOctet is the octet of an IPv6 address that no part of an IPv4 address is put in: RFC 6052
// section 2.2.
const uOctet = 8

// PrefixError says why an IPv6 prefix cannot be one of RFC 6052.
type PrefixError struct {
	Prefix netip.Prefix
	// Length is set where the length is what is wrong.
	Length bool
	Msg    string
}

func (e *PrefixError) Error() string { return fmt.Sprintf("NAT64 prefix %s: %s", e.Prefix, e.Msg) }

// NotGlobalError is what WellKnownPrefix answers for an IPv4 address that is not global, and that
// it therefore must not represent: RFC 6052 section 3.1.
type NotGlobalError struct {
	Addr   netip.Addr
	Block  netip.Prefix // of the special-purpose registry, RFC 6890
	Source string       // the RFC that makes the block special
}

func (e *NotGlobalError) Error() string {
	return fmt.Sprintf("%s is not global (%s, %s), and 64:ff9b::/96 must not represent such addresses (RFC 6052 section 3.1)", e.Addr, e.Block, e.Source)
}

// Errors of Embed and Extract for addresses that they are not for.
var (
	ErrNotIPv4     = errors.New("not an IPv4 address")
	ErrNotEmbedded = errors.New("no IPv4 address is embedded in it under this prefix")
)

// NewPrefix returns the prefix. It must have one of the lengths 32, 40, 48, 56, 64 and 96, no bits
// beyond its length, zero bits 64 to 71 (RFC 6052 section 2.2) and be one that unicast packets can
// be sent to. The error is a *PrefixError.
func NewPrefix(p netip.Prefix) (Prefix, error) {
	fail := func(length bool, format string, args ...any) (Prefix, error) {
		return Prefix{}, &PrefixError{p, length, fmt.Sprintf(format, args...)}
	}
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() {
		return fail(false, "not an IPv6 prefix such as 2001:db8:64::/96")
	}
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
	default:
		return fail(true, "RFC 6052 knows the lengths 32, 40, 48, 56, 64 and 96")
	}
	addr := p.Addr()
	switch {
	case p != p.Masked():
		return fail(false, "has bits set beyond its length; meant %s?", p.Masked())
	case addr.As16()[uOctet] != 0:
		return fail(false, "bits 64 to 71 must be zero (RFC 6052 section 2.2)")
	case addr.IsMulticast(), addr.IsLinkLocalUnicast(), p.Contains(netip.IPv6Unspecified()):
		return fail(false, "not a prefix that a NAT64 can have")
	}
	return Prefix{addr, uint8(p.Bits())}, nil
}

// IsValid reports whether it is a prefix.
func (p Prefix) IsValid() bool { return p.bits != 0 }

// Netip returns the prefix as package net/netip has it.
func (p Prefix) Netip() netip.Prefix { return netip.PrefixFrom(p.addr, int(p.bits)) }

func (p Prefix) String() string { return p.Netip().String() }

// octets returns the positions of the four octets of the IPv4 address: RFC 6052 section 2.2.
func (p Prefix) octets() [4]int { return octets64(int(p.bits)) }

func octets64(bits int) (at [4]int) {
	pos := bits / 8
	for i := range at {
		if pos == uOctet {
			pos++
		}
		at[i] = pos
		pos++
	}
	return at
}

// Embed returns the IPv6 address that stands for an IPv4 address; octet u and the suffix are zero.
// The error is ErrNotIPv4 or, under WellKnownPrefix, a *NotGlobalError. Embed does not
// allocate unless it fails.
func (p Prefix) Embed(addr netip.Addr) (netip.Addr, error) {
	if !addr.Is4() || !p.IsValid() {
		return netip.Addr{}, ErrNotIPv4
	}
	if p == WellKnownPrefix {
		if block := nonGlobal(addr); block != nil {
			return netip.Addr{}, &NotGlobalError{addr, block.prefix, block.source}
		}
	}
	return p.put(addr), nil
}

// put is Embed without the checks.
func (p Prefix) put(addr netip.Addr) netip.Addr {
	v6, v4 := p.addr.As16(), addr.As4()
	for i, pos := range p.octets() {
		v6[pos] = v4[i]
	}
	return netip.AddrFrom16(v6)
}

// Extract returns the IPv4 address that an IPv6 address stands for. The suffix is reserved and not
// looked at (RFC 6052 section 2.2). The error is ErrNotEmbedded if the address is not under the
// prefix or octet u is not zero or, under WellKnownPrefix, a *NotGlobalError. Extract does not
// allocate unless it fails.
func (p Prefix) Extract(addr netip.Addr) (netip.Addr, error) {
	if !p.IsValid() || addr.Zone() != "" || !p.Netip().Contains(addr) {
		return netip.Addr{}, ErrNotEmbedded
	}
	v6 := addr.As16()
	if v6[uOctet] != 0 {
		return netip.Addr{}, ErrNotEmbedded
	}
	v4 := at4(v6, p.octets())
	if p == WellKnownPrefix {
		if block := nonGlobal(v4); block != nil {
			return netip.Addr{}, &NotGlobalError{v4, block.prefix, block.source}
		}
	}
	return v4, nil
}

// ExtractAny is Extract that takes addresses under WellKnownPrefix which are not global for what
// they say, too.
func (p Prefix) ExtractAny(addr netip.Addr) (netip.Addr, error) {
	v4, err := p.Extract(addr)
	if notGlobal, ok := err.(*NotGlobalError); ok {
		return notGlobal.Addr, nil
	}
	return v4, err
}

// at4 returns the IPv4 address that four octets of v6 make up.
func at4(v6 [16]byte, at [4]int) netip.Addr {
	return netip.AddrFrom4([4]byte{v6[at[0]], v6[at[1]], v6[at[2]], v6[at[3]]})
}
