package upconv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

func number(v int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

// appendCompat is appendControl in the layout of i386.
func appendCompat(to []byte, level, name int, data []byte) []byte {
	to = append(to, number(int32(12+len(data)))...)
	to = append(to, number(int32(level))...)
	to = append(to, number(int32(name))...)
	to = append(to, data...)
	for len(to)%4 != 0 {
		to = append(to, 0)
	}
	return to
}

func TestSendControl(t *testing.T) {
	info4 := append(append(number(7), 192, 0, 0, 2), 203, 0, 113, 10)
	info6 := append(make([]byte, 16), number(7)...)
	mapped := netip.MustParseAddr("::ffff:192.0.0.2").As16()
	mappedInfo, foreign := append(mapped[:], number(7)...), append(bytes.Repeat([]byte{0x20}, 16), number(0)...)
	for _, c := range []struct {
		what  string
		from  control
		want  control // data nil: nothing is left of it
		errno unix.Errno
	}{
		{"IP_TTL", control{unix.IPPROTO_IP, unix.IP_TTL, number(9)}, control{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, number(9)}, 0},
		{"IP_TTL 0", control{unix.IPPROTO_IP, unix.IP_TTL, number(0)}, control{}, unix.EINVAL},
		{"IP_TTL 256", control{unix.IPPROTO_IP, unix.IP_TTL, number(256)}, control{}, unix.EINVAL},
		{"IP_TTL of a byte", control{unix.IPPROTO_IP, unix.IP_TTL, []byte{9}}, control{}, unix.EINVAL},
		{"IP_TOS", control{unix.IPPROTO_IP, unix.IP_TOS, number(3)}, control{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(3)}, 0},
		{"IP_TOS of a byte", control{unix.IPPROTO_IP, unix.IP_TOS, []byte{0xff}}, control{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(255)}, 0},
		{"IP_TOS of two", control{unix.IPPROTO_IP, unix.IP_TOS, []byte{1, 2}}, control{}, unix.EINVAL},
		{"IP_TOS 256", control{unix.IPPROTO_IP, unix.IP_TOS, number(256)}, control{}, unix.EINVAL},
		{"IP_TOS -1", control{unix.IPPROTO_IP, unix.IP_TOS, number(-1)}, control{}, unix.EINVAL},
		{"IP_PKTINFO", control{unix.IPPROTO_IP, unix.IP_PKTINFO, info4}, control{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info6}, 0},
		{"IP_PKTINFO, short", control{unix.IPPROTO_IP, unix.IP_PKTINFO, info4[:8]}, control{}, unix.EINVAL},
		{"IP_RETOPTS", control{unix.IPPROTO_IP, unix.IP_RETOPTS, []byte{1, 1, 1, 1}}, control{}, 0},
		{"IP_PROTOCOL", control{unix.IPPROTO_IP, ipProtocol, number(17)}, control{}, 0},
		{"another of IP", control{unix.IPPROTO_IP, 99, number(1)}, control{}, unix.EINVAL},
		{"UDP_SEGMENT", control{unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 2}}, control{unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 2}}, 0},
		{"SCM_TXTIME", control{unix.SOL_SOCKET, unix.SCM_TXTIME, make([]byte, 8)}, control{unix.SOL_SOCKET, unix.SCM_TXTIME, make([]byte, 8)}, 0},
		{"IPV6_PKTINFO", control{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, foreign}, control{}, 0},
		{"IPV6_PKTINFO, IPv4-mapped", control{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, mappedInfo}, control{}, 0},
		{"IPV6_TCLASS", control{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(1)}, control{}, 0},
	} {
		for _, compat := range []bool{false, true} {
			w := &worker{}
			raw := appendControl(nil, c.from.level, c.from.name, c.from.data)
			if compat {
				raw = appendCompat(nil, c.from.level, c.from.name, c.from.data)
			}
			got, errno := w.sendControl(raw, compat, unix.AF_INET)
			var want []byte
			if c.want.data != nil {
				want = appendControl(nil, c.want.level, c.want.name, c.want.data)
			}
			if c.errno != 0 {
				want = appendControl(nil, unix.IPPROTO_IPV6, refusedControl, nil)
			}
			if errno != c.errno || !bytes.Equal(got, want) {
				t.Errorf("%s, compat %v: %x, %v, want %x, %v", c.what, compat, got, errno, want, c.errno)
			}
			if got, errno = w.sendControl(raw, compat, 0); errno != 0 || !bytes.Equal(got, appendControl(nil, c.from.level, c.from.name, c.from.data)) {
				t.Errorf("%s, compat %v, the family stays: %x, %v", c.what, compat, got, errno)
			}
		}
	}
}

