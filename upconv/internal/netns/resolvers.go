package netns

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

// Discoverer returns what asks the resolvers of the origin, as the process pid, the command, sees
// them. They are those of /etc/netns/NAME/resolv.conf where ip-netns(8) has them for the namespace
// that the command was started in.
func (o *Origin) Discoverer(name string, pid int) func(context.Context) ([]netip.Prefix, time.Duration, error) {
	return func(ctx context.Context) ([]netip.Prefix, time.Duration, error) {
		if o.Egress == nil {
			return nil, 0, fmt.Errorf("%w: the command's network namespace cannot be entered (nat64:PREFIX/LEN needs no resolver)", nat64.ErrNoResolver)
		}
		var conf []byte
		var err error
		for _, path := range []string{resolvConfOf(name), fmt.Sprintf("/proc/%d/root/etc/resolv.conf", pid), "/etc/resolv.conf"} {
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
		return nat64.Discover(ctx, o.Egress.NS.DialContext, string(conf))
	}
}

// resolvConfOf returns the resolv.conf that ip-netns(8) has for a namespace, named as for
// Open; "" for none.
func resolvConfOf(name string) string {
	if name == "" || name == policy.Host || name[0] == '/' {
		return ""
	}
	own := "/etc/netns/" + name + "/resolv.conf"
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return ""
}

// Discover is nat64.Discover through the resolvers of a network namespace, which is named as for
// Open; "" is the one that upconv was started in. They are those of
// /etc/netns/NAME/resolv.conf, where ip-netns(8) has them, and otherwise of /etc/resolv.conf.
func Discover(ctx context.Context, name string) ([]netip.Prefix, error) {
	path := resolvConfOf(name)
	if path == "" {
		path = "/etc/resolv.conf"
	}
	conf, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nat64.ErrNoResolver, err)
	}
	dial := (&net.Dialer{}).DialContext
	if name != "" {
		ns, err := Open(name)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		dial = ns.DialContext
	}
	prefixes, _, err := nat64.Discover(ctx, dial, string(conf))
	return prefixes, err
}
