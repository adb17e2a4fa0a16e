package session

import (
	"slices"
	"sync/atomic"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Ruleset is a policy and what it takes. It is replaced as a whole.
type Ruleset struct {
	Policy   *policy.Policy
	Mappings *nat64.Mappings
	Egress   map[string]*netns.Egress // by the target of a netns route; and those of earlier policies, under other keys
	Cookies  []uint64                 // of the same; a map is slow to go through
}

// NewRuleset returns a policy with the namespaces that it takes, by the targets of its routes. They
// stay the caller's.
func NewRuleset(policy *policy.Policy, mappings *nat64.Mappings, all map[string]*netns.Egress) *Ruleset {
	rules := &Ruleset{Policy: policy, Mappings: mappings, Egress: all}
	for _, e := range all {
		rules.Cookies = append(rules.Cookies, e.Cookie)
	}
	return rules
}

// EgressOf returns the namespace of a netns route.
func (s *Session) EgressOf(route *policy.Route) *netns.Egress {
	return s.Rules.Load().Egress[route.Target]
}

// IsEgress reports whether a namespace, by its cookie, is an egress of the policy in force or of an
// earlier one.
func (s *Session) IsEgress(cookie uint64) bool {
	return slices.Contains(s.Rules.Load().Cookies, cookie)
}

// InEgress reports whether a socket that is to be connected in the origin is in an egress.
func (s *Session) InEgress(cookie uint64) bool {
	return cookie != s.Origin.Cookie && s.IsEgress(cookie)
}

// LivesIn reports whether a target is itself in the egress that its socket is of: it went there by
// its own means, and its local addresses and interfaces are those of that namespace.
func (w *Worker) LivesIn(tid int, cookie uint64) bool {
	for _, e := range w.s.Rules.Load().Egress {
		if e.Cookie == cookie {
			_, _, ok := w.s.Targets.InNamespace(tid, e.NS.Inode(), w.Scratch[:])
			return ok
		}
	}
	return false
}

// MayBeMade reports whether stream sockets of the origin may have been made at socket(2): then the
// egress of the route is the origin, and nothing but Session.Made tells.
func (s *Session) MayBeMade(route *policy.Route) bool {
	return s.Needs.Streams && s.EgressOf(route).Cookie == s.Origin.Cookie
}

// MadeSockets remembers, by their cookies, the latest sockets that upconv has put into the place of
// others. It is for those of the origin, where nothing else tells. It may forget.
type MadeSockets [1024]atomic.Uint64

// Add notes the socket fd.
func (m *MadeSockets) Add(fd int) {
	cookie := linux.CookieOf(fd)
	m[cookie%uint64(len(m))].Store(cookie)
}

// Has reports whether the socket fd is remembered.
func (m *MadeSockets) Has(fd int) bool {
	cookie := linux.CookieOf(fd)
	return m[cookie%uint64(len(m))].Load() == cookie
}
