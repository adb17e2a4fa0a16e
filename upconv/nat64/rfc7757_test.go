package nat64

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/upconv/upconv/upconv/internal/ip4"
)

func mapping(v4, v6 string) Mapping {
	return Mapping{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}
}

// The table of RFC 7757 section 3.2 and one entry over all.
func mappingsOfRFC(t testing.TB) *Mappings {
	t.Helper()
	m, err := NewMappings([]Mapping{
		mapping("192.0.2.1/32", "2001:db8:aaaa::/128"),
		mapping("192.0.2.2/32", "2001:db8:bbbb::b/128"),
		mapping("192.0.2.16/28", "2001:db8:cccc::/124"),
		mapping("192.0.2.128/26", "2001:db8:dddd::/64"),
		mapping("192.0.2.192/29", "2001:db8:eeee:8::/62"),
		mapping("192.0.2.224/31", "64:ff9b::/127"),
		mapping("198.51.100.0/24", "2001:db8:ffff::/120"),
		mapping("198.51.100.7/32", "2001:db8:7777::7/128"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMappings(t *testing.T) {
	m := mappingsOfRFC(t)
	for v4, v6 := range map[string]string{
		"192.0.2.1":       "2001:db8:aaaa::",
		"192.0.2.2":       "2001:db8:bbbb::b",
		"192.0.2.16":      "2001:db8:cccc::",
		"192.0.2.24":      "2001:db8:cccc::8",
		"192.0.2.31":      "2001:db8:cccc::f",
		"192.0.2.128":     "2001:db8:dddd::",
		"192.0.2.152":     "2001:db8:dddd:0:6000::",
		"192.0.2.183":     "2001:db8:dddd:0:dc00::",
		"192.0.2.192":     "2001:db8:eeee:8::",
		"192.0.2.193":     "2001:db8:eeee:8:8000::",
		"192.0.2.199":     "2001:db8:eeee:b:8000::",
		"192.0.2.225":     "64:ff9b::1",
		"198.51.100.6":    "2001:db8:ffff::6",
		"198.51.100.7":    "2001:db8:7777::7", // the longest prefix
		"192.0.2.3":       "",
		"192.0.2.32":      "",
		"2001:db8:aaaa::": "",
	} {
		got, ok := m.To6(addr(v4))
		if ok != (v6 != "") || ok && got != addr(v6) {
			t.Errorf("%s is %v, %v, want %s", v4, got, ok, v6)
			continue
		}
		if back, found := m.To4(got); ok && (!found || back != addr(v4)) {
			t.Errorf("%s is %s, which is %v, %v", v4, got, back, found)
		}
	}
	for v6, v4 := range map[string]string{
		"2001:db8:dddd:0:6000::1": "192.0.2.152", // what is behind the suffix is not looked at
		"2001:db8:aaaa::1":        "",
		"2001:db8:ffff::7":        "198.51.100.7", // not what To6 answers for it, and yet mapped
		"2001:db8:aaaa::%eth0":    "",
		"192.0.2.1":               "",
		"::ffff:192.0.2.1":        "",
	} {
		if got, ok := m.To4(addr(v6)); ok != (v4 != "") || ok && got != addr(v4) {
			t.Errorf("%s is %v, %v, want %s", v6, got, ok, v4)
		}
	}
	none, err := NewMappings(nil)
	if _, ok := none.To6(addr("192.0.2.1")); ok || err != nil {
		t.Errorf("no mappings: %v, %v", ok, err)
	}
	if _, ok := none.To4(addr("2001:db8::1")); ok {
		t.Error("no mappings map")
	}
	all, err := NewMappings([]Mapping{mapping("0.0.0.0/0", "2001:db8::/96")})
	if got, ok := all.To6(addr("192.0.2.1")); err != nil || !ok || got != addr("2001:db8::192.0.2.1") {
		t.Errorf("everything mapped: %v, %v, %v", got, ok, err)
	}
	a, b := addr("198.51.100.7"), addr("2001:db8:ffff::7")
	if n := testing.AllocsPerRun(100, func() { m.To6(a); m.To4(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMappingErrors(t *testing.T) {
	ok := mapping("192.0.2.0/24", "2001:db8:aaaa::/120")
	for _, c := range []struct {
		bad Mapping
		v6  bool
		say string
	}{
		{Mapping{}, false, "IPv4 prefix"},
		{Mapping{ok.IPv6, ok.IPv6}, false, "IPv4 prefix"},
		{Mapping{ok.IPv4, ok.IPv4}, true, "IPv6 prefix"},
		{mapping("198.51.100.1/24", "2001:db8::/120"), false, "meant 198.51.100.0/24?"},
		{mapping("198.51.100.0/24", "2001:db8::1/120"), true, "meant 2001:db8::/120?"},
		{mapping("198.51.100.0/24", "2001:db8::/121"), true, "/120 would be as many"},
		{mapping("198.51.100.0/24", "fe80::/120"), true, "not a prefix"},
		{mapping("198.51.100.0/24", "::ffff:0.0.0.0/120"), true, "IPv6 prefix"},
		{mapping("192.0.2.0/24", "2001:db8:bbbb::/120"), false, "by mapping 1"},
		{mapping("198.51.100.0/24", "2001:db8:aaaa::/120"), true, "by mapping 1"},
	} {
		_, err := NewMappings([]Mapping{ok, c.bad})
		var e *MappingError
		if !errors.As(err, &e) || e.Index != 1 || e.IPv6 != c.v6 || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%v: error %#v, want one that says %q", c.bad, err, c.say)
		}
	}
}

func FuzzMappings(f *testing.F) {
	f.Add(uint32(0xc0000280), uint8(26), []byte("\x20\x01\x0d\xb8\xdd\xdd"), uint8(64), uint32(0x17))
	f.Fuzz(func(t *testing.T, v4 uint32, bits4 uint8, v6 []byte, bits6 uint8, suffix uint32) {
		var b [16]byte
		copy(b[:], v6)
		m := Mapping{netip.PrefixFrom(ip4.Addr(v4), int(bits4%33)).Masked(), netip.PrefixFrom(netip.AddrFrom16(b), int(bits6%129)).Masked()}
		table, err := NewMappings([]Mapping{m})
		if err != nil {
			return
		}
		a := ip4.Addr(ip4.Number(m.IPv4.Addr()) | suffix&^ip4.Mask(m.IPv4.Bits()))
		got, ok := table.To6(a)
		if !ok || !m.IPv6.Contains(got) {
			t.Fatalf("%s: %s is %v, %v", m, a, got, ok)
		}
		if back, ok := table.To4(got); !ok || back != a {
			t.Fatalf("%s: %s is %s, which is %v, %v", m, a, got, back, ok)
		}
	})
}
