// Package policy is what the user says: which destinations take which route, and how. It is pure:
// it decides, and knows nothing of processes and sockets.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/upconv/upconv/upconv/internal/ip4"
)

// Proto is a set of transport protocols.
type Proto uint8

// The protocols that rules can tell apart.
const (
	TCP Proto = 1 << iota
	UDP
)

// String returns "tcp", "udp" or, for both, "any".
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "any"
}

// Rule sends a set of IPv4 destinations along a route.
type Rule struct {
	Dest    netip.Prefix // 0.0.0.0/0 for every address
	Any     bool         // written as "*"
	LowPort uint16       // first port
	HiPort  uint16       // last port
	Proto   Proto
	Route   Route
	From    Source // where it was written; zero for a flag
}

// Source is a place in a policy file. Rules that follow each other and have the same place, not the
// zero one, were written as one, with several destinations or ports.
type Source struct {
	File         string
	Line, Column int // 1 is the first
}

// String returns FILE:LINE.
func (s Source) String() string { return fmt.Sprintf("%s:%d", s.File, s.Line) }

// Matches reports whether the rule is about the destination. dst is an IPv4 address.
func (r *Rule) Matches(dst netip.AddrPort, proto Proto) bool {
	return r.Proto&proto != 0 && r.LowPort <= dst.Port() && dst.Port() <= r.HiPort && r.Dest.Contains(dst.Addr())
}

// String returns the rule as ParseRule reads it.
func (r Rule) String() string {
	var b strings.Builder
	switch {
	case r.Any:
		b.WriteByte('*')
	case r.Dest.IsSingleIP():
		b.WriteString(r.Dest.Addr().String())
	default:
		b.WriteString(r.Dest.String())
	}
	switch {
	case r.LowPort == 0 && r.HiPort == 65535:
	case r.LowPort == r.HiPort:
		fmt.Fprintf(&b, ":%d", r.LowPort)
	default:
		fmt.Fprintf(&b, ":%d-%d", r.LowPort, r.HiPort)
	}
	if r.Proto != TCP|UDP {
		b.WriteString("/" + r.Proto.String())
	}
	return b.String() + "=" + r.Route.String()
}

// name is what errors call the rule.
func (r Rule) name() string {
	if r.From == (Source{}) {
		return fmt.Sprintf("rule %q", r)
	}
	return fmt.Sprintf("%s: rule %q", r.From, r)
}

// ParseRule reads DEST=ROUTE. DEST is ADDR, CIDR or "*", then optionally :PORT or :LO-HI, then
// optionally /tcp or /udp: "192.0.2.7:443/tcp=netns:blue". The error is a *SyntaxError.
func ParseRule(s string) (Rule, error) {
	rule := Rule{HiPort: 65535, Proto: TCP | UDP}
	fail := func(start, end int, format string, args ...any) (Rule, error) {
		return Rule{}, &SyntaxError{What: "rule", Input: s, Start: start, End: end, Msg: fmt.Sprintf(format, args...)}
	}
	dest, route, ok := strings.Cut(s, "=")
	if !ok {
		return fail(len(s), len(s), "no \"=\"; a rule is DEST=ROUTE, for example 192.0.2.0/24:443/tcp=netns:blue")
	}

	rest := dest
	for _, suffix := range []struct {
		text  string
		proto Proto
	}{{"/tcp", TCP}, {"/udp", UDP}} {
		if cut, ok := strings.CutSuffix(rest, suffix.text); ok {
			rest, rule.Proto = cut, suffix.proto
			break
		}
	}
	if addr, ports, ok := strings.Cut(rest, ":"); ok {
		if strings.Contains(ports, ":") || strings.HasPrefix(addr, "[") {
			return fail(0, len(rest), destIsIPv4)
		}
		start := len(addr) + 1
		lo, hi, wrong := parsePorts(ports)
		if wrong != nil {
			return fail(start+wrong.Start, start+wrong.End, "%s", wrong.Msg)
		}
		rule.LowPort, rule.HiPort = lo, hi
		rest = addr
	}
	var wrong *SyntaxError
	if rule.Dest, rule.Any, wrong = parseDest(rest); wrong != nil {
		return fail(wrong.Start, wrong.End, "%s", wrong.Msg)
	}

	var err error
	if rule.Route, err = ParseRoute(route); err != nil {
		inner := err.(*SyntaxError)
		at := len(dest) + 1
		return fail(at+inner.Start, at+inner.End, "%s", inner.Msg)
	}
	return rule, nil
}

