package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upconv/upconv/upconv/internal/ip4"
)

// decideNaively is what Decide must be equal to: the rules one by one.
func decideNaively(rules []Rule, dst netip.AddrPort, proto Proto, assigned func(netip.Addr) bool) int {
	block := localBlock(netip.PrefixFrom(dst.Addr(), 32))
	own := block < 0 && assigned != nil && assigned(dst.Addr())
	for i := range rules {
		if !rules[i].Matches(dst, proto) {
			continue
		}
		if block >= 0 && localBlock(rules[i].Dest) != block || own && !rules[i].Dest.IsSingleIP() {
			continue // matches, but is not expressly about what is local here
		}
		return i
	}
	if block >= 0 || own {
		return -1
	}
	return -2
}

// compare compares Decide with the naive matcher, each rule having a route of its own.
func compare(t testing.TB, p *Policy, rules []Rule, dst netip.AddrPort, proto Proto, assigned func(netip.Addr) bool) {
	t.Helper()
	d := p.Decide(dst, proto, assigned)
	want := decideNaively(rules, dst, proto, assigned)
	got := slices.IndexFunc(p.rules, func(r Rule) bool { return r.Route == *d.Route })
	switch d.Rule {
	case RuleLocal:
		got = -1
	case RuleDefault:
		got = -2
	}
	if got != want {
		t.Fatalf("%s/%s (own address: %v): rule %d (%s), want %d\nrules %s", dst, proto, assigned(dst.Addr()), got, d.Rule, want, rules)
	}
}

// randomRules makes rules of few bits, so that they meet.
func randomRules(r *rand.Rand, n int) []Rule {
	rules := make([]Rule, n)
	for i := range rules {
		rule := Rule{HiPort: 65535, Proto: Proto(1 + r.IntN(3)), Route: Route{Kind: Netns, Target: fmt.Sprint("n", i)}}
		bits := r.IntN(33)
		if r.IntN(2) == 0 {
			bits = 32 - r.IntN(4)
		}
		rule.Dest = netip.PrefixFrom(randomAddr(r), bits).Masked()
		if r.IntN(8) == 0 {
			rule.Dest = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		if r.IntN(2) == 0 {
			rule.LowPort = randomPort(r)
			rule.HiPort = max(rule.LowPort, randomPort(r))
		}
		rules[i] = rule
	}
	return rules
}

func randomAddr(r *rand.Rand) netip.Addr {
	edges := []uint32{0x00000000, 0x00ffffff, 0x7f000000, 0x7fffffff, 0xa9fe0000, 0xa9feffff, 0xe0000000, 0xefffffff, 0xffffffff, 0xcb007100, 0x0a000000, 0x0a0000ff}
	return ip4.Addr(edges[r.IntN(len(edges))] + uint32(r.IntN(9)) - 4)
}

func randomPort(r *rand.Rand) uint16 {
	return []uint16{0, 1, 80, 81, 82, 65534, 65535}[r.IntN(7)]
}

func TestLookupAgainstNaive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	for range 300 {
		rules := randomRules(r, r.IntN(40))
		p := Compile(rules, Route{Kind: Netns, Target: "out"})
		own := randomAddr(r)
		assigned := func(a netip.Addr) bool { return a == own }
		for range 300 {
			a := randomAddr(r)
			if r.IntN(4) == 0 {
				a = own
			}
			compare(t, p, rules, netip.AddrPortFrom(a, randomPort(r)), Proto(1+r.IntN(3)), assigned)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint8(20), uint32(0x7f000001), uint16(80), true)
	f.Fuzz(func(t *testing.T, a, b uint64, n uint8, dst uint32, port uint16, own bool) {
		r := rand.New(rand.NewPCG(a, b))
		rules := randomRules(r, int(n))
		p := Compile(rules, Route{Kind: Netns, Target: "out"})
		assigned := func(netip.Addr) bool { return own }
		compare(t, p, rules, netip.AddrPortFrom(ip4.Addr(dst), port), TCP, assigned)
		for range 50 {
			compare(t, p, rules, netip.AddrPortFrom(randomAddr(r), randomPort(r)), Proto(1+r.IntN(3)), assigned)
		}
	})
}

// hiddenNaively tries every address and port at which anything changes.
func hiddenNaively(rules []Rule) []int {
	addrs, ports := map[uint32]bool{0: true}, map[uint16]bool{0: true}
	cut := func(p netip.Prefix) {
		start := ip4.Number(p.Addr())
		addrs[start] = true
		addrs[(start|^ip4.Mask(p.Bits()))+1] = true
	}
	for _, b := range localBlocks {
		cut(b)
	}
	for i := range rules {
		cut(rules[i].Dest)
		ports[rules[i].LowPort] = true
		ports[rules[i].HiPort+1] = true
	}
	seen := map[int]bool{}
	for a := range addrs {
		for port := range ports {
			seen[decideNaively(rules, netip.AddrPortFrom(ip4.Addr(a), port), TCP, nil)] = true
			seen[decideNaively(rules, netip.AddrPortFrom(ip4.Addr(a), port), UDP, nil)] = true
		}
	}
	var hidden []int
	for i := range rules {
		if !seen[i] {
			hidden = append(hidden, i)
		}
	}
	return hidden
}

func TestHiddenAgainstNaive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 2))
	total := 0
	for range 2000 {
		rules := randomRules(r, r.IntN(14))
		got, want := hiddenIn(rules), hiddenNaively(rules)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: hidden are %v, want %v\nrules %s", seed, got, want, rules)
		}
		total += len(want)
	}
	if total == 0 {
		t.Error("no rule was ever hidden")
	}
}

