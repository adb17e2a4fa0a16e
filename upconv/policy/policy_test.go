package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/nat64"
)

func TestParseRoute(t *testing.T) {
	for in, want := range map[string]Route{
		"direct":                 {Kind: Direct},
		"netns:blue":             {Kind: Netns, Target: "blue"},
		"netns:/run/netns/blue":  {Kind: Netns, Target: "/run/netns/blue"},
		"netns:host":             {Kind: Netns, Target: Host},
		"reject":                 {Kind: Reject, Errno: unix.ENETUNREACH},
		"reject:ECONNREFUSED":    {Kind: Reject, Errno: unix.ECONNREFUSED},
		"reject:EAGAIN":          {Kind: Reject, Errno: unix.EAGAIN},
		"reject:EWOULDBLOCK":     {Kind: Reject, Errno: unix.EAGAIN},
		"nat64:auto":             {Kind: NAT64, Target: "auto"},
		"nat64:2001:db8:64::/96": {Kind: NAT64, Target: "2001:db8:64::/96"},
		"inet6:2001:db8::1":      {Kind: Inet6, Target: "2001:db8::1"},
		"unix:/run/s":            {Kind: UnixPath, Target: "/run/s"},
		"nat64:2001:DB8:0::/96":  {Kind: NAT64, Target: "2001:db8::/96"},
		"inet6:fe80::1%eth0":     {Kind: Inet6, Target: "fe80::1%eth0"},
		"inet6:2001:DB8:0::1":    {Kind: Inet6, Target: "2001:db8::1"},
		"inet6:::1":              {Kind: Inet6, Target: "::1"},
		"unix:@mesh":             {Kind: UnixPath, Target: "@mesh"},

		"unix:/run/s?proxy=v2":             {Kind: UnixPath, Target: "/run/s", ProxyV2: true},
		"unix:/run/s?root=target":          {Kind: UnixPath, Target: "/run/s", TargetRoot: true},
		"unix:/run/s?root=target&proxy=v2": {Kind: UnixPath, Target: "/run/s", ProxyV2: true, TargetRoot: true},
		"unix:@mesh?proxy=v2":              {Kind: UnixPath, Target: "@mesh", ProxyV2: true},
		"unix:/run/s?":                     {Kind: UnixPath, Target: "/run/s"},
		"unix:/run/a?b?":                   {Kind: UnixPath, Target: "/run/a?b"},
		"unix:/run/a?b=c&d?proxy=v2":       {Kind: UnixPath, Target: "/run/a?b=c&d", ProxyV2: true},

		"unix:@" + strings.Repeat("a", 107): {Kind: UnixPath, Target: "@" + strings.Repeat("a", 107)},
		"unix:/" + strings.Repeat("a", 106): {Kind: UnixPath, Target: "/" + strings.Repeat("a", 106)},
	} {
		got, err := ParseRoute(in)
		if err != nil || got != want {
			t.Errorf("ParseRoute(%q) = %+v, %v, want %+v", in, got, err, want)
		}
		if again, err := ParseRoute(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which reads as %+v, %v", in, got, again, err)
		}
	}
}

// A route is a key of maps, and its typed forms are what was written.
func TestRouteParts(t *testing.T) {
	for _, in := range []string{"nat64:2001:db8::/40", "inet6:fe80::1%eth0", "nat64:auto", "unix:/a?proxy=v2"} {
		r, err := ParseRoute(in)
		again, _ := ParseRoute(in)
		if err != nil || !map[Route]bool{r: true}[again] {
			t.Errorf("%q: %v, %v and %v", in, err, r, again)
		}
		p, ok := r.Prefix()
		if want := in == "nat64:2001:db8::/40"; ok != want || ok && p.String() != "2001:db8::/40" {
			t.Errorf("%q: prefix %v, %v", in, p, ok)
		}
		if want := in == "inet6:fe80::1%eth0"; r.Addr().IsValid() != want || want && r.Addr().Zone() != "eth0" {
			t.Errorf("%q: address %v", in, r.Addr())
		}
		if n := testing.AllocsPerRun(10, func() { r.Prefix(); r.Addr() }); n != 0 {
			t.Errorf("%q: %v allocations", in, n)
		}
	}
}

