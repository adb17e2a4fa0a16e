package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/netns"
)

// HasIPv4DefaultRoute reports whether programs in a network namespace reach IPv4 destinations
// natively. name is one of ip-netns(8), an absolute path or policy.Host; "" is the namespace that
// upconv was started in.
func HasIPv4DefaultRoute(name string) (bool, error) {
	var found bool
	look := func() error {
		table, err := os.ReadFile("/proc/thread-self/net/route")
		if err != nil {
			return err
		}
		found = hasDefaultRoute(string(table))
		return nil
	}
	if name == "" {
		err := look()
		return found, err
	}
	ns, err := netns.Open(name)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	err = ns.Do(look)
	return found, err
}

// hasDefaultRoute looks for a default route in a text of the form of /proc/net/route: interface,
// destination, gateway, flags, reference count, use, metric, mask, ..., numbers in hexadecimal.
func hasDefaultRoute(table string) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		var flags uint
		if _, err := fmt.Sscanf(f[3], "%x", &flags); err == nil && flags&(unix.RTF_UP|unix.RTF_REJECT) == unix.RTF_UP {
			return true
		}
	}
	return false
}

// OwnAddresses returns a function that reports whether an IPv4 address is assigned in a network
// namespace. name is one of ip-netns(8), an absolute path or policy.Host; "" is the namespace that
// upconv was started in.
func OwnAddresses(name string) (assigned func(netip.Addr) bool, err error) {
	own := map[netip.Addr]struct{}{}
	look := func() error {
		list, err := net.InterfaceAddrs()
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				own[prefix.Addr()] = struct{}{}
			}
		}
		return err
	}
	if name == "" {
		err = look()
	} else {
		ns, openErr := netns.Open(name)
		if openErr != nil {
			return nil, openErr
		}
		defer ns.Close()
		err = ns.Do(look)
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of the namespace: %w", err)
	}
	return func(a netip.Addr) bool { _, ok := own[a]; return ok }, nil
}

// DiscoverIn is nat64.Discover through the resolvers of a network namespace: one of ip-netns(8), an
// absolute path or policy.Host; "" is the one that upconv was started in. They are those of
// /etc/netns/NAME/resolv.conf, where ip-netns(8) has them, and otherwise of /etc/resolv.conf.
func DiscoverIn(ctx context.Context, name string) ([]netip.Prefix, error) {
	return netns.Discover(ctx, name)
}

// checkRoutes says what a plain upconv run would do here. Only where there is no IPv4 are the
// resolvers asked for a NAT64.
func checkRoutes() []Check {
	v4 := Check{Name: "IPv4 default route", Found: "no", Cost: "a plain upconv run uses nat64:auto here"}
	native, err := HasIPv4DefaultRoute("")
	switch {
	case err != nil:
		v4.Found, v4.Cost = err.Error(), ""
	case native:
		v4.OK, v4.Found, v4.Cost = true, "yes", "a plain upconv run has nothing to do here"
	}
	v6 := Check{Name: "IPv6 default route", OK: true, Found: "yes"}
	if table, err := os.ReadFile("/proc/thread-self/net/ipv6_route"); err != nil || !hasDefaultRoute6(string(table)) {
		v6.OK, v6.Found, v6.Cost = false, "no", "a NAT64 elsewhere cannot be reached"
	}
	if native {
		return []Check{v4, v6}
	}
	nat64 := Check{Name: "NAT64 prefix", OK: true}
	ctx, cancel := context.WithTimeoutCause(context.Background(), doctorTimeout, fmt.Errorf("none within %s", doctorTimeout))
	defer cancel()
	if prefixes, err := DiscoverIn(ctx, ""); err != nil {
		nat64.OK, nat64.Found = false, err.Error()
		nat64.Cost = "nat64:auto, and with it a plain upconv run, reaches nothing: say which way with --via"
	} else {
		nat64.Found = strings.Trim(fmt.Sprint(prefixes), "[]") + " (RFC 7050)"
	}
	return []Check{v4, v6, nat64}
}

// doctorTimeout is how long resolvers may take.
const doctorTimeout = 5 * time.Second

// hasDefaultRoute6 is hasDefaultRoute for a text of the form of /proc/net/ipv6_route: destination,
// its length, source, its length, next hop, metric, reference count, use, flags, interface, numbers
// in hexadecimal.
func hasDefaultRoute6(table string) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[0] != strings.Repeat("0", 32) || f[1] != "00" || f[9] == "lo" {
			continue
		}
		if flags, err := strconv.ParseUint(f[8], 16, 32); err == nil && flags&(unix.RTF_UP|unix.RTF_REJECT) == unix.RTF_UP {
			return true
		}
	}
	return false
}
