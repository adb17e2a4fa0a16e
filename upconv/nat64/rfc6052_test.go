package nat64

import (
	"errors"
	"net/netip"
	"testing"
)

var addr = netip.MustParseAddr

func prefix64(t testing.TB, s string) Prefix {
	t.Helper()
	p, err := NewPrefix(netip.MustParsePrefix(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The table of RFC 6052 section 2.4.
func TestRFC6052Table(t *testing.T) {
	for _, c := range []struct{ prefix, v6 string }{
		{"2001:db8::/32", "2001:db8:c000:221::"},
		{"2001:db8:100::/40", "2001:db8:1c0:2:21::"},
		{"2001:db8:122::/48", "2001:db8:122:c000:2:2100::"},
		{"2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"},
		{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"},
		{"2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"},
	} {
		p := prefix64(t, c.prefix)
		v6, err := p.Embed(addr("192.0.2.33"))
		if err != nil || v6 != addr(c.v6) {
			t.Errorf("%s: embedded as %v, %v, want %s", c.prefix, v6, err, c.v6)
		}
		if v4, err := p.Extract(addr(c.v6)); err != nil || v4 != addr("192.0.2.33") {
			t.Errorf("%s: extracted %v, %v, want 192.0.2.33", c.prefix, v4, err)
		}
		if p.String() != c.prefix {
			t.Errorf("%s is written as %s", c.prefix, p)
		}
	}
}

func TestExtract(t *testing.T) {
	for _, c := range []struct{ prefix, v6, v4 string }{
		{"2001:db8::/32", "2001:db9:c000:221::", ""},                          // another prefix
		{"2001:db8::/32", "2001:db8:c000:221:100::", ""},                      // octet u
		{"2001:db8:122:344::/96", "2001:db8:122:344:100::192.0.2.33", ""},     // octet u, and another prefix
		{"2001:db8::/32", "2001:db8:c000:221:0:1234:5678:9abc", "192.0.2.33"}, // a suffix, which is reserved
		{"2001:db8::/96", "2001:db8::192.0.2.33%eth0", ""},                    // a zone
		{"64:ff9b::/96", "64:ff9b::192.0.0.9", "192.0.0.9"},                   // global within what is not
		{"64:ff9b:1::/48", "64:ff9b:1:c000:2:2100::", "192.0.2.33"},           // RFC 8215
		{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::", "192.0.2.33"},
	} {
		v4, err := prefix64(t, c.prefix).Extract(addr(c.v6))
		switch {
		case c.v4 == "" && !errors.Is(err, ErrNotEmbedded):
			t.Errorf("%s, %s: %v, %v, want ErrNotEmbedded", c.prefix, c.v6, v4, err)
		case c.v4 != "" && (err != nil || v4 != addr(c.v4)):
			t.Errorf("%s, %s: %v, %v, want %s", c.prefix, c.v6, v4, err, c.v4)
		}
	}
	if _, err := (Prefix{}).Extract(addr("::1")); !errors.Is(err, ErrNotEmbedded) {
		t.Errorf("no prefix: error %v", err)
	}
	if _, err := (Prefix{}).Embed(addr("192.0.2.1")); err == nil {
		t.Error("no prefix: embedded")
	}
	for _, no := range []netip.Addr{{}, addr("::1"), addr("::ffff:192.0.2.1")} {
		if _, err := WellKnownPrefix.Embed(no); !errors.Is(err, ErrNotIPv4) {
			t.Errorf("%v: error %v, want ErrNotIPv4", no, err)
		}
	}
}

func TestNewPrefixErrors(t *testing.T) {
	for _, bad := range []string{
		"2001:db8::/31", "2001:db8::/33", "2001:db8::/72", "2001:db8::/95", "2001:db8::/128", "2001:db8::1/96", "2001:db8:0:0:100::/96",
		"192.0.2.0/32", "::ffff:0.0.0.0/96", "::/96", "::/32", "ff0e::/96", "fe80::/64",
	} {
		_, err := NewPrefix(netip.MustParsePrefix(bad))
		var e *PrefixError
		if !errors.As(err, &e) || e.Error() == "" {
			t.Errorf("%s: error %v, want a *PrefixError", bad, err)
		}
	}
	if _, err := NewPrefix(netip.Prefix{}); err == nil {
		t.Error("the zero prefix is taken")
	}
}

// RFC 6052 section 3.1: the first and the last address of each block, and their neighbours.
func TestWellKnownPrefix(t *testing.T) {
	for _, c := range []struct {
		first, last string
	}{
		{"0.0.0.0", "0.255.255.255"}, {"10.0.0.0", "10.255.255.255"}, {"100.64.0.0", "100.127.255.255"}, {"127.0.0.0", "127.255.255.255"},
		{"169.254.0.0", "169.254.255.255"}, {"172.16.0.0", "172.31.255.255"}, {"192.0.0.0", "192.0.0.8"}, {"192.0.0.11", "192.0.0.255"},
		{"192.0.2.0", "192.0.2.255"}, {"192.88.99.2", "192.88.99.2"}, {"192.168.0.0", "192.168.255.255"}, {"198.18.0.0", "198.19.255.255"},
		{"198.51.100.0", "198.51.100.255"}, {"203.0.113.0", "203.0.113.255"}, {"224.0.0.0", "255.255.255.255"},
	} {
		for _, a := range []netip.Addr{addr(c.first), addr(c.last)} {
			var e *NotGlobalError
			if _, err := WellKnownPrefix.Embed(a); !errors.As(err, &e) || e.Addr != a || !e.Block.Contains(a) {
				t.Errorf("%s is embedded: %v", a, err)
			}
			if _, err := WellKnownPrefix.Extract(WellKnownPrefix.put(a)); !errors.As(err, &e) {
				t.Errorf("%s is extracted: %v", a, err)
			}
			if _, err := prefix64(t, "2001:db8:64::/96").Embed(a); err != nil {
				t.Errorf("%s under a prefix of one's own: %v", a, err)
			}
		}
		for _, a := range []netip.Addr{addr(c.first).Prev(), addr(c.last).Next()} {
			if !a.IsValid() {
				continue // before 0.0.0.0, after 255.255.255.255
			}
			if _, err := WellKnownPrefix.Embed(a); err != nil {
				t.Errorf("%s is refused: %v", a, err)
			}
		}
	}
	for _, global := range []string{"192.31.196.1", "192.52.193.1", "192.175.48.1", "192.88.99.1", "8.8.8.8"} {
		if _, err := WellKnownPrefix.Embed(addr(global)); err != nil {
			t.Error(err)
		}
	}
}

func TestEmbedDoesNotAllocate(t *testing.T) {
	a := addr("8.8.8.8")
	if n := testing.AllocsPerRun(100, func() {
		v6, _ := WellKnownPrefix.Embed(a)
		WellKnownPrefix.Extract(v6)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzPrefix(f *testing.F) {
	for i := range uint8(6) {
		f.Add([]byte("\x20\x01\x0d\xb8\x01\x22\x03\x44\x00\x00\x00\x00\x00\x00\x00\x00"), i, uint32(0xc0000221))
	}
	f.Fuzz(func(t *testing.T, prefix []byte, length uint8, v4 uint32) {
		var v6 [16]byte
		copy(v6[:], prefix)
		bits := []int{32, 40, 48, 56, 64, 96}[length%6]
		p, err := NewPrefix(netip.PrefixFrom(netip.AddrFrom16(v6), bits).Masked())
		if err != nil {
			return
		}
		a := netip.AddrFrom4([4]byte{byte(v4 >> 24), byte(v4 >> 16), byte(v4 >> 8), byte(v4)})
		embedded, err := p.Embed(a)
		var e *NotGlobalError
		if errors.As(err, &e) && p == WellKnownPrefix {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if b := embedded.As16(); b[uOctet] != 0 || !p.Netip().Contains(embedded) {
			t.Fatalf("%s in %s is %s", a, p, embedded)
		}
		if back, err := p.Extract(embedded); err != nil || back != a {
			t.Fatalf("%s in %s is %s, which is read as %v, %v", a, p, embedded, back, err)
		}
	})
}