// The part of the input that an error points at is marked by brackets.
func TestParseRouteErrors(t *testing.T) {
	for _, marked := range []string{
		"[]", "[bogus]", "[bogus]:x", "[netns ]:x", "direct:[x]", "direct:[]", "netns[]", "netns:[]", "netns:[a/b]", "netns:[..]",
		"reject:[]", "reject:[42]", "reject:[ENOSUCH]", "reject:[econnrefused]", "nat64[]", "nat64:[192.0.2.0/24]", "nat64:2001:db8::/[33]",
		"nat64:[2001:db8::1/96]", "inet6[]", "inet6:[192.0.2.1]", "inet6:[::ffff:192.0.2.1]", "unix[]", "unix:[run/s]",
		"unix:[/" + strings.Repeat("a", 107) + "]", "unix:[@" + strings.Repeat("a", 108) + "]", "unix:[@]", "unix:[]?proxy=v2", "unix:[/a\x00b]",
		"unix:/run/s?[proxy]", "unix:/run/s?[proxy=v1]", "unix:/run/s?[proxi=v2]", "unix:/run/s?proxy=v2&[proxy=v2]", "unix:/run/s?proxy=v2&[]",
		"unix:@mesh?[root=target]", "unix:/run/s?[root=host]", "unix:/run/a?[b]", "nat64:2001:db8::/[x]", "nat64:2001:db8::/[129]", "nat64:[2001:db8]", "nat64:[64:ff9b::1]",
		"nat64:[2001:db8:0:0:100::/96]", "nat64:[::/96]", "nat64:[ff02::/32]", "inet6:[::]", "inet6:[ff02::1]", "inet6:[fe80::1]", "inet6:2001:db8::1[%eth0]",
		"inet6:fe80::1%[abcdefghijklmnop]", "inet6:[2001:db8::1/64]",
	} {
		in, start, end := unmark(marked)
		_, err := ParseRoute(in)
		checkSyntaxError(t, in, start, end, err)
	}
}

func TestDidYouMean(t *testing.T) {
	for in, say := range map[string]string{
		"nat46:auto": "did you mean nat64?", "Netns:blue": "did you mean netns?", "dirct": "did you mean direct?", "rejekt": "did you mean reject?",
		"bogus": "routes are direct", "reject:ECONREFUSED": "did you mean ECONNREFUSED?", "reject:econnrefused": "did you mean ECONNREFUSED?", "reject:nothing": "such as ECONNREFUSED",
	} {
		if _, err := ParseRoute(in); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: error %v, want %q", in, err, say)
		}
	}
}

func TestParseRule(t *testing.T) {
	any4 := netip.MustParsePrefix("0.0.0.0/0")
	blue := Route{Kind: Netns, Target: "blue"}
	for in, want := range map[string]Rule{
		"192.0.2.7=netns:blue":                       {Dest: netip.MustParsePrefix("192.0.2.7/32"), HiPort: 65535, Proto: TCP | UDP, Route: blue},
		"192.0.2.0/24=netns:blue":                    {Dest: netip.MustParsePrefix("192.0.2.0/24"), HiPort: 65535, Proto: TCP | UDP, Route: blue},
		"*=netns:blue":                               {Dest: any4, Any: true, HiPort: 65535, Proto: TCP | UDP, Route: blue},
		"*:443=netns:blue":                           {Dest: any4, Any: true, LowPort: 443, HiPort: 443, Proto: TCP | UDP, Route: blue},
		"*:8000-8999/tcp=netns:blue":                 {Dest: any4, Any: true, LowPort: 8000, HiPort: 8999, Proto: TCP, Route: blue},
		"192.0.2.7/udp=netns:blue":                   {Dest: netip.MustParsePrefix("192.0.2.7/32"), HiPort: 65535, Proto: UDP, Route: blue},
		"192.0.2.0/24:0-65535/udp=netns:blue":        {Dest: netip.MustParsePrefix("192.0.2.0/24"), HiPort: 65535, Proto: UDP, Route: blue},
		"192.0.2.0/24:1/tcp=unix:/run/a=b":           {Dest: netip.MustParsePrefix("192.0.2.0/24"), LowPort: 1, HiPort: 1, Proto: TCP, Route: Route{Kind: UnixPath, Target: "/run/a=b"}},
		"0.0.0.0/0:25=reject:ECONNREFUSED":           {Dest: any4, LowPort: 25, HiPort: 25, Proto: TCP | UDP, Route: Route{Kind: Reject, Errno: unix.ECONNREFUSED}},
		"127.0.0.0/8:53=direct":                      {Dest: netip.MustParsePrefix("127.0.0.0/8"), LowPort: 53, HiPort: 53, Proto: TCP | UDP},
		"198.51.100.0/24:1-2/tcp=nat64:64:ff9b::/96": {Dest: netip.MustParsePrefix("198.51.100.0/24"), LowPort: 1, HiPort: 2, Proto: TCP, Route: Route{Kind: NAT64, Target: "64:ff9b::/96"}},
	} {
		got, err := ParseRule(in)
		if err != nil || got != want {
			t.Errorf("ParseRule(%q) = %+v, %v, want %+v", in, got, err, want)
			continue
		}
		if again, err := ParseRule(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which reads as %+v, %v", in, got, again, err)
		}
	}
}