// parseDest reads ADDR, CIDR or "*". Positions in the error are within s.
func parseDest(s string) (dest netip.Prefix, all bool, wrong *SyntaxError) {
	fail := func(start int, format string, args ...any) (netip.Prefix, bool, *SyntaxError) {
		return netip.Prefix{}, false, &SyntaxError{What: "destination", Input: s, Start: start, End: len(s), Msg: fmt.Sprintf(format, args...)}
	}
	switch {
	case s == "":
		return fail(0, "no address; \"*\" stands for every address")
	case s == "*":
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true, nil
	case strings.Contains(s, "/"):
		prefix, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			if addr, _, _ := strings.Cut(s, "/"); isAddr4(addr) {
				return fail(len(addr)+1, "not a prefix length from 0 to 32 (nor /tcp or /udp)")
			}
			return fail(0, "not an IPv4 prefix such as 192.0.2.0/24")
		case !prefix.Addr().Is4():
			return fail(0, destIsIPv4)
		case prefix != prefix.Masked():
			return fail(0, "has bits set beyond its length; meant %s or %s?", prefix.Masked(), prefix.Addr())
		}
		return prefix, false, nil
	}
	if !isAddr4(s) {
		return fail(0, "not an IPv4 address such as 192.0.2.7 (names are not looked up)")
	}
	return netip.PrefixFrom(netip.MustParseAddr(s), 32), false, nil
}

const destIsIPv4 = "destinations are IPv4: that is what a program under upconv asks for"

// parsePorts reads PORT or LO-HI. Positions in the error are within s.
func parsePorts(s string) (low, high uint16, wrong *SyntaxError) {
	fail := func(start, end int, msg string) (uint16, uint16, *SyntaxError) {
		return 0, 0, &SyntaxError{What: "ports", Input: s, Start: start, End: end, Msg: msg}
	}
	first, last, isRange := strings.Cut(s, "-")
	low, err := ParsePort(first)
	if err != nil {
		end := len(first)
		if first == "" {
			end = len(s)
		}
		return fail(0, end, err.Error())
	}
	if !isRange {
		return low, low, nil
	}
	if high, err = ParsePort(last); err != nil {
		return fail(len(first)+1, len(s), err.Error())
	}
	if high < low {
		return fail(0, len(s), "the range ends before it begins")
	}
	return low, high, nil
}

func isAddr4(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Is4()
}

// ParsePort reads a port, 1 to 65535, in digits.
func ParsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '+' {
		return 0, fmt.Errorf("not a port from 0 to 65535")
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("a port has no leading zero: %d", port) // to YAML, 0443 is an octal number
	}
	return uint16(port), nil
}

// localBlocks are IPv4 destinations that mean this host or this link, wherever one stands: they
// stay in the origin unless a rule is about nothing but them (RFC 1122 section 3.2.1.3, RFC 3927,
// RFC 5771, RFC 919).
var localBlocks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"),
}

// Policy maps destinations to routes: first match wins. It is immutable and safe for concurrent
// use.
type Policy struct {
	rules     []Rule
	positions []string // of the rules, for events: "1" is the first
	fallback  Route    // --via; Direct where none was given
	lookup    *lookup
}

