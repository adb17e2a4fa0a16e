package siit

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func number(v int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

// appendCompat is AppendControl in the layout of i386.
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
		from  Control
		want  Control // data nil: nothing is left of it
		errno unix.Errno
	}{
		{"IP_TTL", Control{unix.IPPROTO_IP, unix.IP_TTL, number(9)}, Control{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, number(9)}, 0},
		{"IP_TTL 0", Control{unix.IPPROTO_IP, unix.IP_TTL, number(0)}, Control{}, unix.EINVAL},
		{"IP_TTL 256", Control{unix.IPPROTO_IP, unix.IP_TTL, number(256)}, Control{}, unix.EINVAL},
		{"IP_TTL of a byte", Control{unix.IPPROTO_IP, unix.IP_TTL, []byte{9}}, Control{}, unix.EINVAL},
		{"IP_TOS", Control{unix.IPPROTO_IP, unix.IP_TOS, number(3)}, Control{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(3)}, 0},
		{"IP_TOS of a byte", Control{unix.IPPROTO_IP, unix.IP_TOS, []byte{0xff}}, Control{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(255)}, 0},
		{"IP_TOS of two", Control{unix.IPPROTO_IP, unix.IP_TOS, []byte{1, 2}}, Control{}, unix.EINVAL},
		{"IP_TOS 256", Control{unix.IPPROTO_IP, unix.IP_TOS, number(256)}, Control{}, unix.EINVAL},
		{"IP_TOS -1", Control{unix.IPPROTO_IP, unix.IP_TOS, number(-1)}, Control{}, unix.EINVAL},
		{"IP_PKTINFO", Control{unix.IPPROTO_IP, unix.IP_PKTINFO, info4}, Control{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info6}, 0},
		{"IP_PKTINFO, short", Control{unix.IPPROTO_IP, unix.IP_PKTINFO, info4[:8]}, Control{}, unix.EINVAL},
		{"IP_RETOPTS", Control{unix.IPPROTO_IP, unix.IP_RETOPTS, []byte{1, 1, 1, 1}}, Control{}, 0},
		{"IP_PROTOCOL", Control{unix.IPPROTO_IP, IPProtocol, number(17)}, Control{}, 0},
		{"another of IP", Control{unix.IPPROTO_IP, 99, number(1)}, Control{}, unix.EINVAL},
		{"UDP_SEGMENT", Control{unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 2}}, Control{unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 2}}, 0},
		{"SCM_TXTIME", Control{unix.SOL_SOCKET, unix.SCM_TXTIME, make([]byte, 8)}, Control{unix.SOL_SOCKET, unix.SCM_TXTIME, make([]byte, 8)}, 0},
		{"IPV6_PKTINFO", Control{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, foreign}, Control{}, 0},
		{"IPV6_PKTINFO, IPv4-mapped", Control{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, mappedInfo}, Control{}, 0},
		{"IPV6_TCLASS", Control{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, number(1)}, Control{}, 0},
	} {
		for _, compat := range []bool{false, true} {
			w := &ControlBuffer{}
			raw := AppendControl(nil, c.from.Level, c.from.Name, c.from.Data)
			if compat {
				raw = appendCompat(nil, c.from.Level, c.from.Name, c.from.Data)
			}
			got, errno := w.ToSend(raw, compat, unix.AF_INET)
			var want []byte
			if c.want.Data != nil {
				want = AppendControl(nil, c.want.Level, c.want.Name, c.want.Data)
			}
			if c.errno != 0 {
				want = AppendControl(nil, unix.IPPROTO_IPV6, RefusedControl, nil)
			}
			if errno != c.errno || !bytes.Equal(got, want) {
				t.Errorf("%s, compat %v: %x, %v, want %x, %v", c.what, compat, got, errno, want, c.errno)
			}
			if got, errno = w.ToSend(raw, compat, 0); errno != 0 || !bytes.Equal(got, AppendControl(nil, c.from.Level, c.from.Name, c.from.Data)) {
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
	w := &ControlBuffer{}
	want := AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(make([]byte, 16), number(7)...))
	if got, errno := w.ToSend(AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info), false, unix.AF_INET6); errno != 0 || !bytes.Equal(got, want) {
		t.Errorf("IPV6_PKTINFO, IPv4-mapped: %x, %v, want %x", got, errno, want)
	}
	for what, data := range map[string][]byte{"IPV6_PKTINFO": foreign, "IPV6_PKTINFO, short": info[:16]} {
		if _, errno := w.ToSend(AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, data), false, unix.AF_INET6); errno != unix.EINVAL {
			t.Errorf("%s: %v, want EINVAL", what, errno)
		}
	}
}