func TestParseRuleErrors(t *testing.T) {
	for _, marked := range []string{
		"192.0.2.7[]", "[]=direct", "[]:80=direct", "[nonsense]=direct", "[example.com]:80=direct", "192.0.2.7:[]=direct", "192.0.2.7:[http]=direct",
		"192.0.2.7:[65536]=direct", "192.0.2.7:[-1]=direct", "192.0.2.7:80-[x]=direct", "192.0.2.7:[90-80]=direct", "192.0.2.0/[33]=direct",
		"192.0.2.7/[sctp]=direct", "[192.0.2.7/24]=direct", "[2001:db8::1]=direct", "[2001:db8::/32]=direct", "192.0.2.7:[+80]=direct", "192.0.2.7:[080]=direct",
		"192.0.2.7=[bogus]", "192.0.2.7=netns:[]", "192.0.2.7:80/tcp=reject:[E]", "192.0.2.7=nat64:2001:db8::/[33]", "[192.0.2]=direct", "[010.0.0.1]=direct",
	} {
		in, start, end := unmark(marked)
		_, err := ParseRule(in)
		checkSyntaxError(t, in, start, end, err)
	}
}

func unmark(marked string) (in string, start, end int) {
	start, end = strings.IndexByte(marked, '['), strings.IndexByte(marked, ']')-1
	return strings.NewReplacer("[", "", "]", "").Replace(marked), start, end
}

func checkSyntaxError(t *testing.T, in string, start, end int, err error) {
	t.Helper()
	var e *SyntaxError
	if !errors.As(err, &e) {
		t.Errorf("%q: error %v, want a *SyntaxError", in, err)
		return
	}
	if e.Start != start || e.End != end {
		t.Errorf("%q: points at %q [%d:%d], want [%d:%d]: %v", in, e.Input[e.Start:e.End], e.Start, e.End, start, end, e)
	}
}

func FuzzParseRule(f *testing.F) {
	for _, seed := range []string{"192.0.2.7:80/tcp=netns:blue", "*=reject:EPERM", "192.0.2.0/24:1-2=nat64:2001:db8::/96", "=", "a:b:c=/", "*:=unix:@"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		rule, err := ParseRule(in)
		if err != nil {
			var e *SyntaxError
			if !errors.As(err, &e) || e.Start < 0 || e.End < e.Start || e.End > len(e.Input) {
				t.Fatalf("ParseRule(%q): bad error %#v", in, err)
			}
			_ = e.Error() + e.Caret()
			return
		}
		if again, err := ParseRule(rule.String()); err != nil || again != rule {
			t.Fatalf("ParseRule(%q) = %+v, written %q, reads as %+v, %v", in, rule, rule, again, err)
		}
	})
}

