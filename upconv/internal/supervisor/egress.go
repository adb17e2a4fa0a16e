package supervisor

import (
	"slices"
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// ruleset is a policy and what it takes. It is replaced as a whole.
type ruleset struct {
	policy   *policy.Policy
	mappings *nat64.Mappings
	egress   map[string]*netns.Egress // by the target of a netns route; and those of earlier policies, under other keys
	cookies  []uint64                 // of the same; a map is slow to go through
}

func newRuleset(policy *policy.Policy, mappings *nat64.Mappings, all map[string]*netns.Egress) *ruleset {
	rules := &ruleset{policy: policy, mappings: mappings, egress: all}
	for _, e := range all {
		rules.cookies = append(rules.cookies, e.Cookie)
	}
	return rules
}

// egressOf returns the namespace of a netns route.
func (s *sessionSession) egressOf(route *policy.Route) *netns.Egress {
	return s.rules.Load().egress[route.Target]
}

func (s *sessionSession) isEgress(cookie uint64) bool {
	return slices.Contains(s.rules.Load().cookies, cookie)
}

// inEgress reports whether a socket that is to be connected in the origin is in an egress.
func (s *sessionSession) inEgress(cookie uint64) bool {
	return cookie != s.origin.Cookie && s.isEgress(cookie)
}

// livesIn reports whether a target is itself in the egress that its socket is of: it went there by
// its own means, and its local addresses and interfaces are those of that namespace.
func (w *sessionWorker) livesIn(tid int, cookie uint64) bool {
	for _, e := range w.s.rules.Load().egress {
		if e.Cookie == cookie {
			_, _, ok := w.s.targets.InNamespace(tid, e.NS.Inode(), w.scratch[:])
			return ok
		}
	}
	return false
}

// mayBeMade reports whether stream sockets of the origin may have been made at socket(2), which
// nothing but made tells.
func (s *sessionSession) mayBeMade(route *policy.Route) bool {
	return s.needs.streams && s.egressOf(route).Cookie == s.origin.Cookie
}

// madeSockets remembers, by their cookies, the latest sockets that upconv has put into the place of
// others. It is for those of the origin, where nothing else tells. It may forget.
type madeSockets [1024]atomic.Uint64

func (m *madeSockets) add(fd int) {
	cookie := linux.CookieOf(fd)
	m[cookie%uint64(len(m))].Store(cookie)
}

func (m *madeSockets) has(fd int) bool {
	cookie := linux.CookieOf(fd)
	return m[cookie%uint64(len(m))].Load() == cookie
}
