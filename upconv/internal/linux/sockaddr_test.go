package linux

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDestination(t *testing.T) {
	in4 := []byte{2, 0, 0x01, 0xbb, 203, 0, 113, 10, 0, 0, 0, 0, 0, 0, 0, 0}
	in6 := func(addr string) []byte {
		sa := make([]byte, 28)
		sa[0] = unix.AF_INET6
		sa[2], sa[3] = 0x01, 0xbb
		a := netip.MustParseAddr(addr).As16()
		copy(sa[8:], a[:])
		return sa
	}
	for _, c := range []struct {
		name string
		sa   []byte
		want string // "": none
	}{
		{"AF_INET", in4, "203.0.113.10:443"},
		{"AF_INET, longer", append(append([]byte{}, in4...), make([]byte, 112)...), "203.0.113.10:443"},
		{"AF_INET, too short", in4[:15], ""},
		{"nothing", nil, ""},
		{"AF_INET6", in6("2001:db8::1"), ""},
		{"AF_INET6, IPv4-mapped", in6("::ffff:203.0.113.10"), "203.0.113.10:443"},
		{"AF_INET6, without scope", in6("::ffff:203.0.113.10")[:24], "203.0.113.10:443"},
		{"AF_INET6, too short", in6("::ffff:203.0.113.10")[:23], ""},
		{"AF_INET6, IPv4-compatible", in6("::203.0.113.10"), ""},
		{"AF_UNIX", append([]byte{1, 0}, "/run/some/socket"...), ""},
		{"AF_UNSPEC", make([]byte, 16), ""},
	} {
		_, dst, ok := Destination(c.sa)
		if ok != (c.want != "") || ok && dst.String() != c.want {
			t.Errorf("%s: %v, %v, want %q", c.name, dst, ok, c.want)
		}
	}
}

func FuzzDestination(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 203, 0, 113, 10, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, sa []byte) {
		if _, dst, ok := Destination(sa); ok && !dst.Addr().Is4() {
			t.Fatalf("%x: %v is not IPv4", sa, dst)
		}
	})
}
