package upconv

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParseDestination(t *testing.T) {
	a := addr("192.0.2.1")
	for in, want := range map[string]Destination{
		"192.0.2.1":                 {a, 0, 65535, TCP},
		"192.0.2.1/udp":             {a, 0, 65535, UDP},
		"192.0.2.1:80":              {a, 80, 80, TCP},
		"192.0.2.1:80/tcp":          {a, 80, 80, TCP},
		"192.0.2.1:53/udp":          {a, 53, 53, UDP},
		"::ffff:192.0.2.1":          {a, 0, 65535, TCP},
		"[::ffff:192.0.2.1]":        {a, 0, 65535, TCP},
		"[::ffff:192.0.2.1]:53/udp": {a, 53, 53, UDP},
	} {
		if got, err := ParseDestination(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, c := range []struct {
		in         string
		start, end int
	}{
		{"", 0, 0}, {"example.com", 0, 11}, {"192.0.2.1:", 10, 10}, {"192.0.2.1:http", 10, 14}, {"192.0.2.1:65536", 10, 15}, {"192.0.2.1/24", 10, 12}, {"192.0.2.1/", 10, 10},
		{"2001:db8::1", 0, 11}, {"[2001:db8::1]:80", 0, 13}, {"*", 0, 1}, {"*:80", 0, 1}, {":80", 0, 0}, {"[]", 0, 2},
	} {
		_, err := ParseDestination(c.in)
		checkSyntaxError(t, c.in, c.start, c.end, err)
	}
}

func FuzzParseDestination(f *testing.F) {
	f.Add("192.0.2.1:80/udp")
	f.Add("[::ffff:192.0.2.1]:1")
	f.Fuzz(func(t *testing.T, in string) {
		d, err := ParseDestination(in)
		if err != nil {
			var e *SyntaxError
			if !errors.As(err, &e) || e.Start < 0 || e.End < e.Start || e.End > len(in) {
				t.Fatalf("%q: %#v", in, err)
			}
			return
		}
		if again, err := ParseDestination(d.String()); err != nil || again != d {
			t.Fatalf("%q is %v, written %q, which is %v, %v", in, d, d, again, err)
		}
	})
}

func TestTranslate(t *testing.T) {
	mappings, err := NewMappings([]Mapping{mapping("10.0.0.0/24", "2001:db8:aaaa::/120")})
	if err != nil {
		t.Fatal(err)
	}
	own := prefix64(t, "2001:db8:64::/96")
	for _, c := range []struct {
		route, dst string
		found      Prefix64
		want       string // address, or part of the error
	}{
		{"nat64:2001:db8::/32", "192.0.2.33", Prefix64{}, "2001:db8:c000:221::"},
		{"nat64:2001:db8::/32", "192.0.2.33", own, "2001:db8:c000:221::"},
		{"nat64:auto", "192.0.2.33", own, "2001:db8:64::c000:221"},
		{"nat64:auto", "192.0.2.33", Prefix64{}, "no NAT64 prefix found"},
		{"nat64:auto", "10.0.0.7", Prefix64{}, "2001:db8:aaaa::7"},
		{"nat64:64:ff9b::/96", "10.0.0.7", Prefix64{}, "2001:db8:aaaa::7"},
		{"nat64:64:ff9b::/96", "10.0.1.7", Prefix64{}, "10.0.1.7 is not global (10.0.0.0/8, RFC 1918)"},
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

// A prefix is looked for once, and only where it matters.
func TestExplainPrefixes(t *testing.T) {
	x, err := NewExplainer(&Config{
		Rules: mustRules(t, "203.0.113.0/24=nat64:auto", "198.51.100.0/24=nat64:2001:db8::/96"), Via: Route{Kind: NAT64, Target: "auto"},
		Mappings: []Mapping{mapping("203.0.113.7/32", "2001:db8:7::/128")},
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	x.Prefixes = func() ([]netip.Prefix, error) { asked++; return nil, ErrNoNAT64 }
	explain := func(dst string) string { return x.Explain(Destination{addr(dst), 80, 80, TCP})[0].Connects }
	for _, c := range []struct {
		dst, want string
		asked     int
	}{
		{"203.0.113.7", "[2001:db8:7::]:80, as eam maps 203.0.113.7/32 to 2001:db8:7::/128", 0},
		{"198.51.100.1", "[2001:db8::c633:6401]:80, which is 198.51.100.1 under 2001:db8::/96", 0},
		{"203.0.113.8", "nothing: " + ErrNoNAT64.Error(), 1},
		{"192.0.2.1", "nothing: " + ErrNoNAT64.Error(), 1},
	} {
		if got := explain(c.dst); got != c.want || asked != c.asked {
			t.Errorf("%s: %q, asked %d times, want %q and %d", c.dst, got, asked, c.want, c.asked)
		}
	}
}

func TestOwnAddresses(t *testing.T) {
	assigned, err := OwnAddresses("")
	if err != nil {
		t.Fatal(err)
	}
	if !assigned(addr("127.0.0.1")) || assigned(addr("203.0.113.99")) {
		t.Error("127.0.0.1 is not an address here, or 203.0.113.99 is")
	}
	if _, err := OwnAddresses("/nosuch"); err == nil {
		t.Error("no error for a namespace that is not there")
	}
}
