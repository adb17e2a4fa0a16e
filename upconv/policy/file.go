package policy

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/upconv/upconv/upconv/nat64"
)

// File is what a policy file says.
type File struct {
	Name     string
	Rules    []Rule          // their From says where; one that was written as one may be several
	Mappings []nat64.Mapping // for destinations whose route is nat64
	Written  int             // how many rules the file has
	UDP      UDPMode         // UDPFull where the file says nothing
	SwapAt   SwapAt          // SwapAtConnect where the file says nothing
}

// The limits of a policy file.
const (
	maxPolicyFile = 4 << 20 // bytes
	maxFileRules  = 100_000 // rules for one destination and range of ports each
	maxFileErrors = 1000    // nobody reads more, and a small file could have millions
)

// fileKey is a key of a mapping in a policy file. docs/policy.schema.json says the same.
type fileKey struct {
	name     string
	required bool
	example  string
	others   []string // what it may be called by mistake
}

var (
	topKeys = []fileKey{
		{"version", true, "version: 1", nil},
		{"egress", false, `egress: [{to: "*", via: reject}]`, []string{"rules", "rule", "routes", "policy"}},
		{"eam", false, "eam: [{ipv4: 192.0.2.0/24, ipv6: 2001:db8:aaaa::/120}]", []string{"mappings", "eamt", "map"}},
		{"udp", false, "udp: connected", []string{"datagrams", "datagram", "udp-mode", "udp_mode", "udpmode"}},
		{"swapAt", false, "swapAt: socket", []string{"swap-at", "swap_at", "swapat", "swap"}},
	}
	ruleKeys = []fileKey{
		{"to", true, `to: 192.0.2.0/24, or to: "*"`, []string{"dest", "dst", "destination", "cidr", "addr", "address", "match"}},
		{"ports", false, "ports: 443, 8000-8999", []string{"dport", "dports"}},
		{"proto", false, "proto: tcp", []string{"protocol", "protocols"}},
		{"via", true, "via: netns:NAME", []string{"route", "target", "egress", "action"}},
	}
	mappingKeys = []fileKey{
		{"ipv4", true, "ipv4: 192.0.2.0/24", []string{"v4", "ip4", "from"}},
		{"ipv6", true, "ipv6: 2001:db8:aaaa::/120", []string{"v6", "ip6", "to"}},
	}
)

// ReadFile reads a policy file. If what it says is wrong the error is FileErrors.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPolicyFile+1))
	if err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	return ParseFile(path, text)
}

// Routes returns the routes of the rules, each once, in their order.
func (f *File) Routes() []Route {
	var routes []Route
	seen := map[Route]bool{}
	for i := range f.Rules {
		if r := f.Rules[i].Route; !seen[r] {
			seen[r] = true
			routes = append(routes, r)
		}
	}
	return routes
}

// ParseFile reads the text of a policy file; name is what errors call it. The format is YAML
// without anchors, aliases and tags, in UTF-8:
//
//	version: 1
//	egress:
//	  - to: [10.0.0.0/8, 192.168.0.0/16]   # or one, or "*"
//	    ports: 443, 8000-8999              # all if left out
//	    proto: tcp                         # tcp or udp; both if left out
//	    via: netns:blue
//	eam:
//	  - {ipv4: 192.0.2.0/24, ipv6: 2001:db8:aaaa::/120}
//	udp: connected                         # full, connected or off; full if left out
//	swapAt: connect                        # connect or socket; connect if left out
//
// The error is FileErrors, which has all that is wrong; of more than a thousand errors it has the
// first thousand found, and how many more there are.
func ParseFile(name string, text []byte) (*File, error) {
	p := &fileParser{file: &File{Name: name}}
	if len(text) > maxPolicyFile {
		p.fail(1, 1, 1, "longer than the %d MiB that a policy may have", maxPolicyFile>>20)
		return nil, p.errs
	}
	p.lines = splitLines(strings.TrimPrefix(string(text), "\ufeff"))
	if root := p.parse(text); root != nil {
		p.top(root)
	}
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *FileError) int {
			return cmp.Or(a.Line-b.Line, a.Column-b.Column)
		})
		if p.dropped > 0 {
			last := *p.errs[len(p.errs)-1]
			last.Msg = fmt.Sprintf("and %d more errors, here and elsewhere", p.dropped)
			p.errs = append(p.errs, &last)
		}
		return nil, p.errs
	}
	return p.file, nil
}

