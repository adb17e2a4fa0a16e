package explain

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
	"github.com/upconv/upconv/upconv/policy/policytest"
)

var addr = netip.MustParseAddr

func mapping(v4, v6 string) nat64.Mapping {
	return nat64.Mapping{IPv4: netip.MustParsePrefix(v4), IPv6: netip.MustParsePrefix(v6)}
}

func TestParseDestination(t *testing.T) {
	a := addr("192.0.2.1")
	for in, want := range map[string]Destination{
		"192.0.2.1":                 {a, 0, 65535, policy.TCP},
		"192.0.2.1/udp":             {a, 0, 65535, policy.UDP},
		"192.0.2.1:80":              {a, 80, 80, policy.TCP},
		"192.0.2.1:80/tcp":          {a, 80, 80, policy.TCP},
		"192.0.2.1:53/udp":          {a, 53, 53, policy.UDP},
		"::ffff:192.0.2.1":          {a, 0, 65535, policy.TCP},
		"[::ffff:192.0.2.1]":        {a, 0, 65535, policy.TCP},
		"[::ffff:192.0.2.1]:53/udp": {a, 53, 53, policy.UDP},
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
		policytest.CheckSyntaxError(t, c.in, c.start, c.end, err)
	}
}

func FuzzParseDestination(f *testing.F) {
	f.Add("192.0.2.1:80/udp")
	f.Add("[::ffff:192.0.2.1]:1")
	f.Fuzz(func(t *testing.T, in string) {
		d, err := ParseDestination(in)
		if err != nil {
			var e *policy.SyntaxError
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

// A prefix is looked for once, and only where it matters.
func TestExplainPrefixes(t *testing.T) {
	x, err := New(&Config{
		Rules: policytest.Rules(t, "203.0.113.0/24=nat64:auto", "198.51.100.0/24=nat64:2001:db8::/96"), Via: policy.Route{Kind: policy.NAT64, Target: "auto"},
		Mappings: []nat64.Mapping{mapping("203.0.113.7/32", "2001:db8:7::/128")},
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	x.Prefixes = func() ([]netip.Prefix, error) { asked++; return nil, nat64.ErrNoNAT64 }
	explain := func(dst string) string { return x.Explain(Destination{addr(dst), 80, 80, policy.TCP})[0].Connects }
	for _, c := range []struct {
		dst, want string
		asked     int
	}{
		{"203.0.113.7", "[2001:db8:7::]:80, as eam maps 203.0.113.7/32 to 2001:db8:7::/128", 0},
		{"198.51.100.1", "[2001:db8::c633:6401]:80, which is 198.51.100.1 under 2001:db8::/96", 0},
		{"203.0.113.8", "nothing: " + nat64.ErrNoNAT64.Error(), 1},
		{"192.0.2.1", "nothing: " + nat64.ErrNoNAT64.Error(), 1},
	} {
		if got := explain(c.dst); got != c.want || asked != c.asked {
			t.Errorf("%s: %q, asked %d times, want %q and %d", c.dst, got, asked, c.want, c.asked)
		}
	}
}

// What becomes of a datagram depends on the modes.
func TestExplainDatagrams(t *testing.T) {
	const (
		full      = "connect(2) takes this route, and so does each send with an address"
		connected = "with --udp connected only after connect(2): a send with an address goes as it is, in the program's own namespace"
		off       = "with --udp off datagram sockets are left alone, whatever their route"
		asItIs    = "192.0.2.1:53, in the program's own namespace"
		isOf      = "with --swap-at socket it is a socket of this namespace from socket(2) on"
		wasOf     = "with --swap-at socket it is a socket of the network namespace blue until this destination is known"
		inBlue    = "192.0.2.1:53, in the network namespace blue"
		v4        = ", getsockname an address of its namespace or else of 192.0.0.0/29 (RFC 7335)"
	)
	for _, c := range []struct {
		route, via            string
		udp                   policy.UDPMode
		swapAt                policy.SwapAt
		proto                 policy.Proto
		connects, sees, notes string
	}{
		{"netns:blue", "direct", policy.UDPFull, policy.SwapAtConnect, policy.UDP, inBlue, "datagrams from 192.0.2.1:53, getsockname an address of that namespace", full},
		{"netns:blue", "direct", policy.UDPConnected, policy.SwapAtConnect, policy.UDP, inBlue, "getpeername 192.0.2.1:53, getsockname an address of that namespace", connected},
		{"netns:blue", "direct", policy.UDPOff, policy.SwapAtConnect, policy.UDP, asItIs, "what the kernel says", off},
		{"netns:blue", "direct", policy.UDPOff, policy.SwapAtConnect, policy.TCP, inBlue, "getpeername 192.0.2.1:53, getsockname an address of that namespace", ""},
		{"nat64:2001:db8::/96", "direct", policy.UDPFull, policy.SwapAtConnect, policy.UDP, "[2001:db8::c000:201]:53, which is 192.0.2.1 under 2001:db8::/96", "an IPv4 socket: datagrams from 192.0.2.1:53" + v4, full},
		{"nat64:2001:db8::/96", "direct", policy.UDPOff, policy.SwapAtConnect, policy.UDP, asItIs, "what the kernel says", off},
		{"nat64:auto", "direct", policy.UDPFull, policy.SwapAtConnect, policy.UDP, "nothing: no NAT64 prefix found", "connect, or a send with the address, fails", full},
		{"nat64:auto", "direct", policy.UDPConnected, policy.SwapAtConnect, policy.UDP, "nothing: no NAT64 prefix found", "connect fails", connected},
		{"inet6:2001:db8::1", "direct", policy.UDPConnected, policy.SwapAtConnect, policy.UDP, "[2001:db8::1]:53", "an IPv4 socket: getpeername 192.0.2.1:53" + v4, connected},
		{"unix:/run/a", "direct", policy.UDPFull, policy.SwapAtConnect, policy.UDP, "/run/a, as SOCK_DGRAM", "an IPv4 socket: datagrams from 192.0.2.1:53" + v4, full},
		{"unix:@a?proxy=v2", "direct", policy.UDPFull, policy.SwapAtConnect, policy.UDP, "@a, an abstract socket, as SOCK_DGRAM", "an IPv4 socket: datagrams from 192.0.2.1:53" + v4, "datagrams carry no PROXY header; " + full},
		{"reject", "direct", policy.UDPFull, policy.SwapAtConnect, policy.UDP, "nothing", "connect, or a send with the address, fails at once with ENETUNREACH, network is unreachable", full},
		{"reject", "direct", policy.UDPConnected, policy.SwapAtConnect, policy.UDP, "nothing", "connect fails at once with ENETUNREACH, network is unreachable", connected},
		{"reject", "direct", policy.UDPFull, policy.SwapAtConnect, policy.TCP, "nothing", "connect fails at once with ENETUNREACH, network is unreachable", ""},
		{"direct", "netns:blue", policy.UDPFull, policy.SwapAtConnect, policy.UDP, asItIs, "what the kernel says", ""},
		{"direct", "netns:blue", policy.UDPOff, policy.SwapAtConnect, policy.UDP, asItIs, "what the kernel says", ""},
		{"direct", "netns:blue", policy.UDPFull, policy.SwapAtSocket, policy.UDP, asItIs, "what the kernel says", wasOf},
		{"direct", "netns:blue", policy.UDPConnected, policy.SwapAtSocket, policy.UDP, asItIs, "what the kernel says",
			wasOf + "; with --udp connected only connect(2) makes it known: a send with an address goes to what has this one there"},
		{"direct", "netns:blue", policy.UDPConnected, policy.SwapAtSocket, policy.TCP, asItIs, "what the kernel says", wasOf},
		{"netns:blue", "direct", policy.UDPFull, policy.SwapAtSocket, policy.UDP, inBlue, "datagrams from 192.0.2.1:53, getsockname an address of that namespace", full + "; " + isOf},
		{"netns:blue", "direct", policy.UDPConnected, policy.SwapAtSocket, policy.UDP, inBlue, "getpeername 192.0.2.1:53, getsockname an address of that namespace", strings.Replace(connected, "in the program's own namespace", "in the namespace that the socket was made in", 1) + "; " + isOf},
		{"netns:blue", "direct", policy.UDPOff, policy.SwapAtSocket, policy.UDP, asItIs, "what the kernel says", off},
		{"netns:blue", "direct", policy.UDPOff, policy.SwapAtSocket, policy.TCP, inBlue, "getpeername 192.0.2.1:53, getsockname an address of that namespace", isOf},
		{"reject", "netns:blue", policy.UDPFull, policy.SwapAtSocket, policy.TCP, "nothing", "connect fails at once with ENETUNREACH, network is unreachable", ""},
	} {
		via, err := policy.ParseRoute(c.via)
		if err != nil {
			t.Fatal(err)
		}
		x, err := New(&Config{Rules: policytest.Rules(t, "192.0.2.1="+c.route), Via: via, UDP: c.udp, SwapAt: c.swapAt})
		if err != nil {
			t.Errorf("%s, %s: %v", c.route, c.swapAt, err)
			continue
		}
		e := x.Explain(Destination{addr("192.0.2.1"), 53, 53, c.proto})[0]
		if notes := strings.Join(e.Notes, "; "); e.Connects != c.connects || e.Sees != c.sees || notes != c.notes {
			t.Errorf("%s, --udp %s, --swap-at %s, %s:\n%q\n%q\n%q, want\n%q\n%q\n%q", c.route, c.udp, c.swapAt, c.proto, e.Connects, e.Sees, notes, c.connects, c.sees, c.notes)
		}
	}
	if _, err := New(&Config{Via: policy.Route{Kind: policy.NAT64, Target: policy.AutoPrefix}, SwapAt: policy.SwapAtSocket}); err == nil {
		t.Error("explains what Run refuses")
	}
}
