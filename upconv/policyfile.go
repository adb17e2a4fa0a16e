package upconv

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// PolicyFile is what a policy file says.
type PolicyFile struct {
	Name     string
	Rules    []Rule    // their From says where; one that was written as one may be several
	Mappings []Mapping // for destinations whose route is nat64
	Written  int       // how many rules the file has
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

// ReadPolicyFile reads a policy file. If what it says is wrong the error is FileErrors.
func ReadPolicyFile(path string) (*PolicyFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPolicyFile+1))
	if err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	return ParsePolicyFile(path, text)
}

// Routes returns the routes of the rules, each once, in their order.
func (f *PolicyFile) Routes() []Route {
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

// ParsePolicyFile reads the text of a policy file; name is what errors call it. The format is YAML without
// anchors, aliases and tags, in UTF-8:
//
//	version: 1
//	egress:
//	  - to: [10.0.0.0/8, 192.168.0.0/16]   # or one, or "*"
//	    ports: 443, 8000-8999              # all if left out
//	    proto: tcp                         # tcp or udp; both if left out
//	    via: netns:blue
//	eam:
//	  - {ipv4: 192.0.2.0/24, ipv6: 2001:db8:aaaa::/120}
//
// The error is FileErrors, which has all that is wrong; of more than a thousand errors it has the first
// thousand found, and how many more there are.
func ParsePolicyFile(name string, text []byte) (*PolicyFile, error) {
	p := &fileParser{file: &PolicyFile{Name: name}}
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
	file  *PolicyFile
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
	first     int // index of its first Rule
}

// fileText is a piece of a scalar.
type fileText struct {
	text  string
	node  *yaml.Node
	start int // offset in node.Value
}

// fail notes an error. Lines and columns begin at 1.
func (p *fileParser) fail(line, column, width int, format string, args ...any) {
	if len(p.errs) == maxFileErrors {
		p.dropped++
		return
	}
	if n := len(p.lines); n > 0 && line > n { // the end, which the parser may take for a line of its own
		line, column = n, utf8.RuneCountInString(p.lines[n-1])+1
	}
	e := &FileError{File: p.file.Name, Line: max(1, line), Column: max(1, column), Width: max(1, width), Msg: fmt.Sprintf(format, args...)}
	if len(p.lines) > 0 {
		e.Source = p.lines[e.Line-1]
	}
	p.errs = append(p.errs, e)
}

// count counts the errors so far.
func (p *fileParser) count() int { return len(p.errs) + p.dropped }

// failAt notes an error about a node.
func (p *fileParser) failAt(n *yaml.Node, format string, args ...any) {
	width := 1
	if n.Kind == yaml.ScalarNode {
		width = utf8.RuneCountInString(n.Value)
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			width += 2
		}
		if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			width = 1
		}
	}
	p.fail(n.Line, n.Column, width, format, args...)
}

// failIn notes an error about a part of a scalar, by offsets into its value.
func (p *fileParser) failIn(t fileText, start, end int, format string, args ...any) {
	n := t.node
	start, end = t.start+start, t.start+end
	column := n.Column
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		column++
	}
	// Where the value stands in the source as it is, without escapes and line breaks, the part can be pointed at.
	if n.Line >= 1 && n.Line <= len(p.lines) && end <= len(n.Value) {
		if line := []rune(p.lines[n.Line-1]); column-1 <= len(line) && strings.HasPrefix(string(line[column-1:]), n.Value) {
			p.fail(n.Line, column+utf8.RuneCountInString(n.Value[:start]), utf8.RuneCountInString(n.Value[start:end]), format, args...)
			return
		}
	}
	p.failAt(n, format, args...)
}

// parse returns the root of the document, or nil and has noted an error.
func (p *fileParser) parse(text []byte) *yaml.Node {
	if !p.checkText(text) {
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	var document, second yaml.Node
	if err == nil {
		err = loader.Load(&document)
	}
	if errors.Is(err, io.EOF) || err == nil && (document.Kind != yaml.DocumentNode || len(document.Content) == 0) {
		p.fail(1, 1, 1, "nothing in it; a policy begins with version: 1")
		return nil
	}
	if err == nil {
		if err = loader.Load(&second); err == nil {
			n := &second
			if len(n.Content) > 0 {
				n = n.Content[0]
			}
			p.fail(n.Line, n.Column, 1, "a second document begins here; a policy is one (remove the --- before it)")
			return nil
		}
		if errors.Is(err, io.EOF) {
			return document.Content[0]
		}
	}
	p.syntax(err)
	return nil
}

// checkText notes what the parser would report without a place.
func (p *fileParser) checkText(text []byte) bool {
	line, column := 1, 1
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			p.fail(line, column, 1, "not UTF-8")
			return false
		case r == '\n':
			line, column = line+1, 0
		case r == '\r':
			if i+1 >= len(text) || text[i+1] != '\n' {
				line, column = line+1, 0
			}
		case r < 0x20 && r != '\t', r >= 0x7f && r < 0xa0, r == '\u2028', r == '\u2029', r == 0xfffe, r == 0xffff, r == '\ufeff' && i > 0:
			p.fail(line, column, 1, "a control character, U+%04X", r)
			return false
		case r == '\ufeff':
			column--
		}
		i += size
		column++
	}
	return true
}

