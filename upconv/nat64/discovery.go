package nat64

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// ErrStillLooking says that it is not known yet whether there is a prefix.
var ErrStillLooking = errors.New("still looking for a NAT64 prefix")

// Discovery finds the prefixes for nat64:auto, again and again, on a goroutine of its own.
type Discovery struct {
	// look asks the resolvers once.
	look  func(context.Context) ([]netip.Prefix, time.Duration, error)
	log   *slog.Logger
	found atomic.Pointer[foundPrefixes] // nil: not known yet
	known chan struct{}                 // closed when it is
}

type foundPrefixes struct {
	prefixes []Prefix
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

// NewDiscovery returns one that has not begun; Run begins. look asks the resolvers once, and says
// how long what it has found is good for.
func NewDiscovery(look func(context.Context) ([]netip.Prefix, time.Duration, error), log *slog.Logger) *Discovery {
	return &Discovery{look: look, log: log, known: make(chan struct{})}
}

// Prefixes returns the prefixes that were found last, the preferred one first. The error is
// ErrStillLooking before the first look is over, and else says why there are none.
func (d *Discovery) Prefixes() ([]Prefix, error) {
	found := d.found.Load()
	switch {
	case found == nil:
		return nil, ErrStillLooking
	case len(found.prefixes) == 0:
		return nil, found.err
	}
	return found.prefixes, nil
}

// Looked returns a channel that is closed when the first look is over.
func (d *Discovery) Looked() <-chan struct{} { return d.known }

// Run looks until the context ends.
func (d *Discovery) Run(ctx context.Context) {
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
func (d *Discovery) once(ctx context.Context) (use time.Duration) {
	ctx, cancel := context.WithTimeoutCause(ctx, discoverTimeout, fmt.Errorf("none within %s", discoverTimeout))
	defer cancel()
	list, ttl, err := d.look(ctx)
	var prefixes []Prefix
	for _, prefix := range list {
		if p, wrong := NewPrefix(prefix); wrong == nil {
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
	case before != nil && len(before.prefixes) > 0 && !errors.Is(err, ErrNoNAT64):
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
