package upconv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// errStillLooking says that it is not known yet whether there is a prefix.
var errStillLooking = errors.New("still looking for a NAT64 prefix")

// translate returns the IPv6 address that is connected to for dst.
func (s *Supervisor) translate(route *policy.Route, dst netip.Addr) (netip.Addr, error) {
	if route.Kind != policy.NAT64 || route.Target != policy.AutoPrefix {
		return policy.Translate(route, dst, s.rules.Load().mappings, nat64.Prefix{})
	}
	if addr, ok := s.rules.Load().mappings.To6(dst); ok {
		return addr, nil
	}
	if s.discovery == nil {
		return netip.Addr{}, policy.ErrNoPrefix
	}
	found := s.discovery.found.Load()
	if found == nil {
		return netip.Addr{}, errStillLooking
	}
	if len(found.prefixes) == 0 {
		return netip.Addr{}, fmt.Errorf("%w: %w", policy.ErrNoPrefix, found.err)
	}
	var addr netip.Addr
	var err error
	for _, p := range found.prefixes { // the well-known one, which is not for all addresses, comes last
		if addr, err = p.Embed(dst); err == nil {
			break
		}
	}
	return addr, err
}

// discovery finds the prefixes for nat64:auto, again and again, on a goroutine of its own.
type discovery struct {
	// look asks the resolvers once.
	look  func(context.Context) ([]netip.Prefix, time.Duration, error)
	log   *slog.Logger
	found atomic.Pointer[foundPrefixes] // nil: not known yet
	known chan struct{}                 // closed when it is
}

type foundPrefixes struct {
	prefixes []nat64.Prefix
	err      error // why there are none
}

// How long the resolvers may take, and how often they are asked: after a success as often as the
// TTL says, within limits, and after a failure at growing intervals.
const (
	discoverTimeout  = 10 * time.Second
	minDiscovery     = 10 * time.Second
	maxDiscovery     = 24 * time.Hour
	firstRediscovery = time.Second
	lastRediscovery  = time.Minute
)

// newDiscovery returns one that has not begun; see run.
func newDiscovery(look func(context.Context) ([]netip.Prefix, time.Duration, error), log *slog.Logger) *discovery {
	return &discovery{look: look, log: log, known: make(chan struct{})}
}

// run looks until the context ends.
func (d *discovery) run(ctx context.Context) {
	retry := firstRediscovery
	for {
		next := d.once(ctx)
		if next > 0 {
			retry = firstRediscovery
		} else {
			next, retry = retry, min(2*retry, lastRediscovery)
		}
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return
		}
	}
}

// once looks once and returns how long what was found may be used; 0 after a failure.
func (d *discovery) once(ctx context.Context) (use time.Duration) {
	ctx, cancel := context.WithTimeoutCause(ctx, discoverTimeout, fmt.Errorf("none within %s", discoverTimeout))
	defer cancel()
	list, ttl, err := d.look(ctx)
	var prefixes []nat64.Prefix
	for _, prefix := range list {
		if p, wrong := nat64.NewPrefix(prefix); wrong == nil {
			prefixes = append(prefixes, p)
		}
	}
	before := d.found.Load()
	switch {
	case err == nil && len(prefixes) > 0:
		if before == nil || !slices.Equal(before.prefixes, prefixes) {
			d.log.Info("NAT64 prefix found", "prefixes", prefixes, "ttl", ttl)
		}
		d.found.Store(&foundPrefixes{prefixes: prefixes})
		use = min(max(ttl, minDiscovery), maxDiscovery)
	case before != nil && len(before.prefixes) > 0 && !errors.Is(err, nat64.ErrNoNAT64):
		// Nobody has said that it is gone.
		d.log.Warn("the NAT64 prefix could not be checked; it stays in use", "prefixes", before.prefixes, "error", err)
	default:
		if before == nil || before.err == nil || before.err.Error() != err.Error() {
			d.log.Warn("no NAT64 prefix found, so that IPv4 destinations are unreachable. Other ways out are --via nat64:PREFIX/LEN, "+
				"--via netns:NAME, --via unix:/PATH and --config FILE: see upconv run --help", "error", err)
		}
		d.found.Store(&foundPrefixes{err: err})
	}
	if before == nil {
		close(d.known)
	}
	return use
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
func (s *Supervisor) whenFound(c *call) outcome {
	return s.aside(c, func(w *worker, c *call) outcome {
		if errno := w.aside.stop.Await(s.discovery.known); errno != 0 {
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
