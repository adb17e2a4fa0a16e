// Package explain says what becomes of a destination under a policy, in words, without anything
// being run.
package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Explainer says what becomes of a destination, without anything being run.
type Explainer struct {
	policy   *policy.Policy
	mappings *nat64.Mappings
	udp      policy.UDPMode
	swapAt   policy.SwapAt
	// Assigned reports whether an address is one of the origin's own; nil: it has none.
	Assigned func(netip.Addr) bool
	// Prefixes finds the prefixes for nat64:auto. It is called only where they matter, and once.
	Prefixes func() ([]netip.Prefix, error)

	found    nat64.Prefix
	foundErr error
	asked    bool
}

// Config is what the user has said.
type Config struct {
	Rules    []policy.Rule
	Via      policy.Route // of what no rule matches
	Mappings []nat64.Mapping
	UDP      policy.UDPMode
	SwapAt   policy.SwapAt
}

// New returns an explainer of the policy that upconv run would make of cfg.
func New(cfg *Config) (*Explainer, error) {
	if hidden := policy.HiddenRules(cfg.Rules); len(hidden) > 0 {
		return nil, hidden[0]
	}
	mappings, err := nat64.NewMappings(cfg.Mappings)
	if err != nil {
		return nil, err
	}
	compiled := policy.Compile(cfg.Rules, cfg.Via)
	if err := compiled.CheckSwapAt(cfg.SwapAt); err != nil {
		return nil, err
	}
	return &Explainer{policy: compiled, mappings: mappings, udp: cfg.UDP, swapAt: cfg.SwapAt}, nil
}

// Destination is what a program might ask for: an IPv4 address, a range of ports, a protocol.
type Destination struct {
	Addr      netip.Addr
	Low, High uint16
	Proto     policy.Proto // one
}

// String returns it as ParseDestination reads it, or with a range of ports.
func (d Destination) String() string {
	switch {
	case d.Low == 0 && d.High == 65535:
		return fmt.Sprintf("%s/%s", d.Addr, d.Proto)
	case d.Low == d.High:
		return fmt.Sprintf("%s:%d/%s", d.Addr, d.Low, d.Proto)
	}
	return fmt.Sprintf("%s:%d-%d/%s", d.Addr, d.Low, d.High, d.Proto)
}

// ParseDestination reads ADDR[:PORT][/tcp] or ADDR[:PORT]/udp; without a port it is all of them.
// ADDR is an IPv4 address, plain or as ::ffff:a.b.c.d. The error is a *policy.SyntaxError.
func ParseDestination(s string) (Destination, error) {
	d := Destination{High: 65535, Proto: policy.TCP}
	fail := func(start, end int, format string, args ...any) (Destination, error) {
		return Destination{}, &policy.SyntaxError{What: "destination", Input: s, Start: start, End: end, Msg: fmt.Sprintf(format, args...)}
	}
	rest, proto, ok := strings.Cut(s, "/")
	switch {
	case ok && proto == "udp":
		d.Proto = policy.UDP
	case ok && proto != "tcp":
		return fail(len(rest)+1, len(s), "not tcp or udp; a destination is one address, ADDR[:PORT][/udp]")
	}
	text, port := rest, ""
	if _, err := netip.ParseAddr(rest); err != nil && !strings.HasSuffix(rest, "]") { // else the last colon is the address's own
		if i := strings.LastIndexByte(rest, ':'); i >= 0 {
			text, port = rest[:i], rest[i+1:]
			low, err := policy.ParsePort(port)
			if err != nil {
				return fail(i+1, len(rest), "%v", err)
			}
			d.Low, d.High = low, low
		}
	}
	inner := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		inner = text[1 : len(text)-1]
	}
	a, err := netip.ParseAddr(inner)
	switch {
	case err != nil:
		return fail(0, len(text), "not an IPv4 address such as 192.0.2.7 (names are not looked up)")
	case !a.Unmap().Is4():
		return fail(0, len(text), "an IPv6 destination: upconv leaves those alone")
	}
	d.Addr = a.Unmap()
	return d, nil
}

