package upconv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// translate returns the IPv6 address that is connected to for dst.
func (s *session) translate(route *policy.Route, dst netip.Addr) (netip.Addr, error) {
	if route.Kind != policy.NAT64 || route.Target != policy.AutoPrefix {
		return policy.Translate(route, dst, s.rules.Load().mappings, nat64.Prefix{})
	}
	if addr, ok := s.rules.Load().mappings.To6(dst); ok {
		return addr, nil
	}
	if s.discovery == nil {
		return netip.Addr{}, policy.ErrNoPrefix
	}
	prefixes, err := s.discovery.Prefixes()
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

// discoverer returns what asks the resolvers of the origin, as the process pid, the command, sees
// them. They are those of /etc/netns/NAME/resolv.conf where ip-netns(8) has them for the namespace
// that the command was started in.
func (o *origin) discoverer(netns string, pid int) func(context.Context) ([]netip.Prefix, time.Duration, error) {
	return func(ctx context.Context) ([]netip.Prefix, time.Duration, error) {
		if o.egress == nil {
			return nil, 0, fmt.Errorf("%w: the command's network namespace cannot be entered (nat64:PREFIX/LEN needs no resolver)", nat64.ErrNoResolver)
		}
		var conf []byte
		var err error
		for _, path := range []string{netnsResolvConf(netns), fmt.Sprintf("/proc/%d/root/etc/resolv.conf", pid), "/etc/resolv.conf"} {
			if path == "" {
				continue
			}
			if conf, err = os.ReadFile(path); err == nil {
				break
			}
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", nat64.ErrNoResolver, err)
		}
		return nat64.Discover(ctx, o.egress.ns.DialContext, string(conf))
	}
}

// netnsResolvConf returns the resolv.conf that ip-netns(8) has for a namespace, named as for
// OpenNamespace; "" for none.
func netnsResolvConf(netns string) string {
	if netns == "" || netns == policy.Host || netns[0] == '/' {
		return ""
	}
	if own := "/etc/netns/" + netns + "/resolv.conf"; exists(own) {
		return own
	}
	return ""
}

// whenFound has a connect(2), or a send, taken up anew when it is known whether there is a prefix.
func (s *session) whenFound(c *call) outcome {
	return s.aside(c, func(w *worker, c *call) outcome {
		if errno := w.aside.stop.Await(s.discovery.Looked()); errno != 0 {
			return answer(errno)
		}
		if c.sends {
			return sendAgain(w, c)
		}
		return w.connect(c)
	})
}

// DiscoverIn is nat64.Discover through the resolvers of a network namespace, which is named as for
// OpenNamespace; "" is the one that upconv was started in. They are those of
// /etc/netns/NAME/resolv.conf, where ip-netns(8) has them, and otherwise of /etc/resolv.conf.
func DiscoverIn(ctx context.Context, netns string) ([]netip.Prefix, error) {
	path := netnsResolvConf(netns)
	if path == "" {
		path = "/etc/resolv.conf"
	}
	conf, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nat64.ErrNoResolver, err)
	}
	dial := (&net.Dialer{}).DialContext
	if netns != "" {
		ns, err := OpenNamespace(netns)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		dial = ns.DialContext
	}
	prefixes, _, err := nat64.Discover(ctx, dial, string(conf))
	return prefixes, err
}