// TestSendControlInet6 is about a program that has an AF_INET6 socket itself, and sends to an
// IPv4-mapped address.
func TestSendControlInet6(t *testing.T) {
	mapped := netip.MustParseAddr("::ffff:192.0.0.2").As16()
	info, foreign := append(mapped[:], number(7)...), append(bytes.Repeat([]byte{0x20}, 16), number(0)...)
	w := &worker{}
	want := appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(make([]byte, 16), number(7)...))
	if got, errno := w.sendControl(appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info), false, unix.AF_INET6); errno != 0 || !bytes.Equal(got, want) {
		t.Errorf("IPV6_PKTINFO, IPv4-mapped: %x, %v, want %x", got, errno, want)
	}
	for what, data := range map[string][]byte{"IPV6_PKTINFO": foreign, "IPV6_PKTINFO, short": info[:16]} {
		if _, errno := w.sendControl(appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, data), false, unix.AF_INET6); errno != unix.EINVAL {
			t.Errorf("%s: %v, want EINVAL", what, errno)
		}
	}
}

// TestPrivilegedControl says of which messages an ordinary user is told EPERM, rather than EINVAL
// or nothing.
func TestPrivilegedControl(t *testing.T) {
	mark := appendControl(nil, unix.SOL_SOCKET, unix.SO_MARK, number(1))
	priority := func(data []byte) []byte { return appendControl(nil, unix.SOL_SOCKET, unix.SO_PRIORITY, data) }
	refused := appendControl(nil, unix.IPPROTO_IPV6, refusedControl, nil)
	for what, c := range map[string]struct {
		raw  []byte
		want bool
	}{
		"SO_MARK":                          {mark, true},
		"SO_PRIORITY 6":                    {priority(number(6)), false},
		"SO_PRIORITY 7":                    {priority(number(7)), true},
		"SO_PRIORITY of no number":         {priority([]byte{7}), false},
		"SO_PRIORITY 0, SO_MARK":           {append(priority(number(0)), mark...), true},
		"SO_MARK after a wrong message":    {append(bytes.Clone(refused), mark...), false},
		"SO_MARK before a wrong message":   {append(bytes.Clone(mark), refused...), true},
		"IP_RETOPTS":                       {appendControl(nil, unix.IPPROTO_IP, unix.IP_RETOPTS, nil), true},
		"IPV6_TCLASS":                      {appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(1)), false},
		"IPV6_HOPOPTS, a header of IPv6's": {appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, make([]byte, 8)), true},
	} {
		if got := privilegedControl(c.raw); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

// What needs no change costs nothing.
func TestSendControlSame(t *testing.T) {
	w := &worker{}
	raw := appendControl(appendControl(nil, unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 2}), unix.SOL_SOCKET, unix.SO_MARK, number(1))
	both := appendControl(bytes.Clone(raw), unix.IPPROTO_IP, unix.IP_TOS, number(1))
	w.sendControl(both, false, unix.AF_INET) // has a buffer from now on
	for what, c := range map[string]struct {
		raw  []byte
		from int
	}{
		"nothing to translate": {raw, unix.AF_INET}, "not to IPv6": {both, 0}, "none": {nil, unix.AF_INET}, "no message": {make([]byte, 7), unix.AF_INET},
	} {
		if got, errno := w.sendControl(c.raw, false, c.from); errno != 0 || len(got) != len(c.raw) || len(got) > 0 && &got[0] != &c.raw[0] {
			t.Errorf("%s: %x, %v", what, got, errno)
		}
	}
	if n := testing.AllocsPerRun(100, func() { w.sendControl(both, false, unix.AF_INET); w.sendControl(raw, false, unix.AF_INET) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if _, errno := w.sendControl(make([]byte, 7), true, 0); errno != unix.EINVAL {
		t.Errorf("i386, no message: %v", errno)
	}
}

// randomControl makes control messages, most of them well-formed.
func randomControl(rnd *rand.Rand) (raw []byte) {
	for range rnd.Intn(4) {
		level := []int{unix.IPPROTO_IP, unix.IPPROTO_IP, unix.IPPROTO_IP, unix.SOL_SOCKET, unix.IPPROTO_UDP, unix.IPPROTO_IPV6, 77}[rnd.Intn(7)]
		name := []int{unix.IP_TOS, unix.IP_TTL, unix.IP_PKTINFO, unix.IP_RETOPTS, ipProtocol, 0, 99, unix.SO_MARK, unix.UDP_SEGMENT, unix.IPV6_PKTINFO}[rnd.Intn(10)]
		data := number(int32([]int{-1, 0, 1, 64, 255, 256, 1 << 20}[rnd.Intn(7)]))
		switch {
		case name == unix.IP_PKTINFO: // a source of its own is not looked at
			data = append(append(number(int32(rnd.Intn(3))), 0, 0, 0, 0), 127, 0, 0, 1)
		case name == unix.IP_RETOPTS:
			data = []byte{1, 1, 1, 1}
		}
		data = data[:[]int{len(data), len(data), len(data), len(data), 0, 1, 2}[rnd.Intn(7)]]
		if level == unix.IPPROTO_IP && name == unix.IP_RETOPTS && len(data) < 4 {
			continue // what is wrong with such options is not looked at
		}
		raw = appendControl(raw, level, name, data)
	}
	if len(raw) > 0 && rnd.Intn(6) == 0 {
		raw[0] = byte(rnd.Intn(256)) // a length
	}
	if rnd.Intn(6) == 0 {
		raw = raw[:rnd.Intn(len(raw)+1)]
	}
	return raw
}

func sendWith(fd int, to, control []byte) unix.Errno {
	data := []byte("data")
	vector := unix.Iovec{Base: &data[0]}
	vector.SetLen(len(data))
	header := unix.Msghdr{Name: &to[0], Namelen: uint32(len(to)), Iov: &vector, Iovlen: 1}
	if len(control) > 0 {
		header.Control = &control[0]
		header.SetControllen(len(control))
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), 0)
	return errno
}

// TestSendControlAsNatively sends with control messages, good and bad, and compares what the kernel
// says.
func TestSendControlAsNatively(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	four, six := testSocket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), testSocket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	at4, at6 := testSocket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), testSocket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	port := bindBoth(t, at4, unix.AF_INET, at6)
	w := &worker{}
	seen := map[unix.Errno]int{}
	for round := range 5000 {
		raw := randomControl(rnd)
		want := sendWith(four, sockaddrLoopback(unix.AF_INET, port), bytes.Clone(raw))
		native, got := w.sendControl(raw, false, unix.AF_INET)
		if got == 0 || len(native) > 0 {
			got = sendWith(six, sockaddrLoopback(unix.AF_INET6, port), native)
		}
		if seen[want]++; got != want {
			t.Fatalf("round %d: %v, natively %v: %x", round, got, want, raw)
		}
	}
	if seen[0] < 500 || seen[unix.EINVAL] < 500 {
		t.Errorf("hardly anything was tried: %v", seen)
	}
}