// Explanation is what becomes of one destination, in words.
type Explanation struct {
	Destination Destination // of the ports asked for, those of which it is true
	Rule        string      // which rule, and where it is written
	Route       policy.Route
	Connects    string // what is connected to, and where
	Sees        string // what the program is told: getpeername(2), getsockname(2), the errno
	Notes       []string
}

// Explain explains a destination. Where it depends on the port there are several explanations.
func (x *Explainer) Explain(d Destination) []Explanation {
	var list []Explanation
	var last policy.Decision
	for _, low := range portCuts(x.policy, d) {
		decision := x.policy.Decide(netip.AddrPortFrom(d.Addr, low), d.Proto, x.Assigned)
		if len(list) > 0 {
			before := &list[len(list)-1].Destination
			before.High = low - 1
			if decision == last {
				before.High = d.High
				continue
			}
		}
		last = decision
		list = append(list, Explanation{Destination: Destination{d.Addr, low, d.High, d.Proto}, Route: *decision.Route, Rule: x.rule(d.Addr, decision)})
	}
	for i := range list {
		x.describe(&list[i])
	}
	return list
}

// portCuts returns the ports of d at which something may change in a policy, the first one
// included.
func portCuts(p *policy.Policy, d Destination) []uint16 {
	cuts := []uint16{d.Low}
	for i := range p.Rules() {
		r := &p.Rules()[i]
		if !r.Dest.Contains(d.Addr) || r.Proto&d.Proto == 0 {
			continue
		}
		if r.LowPort > d.Low && r.LowPort <= d.High {
			cuts = append(cuts, r.LowPort)
		}
		if r.HiPort >= d.Low && r.HiPort < d.High {
			cuts = append(cuts, r.HiPort+1)
		}
	}
	slices.Sort(cuts)
	return slices.Compact(cuts)
}

func (x *Explainer) rule(addr netip.Addr, d policy.Decision) string {
	switch rule := x.policy.RuleOf(d); {
	case rule != nil && rule.From != (policy.Source{}):
		return fmt.Sprintf("%s, %s: %s", d.Rule, rule.From, rule)
	case rule != nil:
		return fmt.Sprintf("%s: %s", d.Rule, rule)
	case d.Rule == policy.RuleLocal:
		if block, ok := policy.LocalBlock(addr); ok {
			return fmt.Sprintf("%s: no rule is about nothing but %s or a part of it", d.Rule, block)
		}
		return d.Rule + ": an address of the program's own namespace, and no rule is about just that"
	}
	return d.Rule + ": no rule matches"
}

// sharedBlock is where a program's own address is said to be if its namespace has no IPv4.
const sharedBlock = "192.0.0.0/29 (RFC 7335)"

func (x *Explainer) describe(e *Explanation) {
	d, r := e.Destination, &e.Route
	asItIs := d.Proto == policy.UDP && x.udp == policy.UDPOff
	switch {
	case asItIs || r.Kind == policy.Direct:
		e.Connects = at(d.Addr, d) + ", in the program's own namespace"
		e.Sees = "what the kernel says"
	default:
		x.describeRoute(e)
	}
	if asItIs {
		if r.Kind != policy.Direct {
			e.Notes = append(e.Notes, "with --udp off datagram sockets are left alone, whatever their route")
		}
		return
	}
	if d.Proto == policy.UDP && r.Kind != policy.Direct {
		switch x.udp {
		case policy.UDPFull:
			e.Notes = append(e.Notes, "connect(2) takes this route, and so does each send with an address")
		case policy.UDPConnected:
			where := "in the program's own namespace"
			if x.swapAt == policy.SwapAtSocket {
				where = "in the namespace that the socket was made in"
			}
			e.Notes = append(e.Notes, "with --udp connected only after connect(2): a send with an address goes as it is, "+where)
		}
	}
	if x.swapAt == policy.SwapAtSocket && (d.Proto == policy.TCP || x.udp != policy.UDPOff) {
		namespace := x.policy.Namespaces()[0]
		switch r.Kind {
		case policy.Netns:
			e.Notes = append(e.Notes, "with --swap-at socket it is a socket of this namespace from socket(2) on")
		case policy.Direct:
			e.Notes = append(e.Notes, "with --swap-at socket it is a socket of the network namespace "+namespace+" until this destination is known")
			if d.Proto == policy.UDP && x.udp == policy.UDPConnected {
				e.Notes = append(e.Notes, "with --udp connected only connect(2) makes it known: a send with an address goes to what has this one there")
			}
		}
	}
}