// syntax notes an error of the YAML parser, with what was probably meant.
func (p *fileParser) syntax(err error) {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		p.fail(1, 1, 1, "not YAML: %v", err)
		return
	}
	mark := e.Mark
	msg := e.Message
	switch {
	case strings.Contains(e.ContextMsg, "scanning an alias"), strings.HasPrefix(msg, "unknown anchor"):
		if e.ContextMark.Line > 0 {
			mark = e.ContextMark
		}
		msg = `an alias, which a policy cannot have; every address is written "*", with the quotes`
	case strings.HasPrefix(msg, "mapping values are not allowed"):
		msg = "a colon with a space behind it cannot stand here; routes are written without the space, as in via: netns:blue"
	case mark.Line >= 1 && mark.Line <= len(p.lines) && strings.HasPrefix(strings.TrimLeft(p.lines[mark.Line-1], " "), "\t") && strings.Contains(msg, "cannot start any token"):
		msg = "YAML is indented by spaces, not by tabs"
	case e.ContextMsg != "" && e.ContextMark.Line > 0:
		msg = fmt.Sprintf("not YAML: %s, %s that begins on line %d", msg, e.ContextMsg, e.ContextMark.Line)
	default:
		msg = "not YAML: " + msg
	}
	for mark.Line > 1 && (mark.Line > len(p.lines) || p.lines[mark.Line-1] == "") { // the end of the file: there is nothing to see
		mark.Line--
		if mark.Line <= len(p.lines) {
			mark.Column = utf8.RuneCountInString(p.lines[mark.Line-1]) + 1
		}
	}
	p.fail(mark.Line, mark.Column, 1, "%s", msg)
}

// splitLines splits text where YAML sees the end of a line.
func splitLines(text string) []string {
	return strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
}

// plain notes what a policy cannot have, and reports whether the node is without it.
func (p *fileParser) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		p.fail(n.Line, n.Column, 1+len(n.Value), `an alias, which a policy cannot have; every address is written "*", with the quotes`)
	case n.Anchor != "":
		p.fail(n.Line, n.Column, 1+len(n.Anchor), "an anchor, which a policy cannot have; write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		p.fail(n.Line, n.Column, len(n.Tag), "a tag, which a policy cannot have")
	default:
		return true
	}
	return false
}

// mapping returns the values of a mapping by their keys, those only that are known and there once. Everything else is noted.
func (p *fileParser) mapping(n *yaml.Node, what string, keys []fileKey) map[string]*yaml.Node {
	if !p.plain(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		p.failAt(n, "%s is a mapping, with the keys %s", what, keyNames(keys))
		return nil
	}
	values, lines := map[string]*yaml.Node{}, map[string]int{}
	merged := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !p.plain(key) {
			continue
		}
		if key.Kind != yaml.ScalarNode {
			p.failAt(key, "not a key; %s has the keys %s", what, keyNames(keys))
			continue
		}
		if key.Value == "<<" && key.Tag == "!!merge" {
			p.failAt(key, "a merge key, which a policy cannot have; write the keys out")
			merged = true
			continue
		}
		if !slices.ContainsFunc(keys, func(k fileKey) bool { return k.name == key.Value }) {
			if meant := meantKey(key.Value, keys); meant != "" {
				p.failAt(key, "unknown key %q; did you mean %q?", key.Value, meant)
			} else {
				p.failAt(key, "unknown key %q; %s has the keys %s", key.Value, what, keyNames(keys))
			}
			continue
		}
		if line, ok := lines[key.Value]; ok {
			p.failAt(key, "%q is there already, on line %d; write both as one", key.Value, line)
			continue
		}
		values[key.Value], lines[key.Value] = value, key.Line
	}
	for _, k := range keys {
		if k.required && !merged && lines[k.name] == 0 && !misspelt(n, k, keys) {
			p.fail(n.Line, n.Column, 1, "%s needs %q, for example %s", what, k.name, k.example)
		}
	}
	return values
}

func keyNames(keys []fileKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return strings.Join(names, ", ")
}

// meantKey returns the key that is called name by mistake, or "".
func meantKey(name string, keys []fileKey) string {
	var names []string
	lower := strings.ToLower(name)
	for _, k := range keys {
		if slices.Contains(k.others, lower) || k.name == lower {
			return k.name
		}
		names = append(names, k.name)
	}
	return closest(lower, names)
}