func FuzzSendControl(f *testing.F) {
	f.Add(appendControl(nil, unix.IPPROTO_IP, unix.IP_TOS, number(1)), false, true)
	f.Add(appendCompat(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12)), true, false)
	f.Fuzz(func(t *testing.T, raw []byte, compat, to6 bool) {
		w := &worker{}
		before := bytes.Clone(raw)
		from := 0
		if to6 {
			from = unix.AF_INET
		}
		native, errno := w.sendControl(raw, compat, from)
		if !bytes.Equal(raw, before) {
			t.Fatal("it has changed what it was given")
		}
		if errno != 0 || !compat && !to6 {
			return
		}
		for rest := native; ; {
			m, behind, ok, errno := takeControl(rest, false)
			if !ok {
				if compat && errno != 0 {
					t.Fatalf("%x becomes %x, which is no control message", raw, native)
				}
				return
			}
			if to6 && m.level == unix.IPPROTO_IP {
				t.Fatalf("%x: a message of IPv4 is left in %x", raw, native)
			}
			rest = behind
		}
	})
}

// TestControls lays out control messages for an i386 program.
func TestControls(t *testing.T) {
	timestamp := func(words ...uint64) (b []byte) {
		for _, w := range words {
			b = binary.NativeEndian.AppendUint64(b, w)
		}
		return b
	}
	var to controls
	to.reset(true, 1000)
	to.put(unix.IPPROTO_IP, unix.IP_TOS, []byte{7})
	to.put(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, timestamp(5, 6))
	to.put(unix.SOL_SOCKET, soTimestampNSNew, timestamp(5, 6))
	to.put(unix.SOL_SOCKET, unix.SO_TIMESTAMPING, timestamp(1, 2, 3, 4, 5, 6))
	var got []control
	at := 0
	for _, p := range to.pieces {
		m, _, ok, errno := takeControl(to.bytes[at:at+p.length], true)
		if !ok || errno != 0 || p.space%4 != 0 || p.space < p.length {
			t.Fatalf("%+v: %v, %v", p, ok, errno)
		}
		got = append(got, m)
		at += p.length
	}
	want := []control{
		{unix.IPPROTO_IP, unix.IP_TOS, []byte{7}},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, append(number(5), number(6)...)},
		{unix.SOL_SOCKET, soTimestampNSNew, timestamp(5, 6)},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPING, bytes.Join([][]byte{number(1), number(2), number(3), number(4), number(5), number(6)}, nil)},
	}
	if !reflect.DeepEqual(got, want) || to.truncated || to.used() != 16+20+28+36 {
		t.Errorf("%v, %v, %d; want %v", got, to.truncated, to.used(), want)
	}
	for room, truncated := range map[int]bool{0: true, 11: true, 12: true, 15: true, 16: false, 17: false} {
		to.reset(true, room)
		to.put(unix.IPPROTO_IP, unix.IP_TTL, number(64))
		if to.truncated != truncated || to.used() > room || len(to.bytes) > room || (room < 12) != (len(to.pieces) == 0) {
			t.Errorf("room for %d: %+v", room, to)
		}
	}
}