type fileParser struct {
	file  *File
	lines []string
	errs  FileErrors
	items []fileItem
	full  bool // maxFileRules is reached

	dropped int // errors beyond maxFileErrors
}

// fileItem is a rule as written: its Rules are all combinations of its destinations and ports.
type fileItem struct {
	node      *yaml.Node
	to, ports []fileText
	via       fileText
	first     int // index of its first Rule
}

// fileText is a piece of a scalar.
type fileText struct {
	text  string
	node  *yaml.Node
	start int // offset in node.Value
}

func (p *fileParser) top(root *yaml.Node) {
	values := p.mapping(root, "a policy", topKeys)
	if n := values["version"]; n != nil {
		if t, ok := p.scalar(n, topKeys[0]); ok && (t.text != "1" || n.Tag != "!!int") {
			p.failAt(n, "this upconv knows version 1: write version: 1")
		}
	}
	if n := values["egress"]; n != nil {
		for _, item := range p.sequence(n, topKeys[1], "of rules") {
			p.rule(item)
		}
	}
	if n := values["eam"]; n != nil {
		p.mappings(p.sequence(n, topKeys[2], "of mappings"))
	}
	if n := values["udp"]; n != nil {
		p.choice(n, topKeys[3], func(s string) (err error) { p.file.UDP, err = ParseUDPMode(s); return err })
	}
	if n := values["swapAt"]; n != nil {
		p.choice(n, topKeys[4], func(s string) (err error) { p.file.SwapAt, err = ParseSwapAt(s); return err })
	}
	p.hidden()
	p.swaps()
}

// choice reads a value that is one of a few words.
func (p *fileParser) choice(n *yaml.Node, key fileKey, parse func(string) error) {
	t, ok := p.scalar(n, key)
	if !ok {
		return
	}
	if err := parse(t.text); err != nil {
		p.failAt(n, "not a value of %s; %s", key.name, err.(*SyntaxError).Msg)
	}
}

// swaps notes the routes that swapAt does not allow. That there is no namespace at all is not an
// error here: flags may have a route to one.
func (p *fileParser) swaps() {
	if p.file.SwapAt != SwapAtSocket {
		return
	}
	namespace := ""
	for _, item := range p.items {
		if wrong := notAtSocket(&p.file.Rules[item.first].Route, &namespace); wrong != "" {
			p.failIn(item.via, 0, len(item.via.text), "not with swapAt: socket: %s", wrong)
		}
	}
}