// New returns the policy that tries rules in their order and sends everything else that is not
// local along fallback. Rules that are hidden completely by earlier ones of the same file, or by
// earlier flags, are an error. That flags, which come first, hide rules of a file is what they are
// for.
func New(rules []Rule, fallback Route) (*Policy, error) {
	if err := CheckRules(rules); err != nil {
		return nil, err
	}
	return Compile(rules, fallback), nil
}

// CheckRules returns what is wrong with rules, if anything is.
func CheckRules(rules []Rule) error {
	for i := range rules {
		if dest := &rules[i].Dest; !dest.IsValid() || !dest.Addr().Is4() {
			return fmt.Errorf("rule for %v: not an IPv4 prefix", *dest)
		}
	}
	if hidden := HiddenRules(rules); len(hidden) > 0 {
		return hidden[0]
	}
	return nil
}

// Compile is New for rules that New would find nothing wrong with: it does not look.
func Compile(rules []Rule, fallback Route) *Policy {
	lookup, _ := newLookup(rules)
	return &Policy{rules: slices.Clone(rules), positions: positions(rules), fallback: fallback, lookup: lookup}
}

// positions numbers rules. Those that were written as one have one number.
func positions(rules []Rule) []string {
	list := make([]string, len(rules))
	n := 0
	for i := range rules {
		if i == 0 || rules[i].From == (Source{}) || rules[i].From != rules[i-1].From {
			n++
			list[i] = strconv.Itoa(n)
		} else {
			list[i] = list[i-1]
		}
	}
	return list
}

// HiddenError says that a rule never applies.
type HiddenError struct {
	Index int  // of the rule
	Rule  Rule // the rule
	By    int  // index of an earlier rule that takes all of it by itself; -1: several do so together
	text  string
}

func (e *HiddenError) Error() string { return e.text }

// HiddenRules returns an error for each rule that never applies.
func HiddenRules(rules []Rule) (errs []*HiddenError) {
	var number []string
	for start := 0; start < len(rules); {
		end := start + 1
		for end < len(rules) && rules[end].From.File == rules[start].From.File {
			end++
		}
		part := rules[start:end]
		hidden := hiddenIn(part)
		if len(hidden) == 0 {
			start = end
			continue
		}
		if number == nil {
			number = positions(rules)
		}
		whole := map[string]int{} // how many of the rules that were written as one are not hidden
		for i := range part {
			whole[number[start+i]]++
		}
		for _, i := range hidden {
			whole[number[start+i]]--
		}
		for _, i := range hidden {
			if n := number[start+i]; whole[n] == 0 {
				errs = append(errs, newHiddenError(rules, start, start+i, number))
				whole[n] = -1 // told
			}
		}
		start = end
	}
	return errs
}

// newHiddenError says that rule i is hidden by rules from start on.
func newHiddenError(rules []Rule, start, i int, number []string) *HiddenError {
	e := &HiddenError{Index: i, Rule: rules[i], By: -1}
	for j := start; j < i; j++ {
		if rules[j].hides(&rules[i]) {
			e.By = j
			e.text = fmt.Sprintf("%s never applies: rule %s, %q, already takes all of it", rules[i].name(), number[j], rules[j])
			return e
		}
	}
	e.text = fmt.Sprintf("%s never applies: the rules before it together already take all of it", rules[i].name())
	return e
}

// hides reports whether every destination of later is one of r's. A wide rule does not hide a
// narrow one that is about local destinations, which the wide one leaves alone.
func (r *Rule) hides(later *Rule) bool {
	if r.Dest.Bits() > later.Dest.Bits() || !r.Dest.Contains(later.Dest.Addr()) ||
		r.LowPort > later.LowPort || r.HiPort < later.HiPort || r.Proto&later.Proto != later.Proto {
		return false
	}
	return localBlock(r.Dest) == localBlock(later.Dest)
}

// LocalBlock returns the block of local addresses that an address is in; ok is false if it is in
// none.
func LocalBlock(addr netip.Addr) (block netip.Prefix, ok bool) {
	i := localBlock(netip.PrefixFrom(addr, 32))
	if i < 0 {
		return netip.Prefix{}, false
	}
	return localBlocks[i], true
}

