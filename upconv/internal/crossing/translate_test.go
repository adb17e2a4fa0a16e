package crossing

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

func TestOriginal(t *testing.T) {
	var rules []policy.Rule
	for _, rule := range []string{"203.0.113.7=inet6:2001:db8::7", "203.0.113.8=inet6:2001:db8::8", "203.0.113.16/28=inet6:2001:db8::8",
		"203.0.113.64/26=nat64:64:ff9b::/96", "203.0.113.128/25=nat64:2001:dba::/32", "198.51.100.1=inet6:fe80::1%lo"} {
		r, err := policy.ParseRule(rule)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	decided, err := policy.New(rules, policy.Route{Kind: policy.NAT64, Target: "2001:db8:64::/96"})
	if err != nil {
		t.Fatal(err)
	}
	mappings, err := nat64.NewMappings([]nat64.Mapping{{IPv4: netip.MustParsePrefix("127.0.0.1/32"), IPv6: netip.MustParsePrefix("::1/128")}})
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{}
	s.Rules.Store(&session.Ruleset{Policy: decided, Mappings: mappings})
	p := passport.Passport{Family: unix.AF_INET, Proto: unix.IPPROTO_MPTCP, Peer: netip.MustParseAddrPort("203.0.113.10:443"), Local: netip.MustParseAddr("192.0.0.2")}
	for from, want := range map[string]string{
		"2001:db8:64::c000:207": "192.0.2.7",
		"::ffff:192.0.2.9":      "192.0.2.9",
		"::1":                   "127.0.0.1",
		"2001:db8::7":           "203.0.113.7",
		"2001:db8::8":           "203.0.113.10", // of several: the peer
		"64:ff9b::203.0.113.65": "203.0.113.65",
		"64:ff9b::10.1.2.3":     "10.1.2.3",
		"2001:dba:cb00:7181::":  "203.0.113.129",
		"fe80::1%lo":            "198.51.100.1",
		"2001:db9::1":           "192.0.0.8",
	} {
		addr := netip.AddrPortFrom(netip.MustParseAddr(from), 53)
		if got := s.Original(addr, &p); got != netip.MustParseAddrPort(want+":53") {
			t.Errorf("%s: %v, want %s", from, got, want)
		}
	}
	p.Peer = netip.MustParseAddrPort("203.0.113.20:1")
	if got, ok := s.OriginalAddr(netip.MustParseAddr("2001:db8::8"), &p); !ok || got != p.Peer.Addr() {
		t.Errorf("a fixed address of several: %v, %v", got, ok)
	}
	addr := netip.MustParseAddr("2001:db8:64::c000:207")
	if n := testing.AllocsPerRun(100, func() { s.OriginalAddr(addr, &p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}

	// Another policy: what was translated before is still known.
	other, err := policy.New(nil, policy.Route{Kind: policy.NAT64, Target: "2001:db8:65::/96"})
	if err != nil {
		t.Fatal(err)
	}
	s.Rules.Store(&session.Ruleset{Policy: other})
	for from, want := range map[string]string{"2001:db8:65::c000:207": "192.0.2.7", "2001:db8:64::c000:207": "192.0.2.7", "2001:db8::7": "203.0.113.7"} {
		if got, ok := s.OriginalAddr(netip.MustParseAddr(from), &p); !ok || got.String() != want {
			t.Errorf("%s after a reload: %v, %v, want %s", from, got, ok, want)
		}
	}
	s.Discovery = nat64.NewDiscovery(func(context.Context) ([]netip.Prefix, time.Duration, error) {
		return []netip.Prefix{netip.MustParsePrefix("2001:db8:66::/96")}, time.Hour, nil
	}, slog.New(slog.DiscardHandler))
	looking, stop := context.WithCancel(t.Context())
	defer stop()
	go s.Discovery.Run(looking)
	<-s.Discovery.Looked()
	if got, ok := s.OriginalAddr(netip.MustParseAddr("2001:db8:66::c000:207"), &p); !ok || got.String() != "192.0.2.7" {
		t.Errorf("a prefix that was found: %v, %v", got, ok)
	}
}
