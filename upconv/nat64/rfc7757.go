package nat64

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/upconv/upconv/upconv/internal/ip4"
)

// Mapping says which IPv6 addresses stand for the IPv4 addresses of a prefix, one by one: an
// Explicit Address Mapping of RFC 7757 section 3. For destinations whose route is nat64 it takes
// precedence over the route's prefix.
type Mapping struct {
	IPv4, IPv6 netip.Prefix
}

func (m Mapping) String() string { return m.IPv4.String() + " <-> " + m.IPv6.String() }

// MappingError says what is wrong with a mapping.
type MappingError struct {
	Index int  // into what NewMappings was given
	IPv6  bool // it is the IPv6 prefix that is wrong, or wrong too
	Msg   string
}

func (e *MappingError) Error() string { return fmt.Sprintf("mapping %d: %s", e.Index+1, e.Msg) }

// Mappings is a table of mappings: RFC 7757's EAMT. It is immutable and safe for concurrent use. A
// nil *Mappings is an empty one.
type Mappings struct {
	by4 []mappingsOfLength[uint32]
	by6 []mappingsOfLength[[16]byte]
}

// mappingsOfLength are the mappings whose prefix has so many bits, by its address.
type mappingsOfLength[K comparable] struct {
	bits int
	by   map[K]Mapping
}

// Check says what is wrong with the mapping by itself; nil if nothing is.
func (m Mapping) Check() *MappingError {
	fail := func(v6 bool, format string, args ...any) *MappingError {
		return &MappingError{IPv6: v6, Msg: fmt.Sprintf(format, args...)}
	}
	switch {
	case !m.IPv4.IsValid() || !m.IPv4.Addr().Is4():
		return fail(false, "not an IPv4 prefix such as 192.0.2.0/24")
	case m.IPv4 != m.IPv4.Masked():
		return fail(false, "%s has bits set beyond its length; meant %s?", m.IPv4, m.IPv4.Masked())
	case !m.IPv6.IsValid() || !m.IPv6.Addr().Is6() || m.IPv6.Addr().Is4In6():
		return fail(true, "not an IPv6 prefix such as 2001:db8:aaaa::/120")
	case m.IPv6 != m.IPv6.Masked():
		return fail(true, "%s has bits set beyond its length; meant %s?", m.IPv6, m.IPv6.Masked())
	case m.IPv6.Addr().IsMulticast(), m.IPv6.Addr().IsLinkLocalUnicast(), m.IPv6.Contains(netip.IPv6Unspecified()):
		return fail(true, "%s is not a prefix of addresses to connect to", m.IPv6)
	case 32-m.IPv4.Bits() > 128-m.IPv6.Bits():
		return fail(true, "%s has fewer addresses than %s; /%d would be as many", m.IPv6, m.IPv4, 96+m.IPv4.Bits())
	}
	return nil
}

// NewMappings makes a table. Prefixes may overlap: the longest one counts. The IPv6 prefix must
// have room for all addresses of the IPv4 prefix; what is left is zero (RFC 7757 section 3.3). The
// error is a *MappingError.
func NewMappings(list []Mapping) (*Mappings, error) {
	if len(list) == 0 {
		return nil, nil
	}
	t := &Mappings{}
	seen4, seen6 := map[netip.Prefix]int{}, map[netip.Prefix]int{}
	for i, m := range list {
		if err := m.Check(); err != nil {
			err.Index = i
			return nil, err
		}
		if first, ok := seen4[m.IPv4]; ok {
			return nil, &MappingError{i, false, fmt.Sprintf("%s is mapped already, by mapping %d", m.IPv4, first+1)}
		}
		if first, ok := seen6[m.IPv6]; ok {
			return nil, &MappingError{i, true, fmt.Sprintf("%s is mapped already, by mapping %d", m.IPv6, first+1)}
		}
		seen4[m.IPv4], seen6[m.IPv6] = i, i
		insertMapping(&t.by4, m.IPv4.Bits(), ip4.Number(m.IPv4.Addr()), m)
		insertMapping(&t.by6, m.IPv6.Bits(), m.IPv6.Addr().As16(), m)
	}
	return t, nil
}

// insertMapping keeps the longest prefixes first.
func insertMapping[K comparable](table *[]mappingsOfLength[K], bits int, key K, m Mapping) {
	i, ok := slices.BinarySearchFunc(*table, bits, func(l mappingsOfLength[K], bits int) int { return bits - l.bits })
	if !ok {
		*table = slices.Insert(*table, i, mappingsOfLength[K]{bits, map[K]Mapping{}})
	}
	(*table)[i].by[key] = m
}

// To6 returns the IPv6 address that stands for an IPv4 address: RFC 7757 section 3.3.1. ok is false
// where no mapping is about it. To6 does not allocate.
func (t *Mappings) To6(addr netip.Addr) (mapped netip.Addr, ok bool) {
	m, ok := t.Of(addr)
	if !ok {
		return netip.Addr{}, false
	}
	// The bits behind the IPv4 prefix go behind the IPv6 prefix.
	v6 := m.IPv6.Addr().As16()
	suffix := uint128{lo: uint64(ip4.Number(addr) &^ ip4.Mask(m.IPv4.Bits()))}.shl(128 - m.IPv6.Bits() - (32 - m.IPv4.Bits()))
	binary.BigEndian.PutUint64(v6[:8], binary.BigEndian.Uint64(v6[:8])|suffix.hi)
	binary.BigEndian.PutUint64(v6[8:], binary.BigEndian.Uint64(v6[8:])|suffix.lo)
	return netip.AddrFrom16(v6), true
}

// Of returns the mapping for an IPv4 address: the one with the longest prefix.
func (t *Mappings) Of(addr netip.Addr) (m Mapping, ok bool) {
	if t == nil || !addr.Is4() {
		return Mapping{}, false
	}
	v4 := ip4.Number(addr)
	for i := range t.by4 {
		if m, ok = t.by4[i].by[v4&ip4.Mask(t.by4[i].bits)]; ok {
			return m, true
		}
	}
	return Mapping{}, false
}

// To4 returns the IPv4 address that an IPv6 address stands for: RFC 7757 section 3.3.2. ok is false
// where no mapping is about it. To4 does not allocate.
func (t *Mappings) To4(addr netip.Addr) (mapped netip.Addr, ok bool) {
	if t == nil || !addr.Is6() || addr.Is4In6() || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	for i := range t.by6 {
		prefix, _ := addr.Prefix(t.by6[i].bits)
		m, ok := t.by6[i].by[prefix.Addr().As16()]
		if !ok {
			continue
		}
		v6 := addr.As16()
		suffix := uint128{binary.BigEndian.Uint64(v6[:8]), binary.BigEndian.Uint64(v6[8:])}.shr(128 - m.IPv6.Bits() - (32 - m.IPv4.Bits()))
		return ip4.Addr(ip4.Number(m.IPv4.Addr()) | uint32(suffix.lo)&^ip4.Mask(m.IPv4.Bits())), true
	}
	return netip.Addr{}, false
}

type uint128 struct{ hi, lo uint64 }

func (u uint128) shl(n int) uint128 {
	if n >= 64 {
		return uint128{u.lo << (n - 64), 0}
	}
	return uint128{u.hi<<n | u.lo>>(64-n), u.lo << n}
}

func (u uint128) shr(n int) uint128 {
	if n >= 64 {
		return uint128{0, u.hi >> (n - 64)}
	}
	return uint128{u.hi >> n, u.lo>>n | u.hi<<(64-n)}
}