// localBlock returns the index of the local block that prefix lies within, or -1.
func localBlock(prefix netip.Prefix) int {
	for i, block := range localBlocks {
		if prefix.Bits() >= block.Bits() && block.Contains(prefix.Addr()) {
			return i
		}
	}
	return -1
}

// The rule of a Decision that no rule made.
const (
	RuleLocal   = "local"   // the destination is local and no rule names it expressly
	RuleDefault = "default" // no rule matched
)

// Decision is what the policy says of one destination.
type Decision struct {
	Rule  string // "1" for the first rule, RuleLocal or RuleDefault
	Route *Route
}

// DirectRoute is the route of what is left alone.
var DirectRoute = &Route{Kind: Direct}

// Decisions about what no rule is asked about, and that is left alone.
var (
	DirectLocal   = Decision{RuleLocal, DirectRoute}
	DirectDefault = Decision{RuleDefault, DirectRoute}
)

// Decide returns the route of dst, an IPv4 address and port. assigned reports whether an address is
// one of the origin's own; nil means it has none. Decide does not allocate.
//
// A local destination, in a block of localBlocks or one of the origin's own addresses, is direct
// unless a rule names it expressly: one that lies within the block or, for an address of the
// origin's own, is about that one address.
func (p *Policy) Decide(dst netip.AddrPort, proto Proto, assigned func(netip.Addr) bool) Decision {
	addr := dst.Addr()
	block := localBlock(netip.PrefixFrom(addr, 32))
	own := block < 0 && assigned != nil && assigned(addr)
	if addr.Is4() {
		if i := p.lookup.find(ip4.Number(addr), dst.Port(), proto, own); i != noRule {
			return Decision{p.positions[i], &p.rules[i].Route}
		}
	}
	if block >= 0 || own {
		return Decision{RuleLocal, DirectRoute}
	}
	return Decision{RuleDefault, &p.fallback}
}

// Rules returns the rules in their order. They must not be changed.
func (p *Policy) Rules() []Rule { return p.rules }

// Fallback returns the route of what no rule matches. It must not be changed.
func (p *Policy) Fallback() *Route { return &p.fallback }

// RuleOf returns the rule that has made a decision; nil if none has.
func (p *Policy) RuleOf(d Decision) *Rule {
	for i := range p.rules {
		if &p.rules[i].Route == d.Route {
			return &p.rules[i]
		}
	}
	return nil
}

// Routes returns all routes, each once, in the order of their rules; the one of what no rule
// matches is the last.
func (p *Policy) Routes() []Route {
	var routes []Route
	seen := map[Route]bool{}
	add := func(r Route) {
		if !seen[r] {
			seen[r] = true
			routes = append(routes, r)
		}
	}
	for i := range p.rules {
		add(p.rules[i].Route)
	}
	add(p.fallback)
	return routes
}

// Namespaces returns the targets of all netns routes, each once, in the order of their rules.
func (p *Policy) Namespaces() []string {
	var names []string
	for _, r := range p.Routes() {
		if r.Kind == Netns {
			names = append(names, r.Target)
		}
	}
	return names
}

// Discovers reports whether a route needs to know the prefix of a NAT64 that is not given.
func (p *Policy) Discovers() bool {
	return slices.Contains(p.Routes(), Route{Kind: NAT64, Target: AutoPrefix})
}

// NamespaceFor returns a netns route that destinations of a protocol may take; nil where there is
// none.
func (p *Policy) NamespaceFor(proto Proto) *Route {
	if p.fallback.Kind == Netns {
		return &p.fallback
	}
	for i := range p.rules {
		if p.rules[i].Route.Kind == Netns && p.rules[i].Proto&proto != 0 {
			return &p.rules[i].Route
		}
	}
	return nil
}