// misspelt reports whether a key is missing because it is misspelt, which has been noted.
func misspelt(n *yaml.Node, k fileKey, keys []fileKey) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != k.name && meantKey(n.Content[i].Value, keys) == k.name {
			return true
		}
	}
	return false
}

// sequence returns the elements of a sequence.
func (p *fileParser) sequence(n *yaml.Node, key fileKey, what string) []*yaml.Node {
	if !p.plain(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		p.failAt(n, "%s is a list %s, each with a dash before it: %s", key.name, what, key.example)
		return nil
	}
	return n.Content
}

// scalar returns a value that is one piece of text.
func (p *fileParser) scalar(n *yaml.Node, key fileKey) (fileText, bool) {
	if !p.plain(n) {
		return fileText{}, false
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0:
		p.failAt(n, "%s has no value; for example %s", key.name, key.example)
	case n.Kind != yaml.ScalarNode:
		p.failAt(n, "%s is one value; for example %s", key.name, key.example)
	default:
		return fileText{n.Value, n, 0}, true
	}
	return fileText{}, false
}

// list returns the values of a list, which may also be written as one value or several with commas between.
func (p *fileParser) list(n *yaml.Node, key fileKey) (texts []fileText) {
	if n.Kind == yaml.SequenceNode {
		if p.plain(n) && len(n.Content) == 0 {
			p.failAt(n, "an empty list; for example %s", key.example)
		}
		for _, element := range n.Content {
			if t, ok := p.scalar(element, key); ok {
				texts = append(texts, t)
			}
		}
		return texts
	}
	whole, ok := p.scalar(n, key)
	if !ok {
		return nil
	}
	at := 0
	for part := range strings.SplitSeq(whole.text, ",") {
		trimmed := strings.Trim(part, " \t")
		texts = append(texts, fileText{trimmed, n, at + strings.Index(part, trimmed)})
		at += len(part) + 1
	}
	return texts
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
	p.hidden()
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
		var m Mapping
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
		if wrong := m.check(); wrong != nil {
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

// hidden notes rules, and destinations and ports of rules, that never apply.
func (p *fileParser) hidden() {
	rules := p.file.Rules
	isHidden := make([]bool, len(rules))
	found := hiddenIn(rules)
	for _, i := range found {
		isHidden[i] = true
	}
	told := 0
	for k := range p.items {
		item := &p.items[k]
		width := max(1, len(item.ports))
		all := func(tos, ports []int) bool {
			for _, t := range tos {
				for _, q := range ports {
					if !isHidden[item.first+t*width+q] {
						return false
					}
				}
			}
			return true
		}
		tell := func(tos, ports []int, t fileText, what string) {
			told++
			by := "the rules before it together already take"
			if told <= 100 { // finding them takes long
				by = p.hiders(item, tos, ports, width)
			}
			if t.node == nil {
				p.failAt(item.node, "%s never applies: %s all of it; move it up, or remove it", what, by)
			} else {
				p.failIn(t, 0, len(t.text), "%s never applies here: %s all of it; move this rule up, or remove it", what, by)
			}
		}
		everyTo, everyPort := upTo(len(item.to)), upTo(width)
		if all(everyTo, everyPort) {
			tell(everyTo, everyPort, fileText{}, "this rule")
			continue
		}
		for t := range item.to {
			if all([]int{t}, everyPort) {
				tell([]int{t}, everyPort, item.to[t], item.to[t].text)
			}
		}
		for q := range item.ports {
			if all(everyTo, []int{q}) {
				tell(everyTo, []int{q}, item.ports[q], "port "+item.ports[q].text)
			}
		}
	}
}

// hiders says which rules hide some of those of an item.
func (p *fileParser) hiders(item *fileItem, tos, ports []int, width int) string {
	rules := p.file.Rules
	lines := map[int]bool{}
	for _, t := range tos {
		for _, q := range ports {
			i := item.first + t*width + q
			by := slices.IndexFunc(rules[:i], func(r Rule) bool { return r.hides(&rules[i]) })
			if by < 0 || len(lines) > 3 {
				return "the rules before it together already take"
			}
			lines[rules[by].From.Line] = true
		}
	}
	var list []int
	for line := range lines {
		list = append(list, line)
	}
	slices.Sort(list)
	switch {
	case len(list) == 1 && list[0] == item.node.Line:
		return "the same rule already takes"
	case len(list) == 1:
		return fmt.Sprintf("the rule on line %d already takes", list[0])
	}
	text := fmt.Sprint("the rules on lines ", list[0])
	for i, line := range list[1:] {
		separator := ", "
		if i == len(list)-2 {
			separator = " and "
		}
		text += fmt.Sprint(separator, line)
	}
	return text + " already take"
}

// upTo returns 0 to n-1.
func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}