func FuzzParseRoute(f *testing.F) {
	for _, seed := range []string{"direct", "netns:blue", "netns:/proc/1/ns/net", "reject:EPERM", "nat64:2001:db8::/96", "nat64:auto", "inet6:2001:db8::1", "unix:/a?b?proxy=v2&root=target", "unix:@x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		route, err := ParseRoute(in)
		if err != nil {
			var e *SyntaxError
			if !errors.As(err, &e) || e.Start < 0 || e.End < e.Start || e.End > len(e.Input) {
				t.Fatalf("ParseRoute(%q): bad error %#v", in, err)
			}
			_ = e.Error() + e.Caret()
			return
		}
		if again, err := ParseRoute(route.String()); err != nil || again != route {
			t.Fatalf("ParseRoute(%q) = %+v, written %q, reads as %+v, %v", in, route, route, again, err)
		}
	})
}

func mustRules(t *testing.T, texts ...string) []Rule {
	t.Helper()
	var rules []Rule
	for _, text := range texts {
		rule, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	return rules
}

func TestDecide(t *testing.T) {
	own := netip.MustParseAddr("198.51.100.1")
	assigned := func(a netip.Addr) bool { return a == own }
	for _, c := range []struct {
		rules, dst string
		proto      Proto
		rule       string
		route      string
	}{
		{"", "203.0.113.1:80", TCP, "default", "netns:out"},
		{"", "127.0.0.1:80", TCP, "local", "direct"},
		{"", "127.255.255.255:80", TCP, "local", "direct"},
		{"", "0.0.0.0:80", TCP, "local", "direct"},
		{"", "169.254.169.254:80", TCP, "local", "direct"},
		{"", "224.0.0.1:80", TCP, "local", "direct"},
		{"", "239.255.255.255:80", TCP, "local", "direct"},
		{"", "240.0.0.1:80", TCP, "default", "netns:out"},
		{"", "255.255.255.255:80", TCP, "local", "direct"},
		{"", "198.51.100.1:80", TCP, "local", "direct"},
		{"", "198.51.100.2:80", TCP, "default", "netns:out"},
		{"*=netns:all", "203.0.113.1:80", TCP, "1", "netns:all"},
		{"*=netns:all", "127.0.0.1:80", TCP, "local", "direct"},
		{"0.0.0.0/0=netns:all", "169.254.1.1:80", TCP, "local", "direct"},
		{"*=netns:all", "198.51.100.1:80", TCP, "local", "direct"},
		{"198.51.100.0/24=netns:n", "198.51.100.1:80", TCP, "local", "direct"},
		{"198.51.100.1=netns:n", "198.51.100.1:80", TCP, "1", "netns:n"},
		{"127.0.0.0/8=netns:n", "127.1.2.3:80", TCP, "1", "netns:n"},
		{"127.0.0.53:53=netns:n", "127.0.0.53:53", TCP, "1", "netns:n"},
		{"127.0.0.53:53=netns:n", "127.0.0.53:54", TCP, "local", "direct"},
		{"169.254.169.254=reject", "169.254.169.254:80", TCP, "1", "reject"},
		{"126.0.0.0/7=netns:n", "127.0.0.1:80", TCP, "local", "direct"},
		{"126.0.0.0/7=netns:n", "126.0.0.1:80", TCP, "1", "netns:n"},
		{"203.0.113.0/24:80=netns:a 203.0.113.0/24=netns:b", "203.0.113.9:80", TCP, "1", "netns:a"},
		{"203.0.113.0/24:80=netns:a 203.0.113.0/24=netns:b", "203.0.113.9:81", TCP, "2", "netns:b"},
		{"203.0.113.0/24:80-90/udp=netns:a", "203.0.113.9:85", TCP, "default", "netns:out"},
		{"203.0.113.0/24:80-90/udp=netns:a", "203.0.113.9:85", UDP, "1", "netns:a"},
		{"203.0.113.0/24:80-90=netns:a", "203.0.113.9:90", TCP, "1", "netns:a"},
		{"203.0.113.0/24:80-90=netns:a", "203.0.113.9:91", TCP, "default", "netns:out"},
	} {
		p, err := New(mustRules(t, strings.Fields(c.rules)...), Route{Kind: Netns, Target: "out"})
		if err != nil {
			t.Fatalf("%q: %v", c.rules, err)
		}
		d := p.Decide(netip.MustParseAddrPort(c.dst), c.proto, assigned)
		if d.Rule != c.rule || d.Route.String() != c.route {
			t.Errorf("%q: %s/%v goes by rule %s to %s, want rule %s to %s", c.rules, c.dst, c.proto, d.Rule, d.Route, c.rule, c.route)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p, err := New(mustRules(t, "203.0.113.0/24:80=netns:a", "*:25=reject"), Route{})
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.MustParseAddrPort("192.0.2.1:25")
	if n := testing.AllocsPerRun(100, func() { p.Decide(dst, TCP, func(netip.Addr) bool { return false }) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNewPolicyErrors(t *testing.T) {
	for _, c := range []struct {
		rules string
		want  string // part of the error; "": none
	}{
		{"203.0.113.0/24=direct 203.0.113.7=reject", `rule "203.0.113.7=reject" never applies: rule 1, "203.0.113.0/24=direct", already takes all of it`},
		{"*=direct 203.0.113.7:80/tcp=reject", "never applies"},
		{"203.0.113.7:80-90=direct 203.0.113.7:85=reject", "never applies"},
		{"203.0.113.7/tcp=direct 203.0.113.7=reject", ""},
		{"203.0.113.7:80=direct 203.0.113.7=reject", ""},
		{"203.0.113.7=direct 203.0.113.0/24=reject", ""},
		{"*=direct 127.0.0.53=reject", ""}, // * leaves local destinations alone
		{"127.0.0.0/8=direct 127.0.0.53=reject", "never applies"},
		{"*=direct *=reject", "never applies"},
		{"*=nat64:auto", ""},
		{"203.0.113.7=inet6:2001:db8::1 *=unix:/run/s", ""},
	} {
		_, err := New(mustRules(t, strings.Fields(c.rules)...), Route{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error %v, want %q", c.rules, err, c.want)
		}
	}
}

func TestNamespaces(t *testing.T) {
	p, err := New(mustRules(t, "203.0.113.1=netns:a", "203.0.113.2=netns:b", "203.0.113.3=netns:a", "*=reject"), Route{Kind: Netns, Target: Host})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Namespaces(), " "); got != "a b host" {
		t.Errorf("namespaces %q, want a b host", got)
	}
}

var addr = netip.MustParseAddr

func TestTranslate(t *testing.T) {
	mappings, err := nat64.NewMappings([]nat64.Mapping{{IPv4: netip.MustParsePrefix("10.0.0.0/24"), IPv6: netip.MustParsePrefix("2001:db8:aaaa::/120")}})
	if err != nil {
		t.Fatal(err)
	}
	own, err := nat64.NewPrefix(netip.MustParsePrefix("2001:db8:64::/96"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		route, dst string
		found      nat64.Prefix
		want       string // address, or part of the error
	}{
		{"nat64:2001:db8::/32", "192.0.2.33", nat64.Prefix{}, "2001:db8:c000:221::"},
		{"nat64:2001:db8::/32", "192.0.2.33", own, "2001:db8:c000:221::"},
		{"nat64:auto", "192.0.2.33", own, "2001:db8:64::c000:221"},
		{"nat64:auto", "192.0.2.33", nat64.Prefix{}, "no NAT64 prefix found"},
		{"nat64:auto", "10.0.0.7", nat64.Prefix{}, "2001:db8:aaaa::7"},
		{"nat64:64:ff9b::/96", "10.0.0.7", nat64.Prefix{}, "2001:db8:aaaa::7"},
		{"nat64:64:ff9b::/96", "10.0.1.7", nat64.Prefix{}, "10.0.1.7 is not global (10.0.0.0/8, RFC 1918)"},
		{"inet6:fe80::1%eth0", "10.0.0.7", own, "fe80::1%eth0"},
	} {
		route, err := ParseRoute(c.route)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Translate(&route, addr(c.dst), mappings, c.found)
		if err == nil && got.String() != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s: %v, %v, want %s", c.route, c.dst, got, err, c.want)
		}
		if err == nil {
			if n := testing.AllocsPerRun(10, func() { Translate(&route, addr(c.dst), mappings, c.found) }); n != 0 {
				t.Errorf("%s: %v allocations", c.route, n)
			}
		}
	}
}