func (p *fileParser) rule(n *yaml.Node) {
	p.file.Written++
	before := p.count()
	values := p.mapping(n, "a rule", ruleKeys)
	if values == nil {
		return
	}
	item := fileItem{node: n, first: len(p.file.Rules)}
	type ports struct{ low, high uint16 }
	var (
		dests  []Rule // Dest and Any
		ranges = []ports{{0, 65535}}
		proto  = TCP | UDP
		route  Route
	)
	if to := values["to"]; to != nil {
		item.to = p.list(to, ruleKeys[0])
		for _, t := range item.to {
			dest, all, wrong := parseDest(t.text)
			if wrong != nil {
				p.failIn(t, wrong.Start, wrong.End, "%s", destHint(t.text, wrong.Msg))
				continue
			}
			dests = append(dests, Rule{Dest: dest, Any: all})
		}
	}
	if n := values["ports"]; n != nil {
		ranges = nil
		item.ports = p.list(n, ruleKeys[1])
		for _, t := range item.ports {
			low, high, wrong := parsePorts(t.text)
			if wrong != nil {
				p.failIn(t, wrong.Start, wrong.End, "%s; for example %s", wrong.Msg, ruleKeys[1].example)
				continue
			}
			ranges = append(ranges, ports{low, high})
		}
	}
	if n := values["proto"]; n != nil {
		if t, ok := p.scalar(n, ruleKeys[2]); ok {
			switch t.text {
			case "tcp":
				proto = TCP
			case "udp":
				proto = UDP
			default:
				p.failAt(n, "proto is tcp or udp; leave it out for both")
			}
		}
	}
	if n := values["via"]; n != nil {
		if n.Kind == yaml.MappingNode {
			p.failAt(n, "a route is written without a space behind its colon, as in via: netns:blue")
		} else if t, ok := p.scalar(n, ruleKeys[3]); ok {
			item.via = t
			var err error
			if route, err = ParseRoute(t.text); err != nil {
				wrong := err.(*SyntaxError)
				p.failIn(t, wrong.Start, wrong.End, "%s", wrong.Msg)
			}
		}
	}
	if p.count() > before || p.full {
		return
	}
	if len(p.file.Rules)+len(dests)*len(ranges) > maxFileRules {
		p.full = true
		p.failAt(n, "too many: with this rule there are more than %d combinations of destinations and ports", maxFileRules)
		return
	}
	for _, dest := range dests {
		for _, r := range ranges {
			p.file.Rules = append(p.file.Rules, Rule{
				Dest: dest.Dest, Any: dest.Any, LowPort: r.low, HiPort: r.high, Proto: proto, Route: route,
				From: Source{p.file.Name, n.Line, n.Column},
			})
		}
	}
	p.items = append(p.items, item)
}

// destHint adds to what is wrong with a destination how a policy file says it.
func destHint(text, msg string) string {
	addr, ports, ok := strings.Cut(text, ":")
	if cut, isProto := strings.CutSuffix(ports, "/tcp"); ok && isProto {
		ports = cut
	}
	if _, _, wrong := parsePorts(ports); ok && wrong == nil {
		if _, _, wrong := parseDest(addr); wrong == nil {
			if addr == "*" {
				addr = `"*"`
			}
			return fmt.Sprintf("ports have a key of their own: to: %s, and ports: %s", addr, ports)
		}
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Is6() {
		return destIsIPv4
	}
	return strings.Replace(msg, " (nor /tcp or /udp)", "", 1)
}

func (p *fileParser) mappings(list []*yaml.Node) {
	seen4, seen6 := map[netip.Prefix]int{}, map[netip.Prefix]int{}
	for _, n := range list {
		before := p.count()
		values := p.mapping(n, "a mapping of eam", mappingKeys)
		var m nat64.Mapping
		var texts [2]fileText
		for i, prefix := range []*netip.Prefix{&m.IPv4, &m.IPv6} {
			key := mappingKeys[i]
			value := values[key.name]
			if value == nil {
				continue
			}
			t, ok := p.scalar(value, key)
			if !ok {
				continue
			}
			texts[i] = t
			var err error
			if *prefix, err = netip.ParsePrefix(t.text); err != nil {
				addr, addrErr := netip.ParseAddr(t.text)
				if addrErr != nil || addr.Is4() != (i == 0) || addr.Zone() != "" {
					p.failIn(t, 0, len(t.text), "not an %s prefix; for example %s", []string{"IPv4", "IPv6"}[i], key.example)
					continue
				}
				*prefix = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		if values == nil || p.count() > before {
			continue
		}
		if wrong := m.Check(); wrong != nil {
			t := texts[0]
			if wrong.IPv6 {
				t = texts[1]
			}
			p.failIn(t, 0, len(t.text), "%s", wrong.Msg)
			continue
		}
		if line, ok := seen4[m.IPv4]; ok {
			p.failIn(texts[0], 0, len(texts[0].text), "%s is mapped already, on line %d", m.IPv4, line)
			continue
		}
		if line, ok := seen6[m.IPv6]; ok {
			p.failIn(texts[1], 0, len(texts[1].text), "%s is mapped already, on line %d", m.IPv6, line)
			continue
		}
		seen4[m.IPv4], seen6[m.IPv6] = n.Line, n.Line
		p.file.Mappings = append(p.file.Mappings, m)
	}
}
