package datagram

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/testkit"
)

// TestPrivilegedControl says of which messages an ordinary user is told EPERM, rather than EINVAL
// or nothing.
func TestPrivilegedControl(t *testing.T) {
	mark := siit.AppendControl(nil, unix.SOL_SOCKET, unix.SO_MARK, testkit.CmsgInt(1))
	priority := func(data []byte) []byte { return siit.AppendControl(nil, unix.SOL_SOCKET, unix.SO_PRIORITY, data) }
	refused := siit.AppendControl(nil, unix.IPPROTO_IPV6, siit.RefusedControl, nil)
	for what, c := range map[string]struct {
		raw  []byte
		want bool
	}{
		"SO_MARK":                          {mark, true},
		"SO_PRIORITY 6":                    {priority(testkit.CmsgInt(6)), false},
		"SO_PRIORITY 7":                    {priority(testkit.CmsgInt(7)), true},
		"SO_PRIORITY of no number":         {priority([]byte{7}), false},
		"SO_PRIORITY 0, SO_MARK":           {append(priority(testkit.CmsgInt(0)), mark...), true},
		"SO_MARK after a wrong message":    {append(bytes.Clone(refused), mark...), false},
		"SO_MARK before a wrong message":   {append(bytes.Clone(mark), refused...), true},
		"IP_RETOPTS":                       {siit.AppendControl(nil, unix.IPPROTO_IP, unix.IP_RETOPTS, nil), true},
		"IPV6_TCLASS":                      {siit.AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, testkit.CmsgInt(1)), false},
		"IPV6_HOPOPTS, a header of IPv6's": {siit.AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, make([]byte, 8)), true},
	} {
		if got := privilegedControl(c.raw); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}
