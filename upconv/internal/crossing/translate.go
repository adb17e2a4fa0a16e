package crossing

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// DummyAddr is what stands for an IPv6 address that no IPv4 address stands for: RFC 7600 section
// 4.8, of IPv4 packets whose source has none.
var DummyAddr = netip.AddrFrom4([4]byte{192, 0, 0, 8})

// Original returns what a program is told of a peer of its socket, whose passport is p: the IPv4
// address that addr, an IPv6 one, has been translated from, or IPv4-mapped. The port stays. Where
// there is none it is 192.0.0.8.
func (s *Session) Original(addr netip.AddrPort, p *passport.Passport) netip.AddrPort {
	v4, ok := s.OriginalAddr(addr.Addr(), p)
	if !ok {
		v4 = DummyAddr
	}
	return netip.AddrPortFrom(v4, addr.Port())
}

// OriginalAddr is Original without a port; ok is false where addr is not the translation of
// anything.
func (s *Session) OriginalAddr(addr netip.Addr, p *passport.Passport) (v4 netip.Addr, ok bool) {
	addr = addr.WithZone("")
	if v4 = addr.Unmap(); v4.Is4() {
		return v4, true
	}
	rules := s.Rules.Load()
	b := s.backward(rules)
	only, fixed := b.fixed[addr]
	if fixed {
		proto := policy.UDP
		if p.Proto == unix.IPPROTO_TCP || p.Proto == unix.IPPROTO_MPTCP {
			proto = policy.TCP
		}
		switch route := rules.Policy.Decide(p.Peer, proto, nil).Route; {
		case route.Kind == policy.Inet6 && route.Addr().WithZone("") == addr:
			return p.Peer.Addr(), true
		case only.IsValid():
			return only, true
		}
	}
	if v4, ok = rules.Mappings.To4(addr); ok {
		return v4, true
	}
	for _, prefix := range b.prefixes {
		if v4, err := prefix.ExtractAny(addr); err == nil {
			return v4, true
		}
	}
	if s.Discovery != nil {
		prefixes, _ := s.Discovery.Prefixes()
		for _, prefix := range prefixes {
			if v4, err := prefix.ExtractAny(addr); err == nil {
				return v4, true
			}
		}
	}
	return p.Peer.Addr(), fixed
}

// backward is what a policy translates to, for the way back.
type backward struct {
	of       *session.Ruleset
	prefixes []nat64.Prefix // the longest first
	// fixed are the addresses of inet6 routes, each with the one IPv4 address that it is for; the
	// zero Addr if there are several.
	fixed map[netip.Addr]netip.Addr
}

// backward returns what the policy in force translates to and, behind that, what those before did:
// there are sockets from then.
func (s *Session) backward(rules *session.Ruleset) *backward {
	before := s.back.Load()
	if before != nil && before.of == rules {
		return before
	}
	b := &backward{of: rules, fixed: map[netip.Addr]netip.Addr{}}
	add := func(prefix nat64.Prefix) {
		if !slices.Contains(b.prefixes, prefix) {
			b.prefixes = append(b.prefixes, prefix)
		}
	}
	note := func(route *policy.Route, only netip.Addr) {
		switch prefix, ok := route.Prefix(); {
		case ok:
			add(prefix)
		case route.Kind == policy.Inet6:
			addr := route.Addr().WithZone("")
			if other, seen := b.fixed[addr]; seen && other != only {
				only = netip.Addr{}
			}
			b.fixed[addr] = only
		}
	}
	for i := range rules.Policy.Rules() {
		rule := &rules.Policy.Rules()[i]
		only := netip.Addr{}
		if rule.Dest.IsSingleIP() {
			only = rule.Dest.Addr()
		}
		note(&rule.Route, only)
	}
	note(rules.Policy.Fallback(), netip.Addr{})
	slices.SortStableFunc(b.prefixes, func(p, q nat64.Prefix) int { return q.Netip().Bits() - p.Netip().Bits() })
	if before != nil {
		for _, prefix := range before.prefixes {
			add(prefix)
		}
		for addr, only := range before.fixed {
			if _, ok := b.fixed[addr]; !ok {
				b.fixed[addr] = only
			}
		}
	}
	s.back.Store(b)
	return b
}
