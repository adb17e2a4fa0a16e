package policy

import (
	"errors"
	"net/netip"

	"github.com/upconv/upconv/upconv/nat64"
)

// ErrNoPrefix is what Translate answers for nat64:auto as long as no prefix has been found.
var ErrNoPrefix = errors.New("no NAT64 prefix found")

// Translate returns the IPv6 address that is connected to for an IPv4 destination whose route is a
// NAT64 or an Inet6. For a NAT64 a mapping takes precedence (RFC 7757 section 3.1); found is the
// prefix that nat64.Discover has found, for nat64:auto. The error is ErrNoPrefix or one of
// nat64.Prefix.Embed. Translate does not allocate unless it fails.
func Translate(route *Route, dst netip.Addr, mappings *nat64.Mappings, found nat64.Prefix) (netip.Addr, error) {
	if route.Kind == Inet6 {
		return route.Addr(), nil
	}
	if mapped, ok := mappings.To6(dst); ok {
		return mapped, nil
	}
	if prefix, ok := route.Prefix(); ok {
		found = prefix
	}
	if !found.IsValid() {
		return netip.Addr{}, ErrNoPrefix
	}
	return found.Embed(dst)
}