func TestErrorTo4(t *testing.T) {
	ee := func(errno unix.Errno, origin, kind, code byte, info uint32) (e [sizeofExtendedErr]byte) {
		binary.NativeEndian.PutUint32(e[:], uint32(errno))
		e[4], e[5], e[6] = origin, kind, code
		binary.NativeEndian.PutUint32(e[8:], info)
		binary.NativeEndian.PutUint32(e[12:], 0x1234)
		return e
	}
	for _, c := range []struct {
		what       string
		from, want [sizeofExtendedErr]byte
	}{
		{"no route", ee(unix.ENETUNREACH, 3, 1, 0, 0), ee(unix.EHOSTUNREACH, 2, 3, 1, 0)},
		{"prohibited", ee(unix.EACCES, 3, 1, 1, 0), ee(unix.EHOSTUNREACH, 2, 3, 10, 0)},
		{"beyond scope", ee(unix.EHOSTUNREACH, 3, 1, 2, 0), ee(unix.EHOSTUNREACH, 2, 3, 1, 0)},
		{"address", ee(unix.EHOSTUNREACH, 3, 1, 3, 0), ee(unix.EHOSTUNREACH, 2, 3, 1, 0)},
		{"port", ee(unix.ECONNREFUSED, 3, 1, 4, 0), ee(unix.ECONNREFUSED, 2, 3, 3, 0)},
		{"rejected route", ee(unix.EACCES, 3, 1, 6, 0), ee(unix.EHOSTUNREACH, 2, 3, 10, 0)},
		{"too big", ee(unix.EMSGSIZE, 3, 2, 0, 1500), ee(unix.EMSGSIZE, 2, 3, 4, 1480)},
		{"too big, nonsense", ee(unix.EMSGSIZE, 3, 2, 0, 3), ee(unix.EMSGSIZE, 2, 3, 4, 68)},
		{"hop limit", ee(unix.EHOSTUNREACH, 3, 3, 0, 0), ee(unix.EHOSTUNREACH, 2, 11, 0, 0)},
		{"reassembly", ee(unix.EHOSTUNREACH, 3, 3, 1, 0), ee(unix.EHOSTUNREACH, 2, 11, 1, 0)},
		{"erroneous field", ee(unix.EPROTO, 3, 4, 0, 7), ee(unix.EPROTO, 2, 12, 0, 8)},
		{"next header", ee(unix.EPROTO, 3, 4, 1, 6), ee(unix.ENOPROTOOPT, 2, 3, 2, 0)},
		{"local, too big", ee(unix.EMSGSIZE, 1, 0, 0, 1280), ee(unix.EMSGSIZE, 1, 0, 0, 1260)},
		{"zero copy", ee(0, 5, 0, 1, 7), ee(0, 5, 0, 1, 7)},
		{"time stamp", ee(unix.ENOMSG, 4, 0, 0, 0), ee(unix.ENOMSG, 4, 0, 0, 0)},
	} {
		if got := errorTo4(c.from); got != c.want {
			t.Errorf("%s: %x, want %x", c.what, got, c.want)
		}
	}
	for six, four := range map[uint32]uint32{0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8, 8: 12, 23: 12, 24: 16, 39: 16, 40: 0} {
		if got := pointerTo4(six); got != four {
			t.Errorf("pointer %d: %d, want %d", six, got, four)
		}
	}
}

