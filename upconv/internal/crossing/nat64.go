package crossing

import (
	"fmt"
	"net/netip"

	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Translate returns the IPv6 address that is connected to for dst. The error is
// nat64.ErrStillLooking as long as it is not known whether there is a prefix, see WhenFound; or
// else one of policy.Translate.
func (s *Session) Translate(route *policy.Route, dst netip.Addr) (netip.Addr, error) {
	if route.Kind != policy.NAT64 || route.Target != policy.AutoPrefix {
		return policy.Translate(route, dst, s.Rules.Load().Mappings, nat64.Prefix{})
	}
	if addr, ok := s.Rules.Load().Mappings.To6(dst); ok {
		return addr, nil
	}
	if s.Discovery == nil {
		return netip.Addr{}, policy.ErrNoPrefix
	}
	prefixes, err := s.Discovery.Prefixes()
	switch {
	case err == nat64.ErrStillLooking:
		return netip.Addr{}, err
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%w: %w", policy.ErrNoPrefix, err)
	}
	var addr netip.Addr
	for _, p := range prefixes { // the well-known one, which is not for all addresses, comes last
		if addr, err = p.Embed(dst); err == nil {
			break
		}
	}
	return addr, err
}

// WhenFound has a connect(2), or a send, be decided anew when it is known whether there is a
// prefix.
func (s *Session) WhenFound() session.Outcome {
	return session.AsideBy(func(d session.Decider, c *session.Call) session.Outcome {
		if errno := d.Base().Aside.Stop.Await(s.Discovery.Looked()); errno != 0 {
			return session.Answer(errno)
		}
		return c.Decide(d, c)
	})
}