// describeRoute says what is connected to along a route that is not direct.
func (x *Explainer) describeRoute(e *Explanation) {
	d, r := e.Destination, &e.Route
	fails, peer := "connect fails", "getpeername"
	if d.Proto == policy.UDP && x.udp == policy.UDPFull {
		fails, peer = "connect, or a send with the address, fails", "datagrams from"
	}
	seesIPv4 := fmt.Sprintf("an IPv4 socket: %s %s, getsockname an address of its namespace or else of %s", peer, at(d.Addr, d), sharedBlock)
	switch r.Kind {
	case policy.Netns:
		e.Connects = at(d.Addr, d) + ", in the network namespace " + r.Target
		e.Sees = peer + " " + at(d.Addr, d) + ", getsockname an address of that namespace"
	case policy.Reject:
		e.Connects = "nothing"
		e.Sees = fmt.Sprintf("%s at once with %s, %s", fails, unix.ErrnoName(r.Errno), r.Errno)
	case policy.NAT64, policy.Inet6:
		found := x.prefix(r, d.Addr)
		to, err := policy.Translate(r, d.Addr, x.mappings, found)
		if errors.Is(err, policy.ErrNoPrefix) && x.foundErr != nil {
			err = x.foundErr
		}
		if err != nil {
			e.Connects = "nothing: " + err.Error()
			e.Sees = fails
			break
		}
		e.Connects = at(to, d) + how(r, d.Addr, x.mappings, found)
		e.Sees = seesIPv4
	case policy.UnixPath:
		e.Connects = r.Target
		switch {
		case r.Target[0] == '@':
			e.Connects += ", an abstract socket"
		case r.TargetRoot:
			e.Connects += ", from the root directory of the program"
		}
		switch {
		case d.Proto == policy.UDP:
			e.Connects += ", as SOCK_DGRAM"
			if r.ProxyV2 {
				e.Notes = append(e.Notes, "datagrams carry no PROXY header")
			}
		case r.ProxyV2:
			e.Connects += "; first a PROXY v2 header says that it is for " + at(d.Addr, d)
		}
		e.Sees = seesIPv4
	}
}

// prefix returns the prefix that nat64:auto stands for, where it matters.
func (x *Explainer) prefix(r *policy.Route, addr netip.Addr) nat64.Prefix {
	if _, fixed := r.Prefix(); r.Kind != policy.NAT64 || fixed || x.Prefixes == nil {
		return nat64.Prefix{}
	}
	if _, mapped := x.mappings.Of(addr); mapped {
		return nat64.Prefix{}
	}
	if !x.asked {
		x.asked = true
		var list []netip.Prefix
		if list, x.foundErr = x.Prefixes(); len(list) > 0 {
			x.found, x.foundErr = nat64.NewPrefix(list[0])
		}
	}
	return x.found
}

// how says where an IPv6 address comes from.
func how(r *policy.Route, addr netip.Addr, mappings *nat64.Mappings, found nat64.Prefix) string {
	if r.Kind == policy.Inet6 {
		return ""
	}
	if m, ok := mappings.Of(addr); ok {
		return fmt.Sprintf(", as eam maps %s to %s", m.IPv4, m.IPv6)
	}
	if !found.IsValid() {
		found, _ = r.Prefix()
	}
	return fmt.Sprintf(", which is %s under %s", addr, found)
}

// at writes an address and the ports of a destination.
func at(addr netip.Addr, d Destination) string {
	switch {
	case d.Low == d.High:
		return netip.AddrPortFrom(addr, d.Low).String()
	case addr.Is6():
		return "[" + addr.String() + "]:PORT"
	}
	return addr.String() + ":PORT"
}
