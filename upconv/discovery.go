package upconv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/upconv/upconv/upconv/nat64"
)

// errStillLooking says that it is not known yet whether there is a prefix.
var errStillLooking = errors.New("still looking for a NAT64 prefix")

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

// prefixes returns the prefixes that were found last, the preferred one first. The error is
// errStillLooking before the first look is over, and else says why there are none.
func (d *discovery) prefixes() ([]nat64.Prefix, error) {
	found := d.found.Load()
	switch {
	case found == nil:
		return nil, errStillLooking
	case len(found.prefixes) == 0:
		return nil, found.err
	}
	return found.prefixes, nil
}

// looked returns a channel that is closed when the first look is over.
func (d *discovery) looked() <-chan struct{} { return d.known }

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