func TestOriginal(t *testing.T) {
	s := receiveSupervisor(t, "203.0.113.7=inet6:2001:db8::7", "203.0.113.8=inet6:2001:db8::8", "203.0.113.16/28=inet6:2001:db8::8",
		"203.0.113.64/26=nat64:64:ff9b::/96", "203.0.113.128/25=nat64:2001:dba::/32", "198.51.100.1=inet6:fe80::1%lo")
	p := testPassport(unix.AF_INET)
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
		if got := s.original(addr, &p); got != netip.MustParseAddrPort(want+":53") {
			t.Errorf("%s: %v, want %s", from, got, want)
		}
	}
	p.peer = netip.MustParseAddrPort("203.0.113.20:1")
	if got, ok := s.originalAddr(netip.MustParseAddr("2001:db8::8"), &p); !ok || got != p.peer.Addr() {
		t.Errorf("a fixed address of several: %v, %v", got, ok)
	}
	addr := netip.MustParseAddr("2001:db8:64::c000:207")
	if n := testing.AllocsPerRun(100, func() { s.originalAddr(addr, &p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}

	// Another policy: what was translated before is still known.
	other, err := policy.New(nil, Route{Kind: NAT64, Target: "2001:db8:65::/96"})
	if err != nil {
		t.Fatal(err)
	}
	s.rules.Store(&ruleset{policy: other})
	for from, want := range map[string]string{"2001:db8:65::c000:207": "192.0.2.7", "2001:db8:64::c000:207": "192.0.2.7", "2001:db8::7": "203.0.113.7"} {
		if got, ok := s.originalAddr(netip.MustParseAddr(from), &p); !ok || got.String() != want {
			t.Errorf("%s after a reload: %v, %v, want %s", from, got, ok, want)
		}
	}
	s.discovery = newDiscovery(nil, s.log)
	s.discovery.found.Store(&foundPrefixes{prefixes: []nat64.Prefix{mustPrefix64(t, "2001:db8:66::/96")}})
	if got, ok := s.originalAddr(netip.MustParseAddr("2001:db8:66::c000:207"), &p); !ok || got.String() != "192.0.2.7" {
		t.Errorf("a prefix that was found: %v, %v", got, ok)
	}
}

func mustPrefix64(t *testing.T, s string) nat64.Prefix {
	t.Helper()
	p, err := nat64.NewPrefix(netip.MustParsePrefix(s))
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", s, err))
	}
	return p
}