func TestHidden(t *testing.T) {
	for _, c := range []struct {
		rules string
		want  string
	}{
		{"203.0.113.0/25=direct 203.0.113.128/25=direct 203.0.113.0/24=reject", `rule "203.0.113.0/24=reject" never applies: the rules before it together already take all of it`},
		{"203.0.113.0/25=direct 203.0.113.128/26=direct 203.0.113.0/24=reject", ""},
		{"*:0-79=direct *:80-65535/tcp=direct *:80-65535/udp=direct *=reject", "rules before it together"},
		{"*/tcp=direct *:0-99/udp=direct 203.0.113.1:80=reject", "rules before it together"},
		{"0.0.0.0/1=direct 128.0.0.0/1=direct *=reject", "rules before it together"},
		{"0.0.0.0/1=direct 128.0.0.0/1=direct 127.0.0.1=reject", ""},                                                       // the wide ones leave it alone
		{"0.0.0.0/1=direct 128.0.0.0/2=direct 192.0.0.0/3=direct 240.0.0.0/4=direct *=reject", "rules before it together"}, // 224.0.0.0/4 is local
		{"224.0.0.0/4=direct 239.0.0.0/8=reject", "already takes all of it"},
		{"203.0.113.7=direct 203.0.113.7=reject", `rule 1, "203.0.113.7=direct", already takes all of it`},
	} {
		_, err := New(mustRules(t, strings.Fields(c.rules)...), Route{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error %v, want %q", c.rules, err, c.want)
		}
	}
}

// Rules of one place are one rule, and flags may hide those of a file.
func TestSources(t *testing.T) {
	rules := mustRules(t, "203.0.113.7=netns:a", "203.0.113.0/24=netns:b", "203.0.113.0/28=netns:b", "198.51.100.1=netns:c", "203.0.113.7=netns:d", "203.0.113.9=netns:d")
	first, second, third := Source{"p.yaml", 3, 5}, Source{"p.yaml", 5, 5}, Source{"p.yaml", 7, 5}
	for i, s := range []Source{{}, first, first, second, third, third} {
		rules[i].From = s
	}
	if _, err := New(rules, Route{}); err == nil || !strings.Contains(err.Error(), `p.yaml:7: rule "203.0.113.7=netns:d" never applies: rule 2, "203.0.113.0/24=netns:b"`) {
		t.Errorf("error %v", err)
	}
	p, err := New(rules[:4], Route{})
	if err != nil {
		t.Fatal(err)
	}
	for dst, want := range map[string]string{"203.0.113.7": "1", "203.0.113.8": "2", "203.0.113.200": "2", "198.51.100.1": "3", "198.51.100.2": RuleDefault} {
		d := p.Decide(netip.AddrPortFrom(addr(dst), 80), TCP, nil)
		if d.Rule != want {
			t.Errorf("%s: rule %s, want %s", dst, d.Rule, want)
		}
		if r := p.RuleOf(d); (r == nil) != (want == RuleDefault) || r != nil && !r.Dest.Contains(addr(dst)) {
			t.Errorf("%s: rule %v", dst, r)
		}
	}
}

// manyRules makes n rules of the kind, and returns destinations that they are about.
func manyRules(kind string, n int) (rules []Rule, dsts []netip.AddrPort) {
	for i := range n {
		r := Rule{HiPort: 65535, Proto: TCP | UDP, Route: Route{Kind: Netns, Target: "n"}}
		a := uint32(0x0a000000)
		port := uint16(443)
		switch kind {
		case "networks":
			a += uint32(i) << 8
			r.Dest = netip.PrefixFrom(ip4.Addr(a), 24)
		case "addresses":
			a += uint32(i) * 5
			r.Dest = netip.PrefixFrom(ip4.Addr(a), 32)
		case "ports":
			r.Dest, port = netip.PrefixFrom(netip.IPv4Unspecified(), 0), uint16(i)*6
			r.LowPort, r.HiPort = port, port+1
		case "nested": // as deep as can be, with ports in each
			bits := i % 28
			r.Dest = netip.PrefixFrom(ip4.Addr(a), 32-bits).Masked()
			port = uint16(i / 28 * 2)
			r.LowPort, r.HiPort = port, port
			port |= 1 // no rule is about it: all are looked at
		}
		rules = append(rules, r)
		dsts = append(dsts, netip.AddrPortFrom(ip4.Addr(a+1), port))
	}
	return rules, dsts
}

func TestManyRules(t *testing.T) {
	for _, kind := range []string{"networks", "addresses", "ports", "nested"} {
		rules, dsts := manyRules(kind, 10000)
		began := time.Now()
		p, err := New(rules, Route{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("10000 %s: compiled in %v", kind, time.Since(began))
		nobody := func(netip.Addr) bool { return false }
		for i := 0; i < len(dsts); i += 97 {
			want := decideNaively(rules, dsts[i], TCP, nobody)
			d := p.Decide(dsts[i], TCP, nobody)
			if want >= 0 && d.Rule != fmt.Sprint(want+1) || want == -2 && d.Rule != RuleDefault {
				t.Fatalf("%s: %s: rule %s, want %d", kind, dsts[i], d.Rule, want+1)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, kind := range []string{"networks", "addresses", "ports", "nested"} {
		for _, n := range []int{1, 100, 10000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				rules, dsts := manyRules(kind, n)
				p := Compile(rules, Route{})
				rand.Shuffle(len(dsts), func(i, j int) { dsts[i], dsts[j] = dsts[j], dsts[i] })
				own := map[netip.Addr]struct{}{addr("192.0.2.1"): {}}
				assigned := func(a netip.Addr) bool { _, ok := own[a]; return ok }
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					p.Decide(dsts[i], TCP, assigned)
					if i++; i == len(dsts) {
						i = 0
					}
				}
			})
		}
	}
}