// What needs no change costs nothing.
func TestSendControlSame(t *testing.T) {
	w := &ControlBuffer{}
	raw := AppendControl(AppendControl(nil, unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 2}), unix.SOL_SOCKET, unix.SO_MARK, number(1))
	both := AppendControl(bytes.Clone(raw), unix.IPPROTO_IP, unix.IP_TOS, number(1))
	w.ToSend(both, false, unix.AF_INET) // has a buffer from now on
	for what, c := range map[string]struct {
		raw  []byte
		from int
	}{
		"nothing to translate": {raw, unix.AF_INET}, "not to IPv6": {both, 0}, "none": {nil, unix.AF_INET}, "no message": {make([]byte, 7), unix.AF_INET},
	} {
		if got, errno := w.ToSend(c.raw, false, c.from); errno != 0 || len(got) != len(c.raw) || len(got) > 0 && &got[0] != &c.raw[0] {
			t.Errorf("%s: %x, %v", what, got, errno)
		}
	}
	if n := testing.AllocsPerRun(100, func() { w.ToSend(both, false, unix.AF_INET); w.ToSend(raw, false, unix.AF_INET) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if _, errno := w.ToSend(make([]byte, 7), true, 0); errno != unix.EINVAL {
		t.Errorf("i386, no message: %v", errno)
	}
}

func FuzzSendControl(f *testing.F) {
	f.Add(AppendControl(nil, unix.IPPROTO_IP, unix.IP_TOS, number(1)), false, true)
	f.Add(appendCompat(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12)), true, false)
	f.Fuzz(func(t *testing.T, raw []byte, compat, to6 bool) {
		w := &ControlBuffer{}
		before := bytes.Clone(raw)
		from := 0
		if to6 {
			from = unix.AF_INET
		}
		native, errno := w.ToSend(raw, compat, from)
		if !bytes.Equal(raw, before) {
			t.Fatal("it has changed what it was given")
		}
		if errno != 0 || !compat && !to6 {
			return
		}
		for rest := native; ; {
			m, behind, ok, errno := TakeControl(rest, false)
			if !ok {
				if compat && errno != 0 {
					t.Fatalf("%x becomes %x, which is no control message", raw, native)
				}
				return
			}
			if to6 && m.Level == unix.IPPROTO_IP {
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
	var to Controls
	to.Reset(true, 1000)
	to.Put(unix.IPPROTO_IP, unix.IP_TOS, []byte{7})
	to.Put(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, timestamp(5, 6))
	to.Put(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, timestamp(5, 6))
	to.Put(unix.SOL_SOCKET, unix.SO_TIMESTAMPING, timestamp(1, 2, 3, 4, 5, 6))
	var got []Control
	at := 0
	for _, p := range to.Pieces {
		m, _, ok, errno := TakeControl(to.Bytes[at:at+p.Length], true)
		if !ok || errno != 0 || p.Space%4 != 0 || p.Space < p.Length {
			t.Fatalf("%+v: %v, %v", p, ok, errno)
		}
		got = append(got, m)
		at += p.Length
	}
	want := []Control{
		{unix.IPPROTO_IP, unix.IP_TOS, []byte{7}},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, append(number(5), number(6)...)},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, timestamp(5, 6)},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPING, bytes.Join([][]byte{number(1), number(2), number(3), number(4), number(5), number(6)}, nil)},
	}
	if !reflect.DeepEqual(got, want) || to.truncated || to.Used() != 16+20+28+36 {
		t.Errorf("%v, %v, %d; want %v", got, to.truncated, to.Used(), want)
	}
	for room, truncated := range map[int]bool{0: true, 11: true, 12: true, 15: true, 16: false, 17: false} {
		to.Reset(true, room)
		to.Put(unix.IPPROTO_IP, unix.IP_TTL, number(64))
		if to.truncated != truncated || to.Used() > room || len(to.Bytes) > room || (room < 12) != (len(to.Pieces) == 0) {
			t.Errorf("room for %d: %+v", room, to)
		}
	}
}

func TestErrorTo4(t *testing.T) {
	ee := func(errno unix.Errno, origin, kind, code byte, info uint32) (e [SizeofExtendedErr]byte) {
		binary.NativeEndian.PutUint32(e[:], uint32(errno))
		e[4], e[5], e[6] = origin, kind, code
		binary.NativeEndian.PutUint32(e[8:], info)
		binary.NativeEndian.PutUint32(e[12:], 0x1234)
		return e
	}
	for _, c := range []struct {
		what       string
		from, want [SizeofExtendedErr]byte
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
		if got := ErrorTo4(c.from); got != c.want {
			t.Errorf("%s: %x, want %x", c.what, got, c.want)
		}
	}
	for six, four := range map[uint32]uint32{0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8, 8: 12, 23: 12, 24: 16, 39: 16, 40: 0} {
		if got := pointerTo4(six); got != four {
			t.Errorf("pointer %d: %d, want %d", six, got, four)
		}
	}
}
