package upconv

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

func testPassport(family int) passport {
	return passport{family: family, proto: unix.IPPROTO_MPTCP, peer: netip.MustParseAddrPort("203.0.113.10:443"), local: netip.MustParseAddr("192.0.0.2")}
}

// TestPassport6 puts passports on real sockets; it needs no privilege.
func TestPassport6(t *testing.T) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, errno := linux.NewSocket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer linux.Close(fd)
		var got passport
		if got.readFrom6(fd) {
			t.Error("a fresh socket has a passport")
		}
		want := testPassport(family)
		if errno := want.putOn6(fd); errno != 0 {
			t.Fatal(errno)
		}
		if !got.readFrom6(fd) || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		want.peer, want.connected = netip.MustParseAddrPort("255.255.255.255:65535"), true // replaces the first
		if errno := want.putOn6(fd); errno != 0 || !got.readFrom6(fd) || !reflect.DeepEqual(got, want) {
			t.Errorf("%v; got %+v, want %+v", errno, got, want)
		}
	}
}

func TestPassportUnix(t *testing.T) {
	own := []unix.SockFilter{{Code: bpfLoad, K: 7}, {Code: bpfRet, K: 40}}
	for name, change := range map[string]func(*passport){
		"plain": func(*passport) {},
		"options": func(p *passport) {
			p.remember(6, 1, []byte{1, 0, 0, 0})
			p.remember(6, 13, []byte("cubic"))
			p.remember(0, 2, nil)
		},
		"filter":           func(p *passport) { p.filter = own },
		"takes everything": func(p *passport) { p.filter = []unix.SockFilter{{Code: bpfRet, K: ^uint32(0)}} },
		"all":              func(p *passport) { p.filter, p.locked = own, true; p.remember(6, 1, []byte{1, 0, 0, 0}) },
	} {
		want := testPassport(unix.AF_INET)
		want.localPort = 40000
		got := passport{connected: true} // of a socket that was looked at before
		change(&want)
		fd, errno := linux.NewSocket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer linux.Close(fd)
		if got.readFromUnix(fd) {
			t.Error("a fresh socket has a passport")
		}
		if errno := want.putOnUnix(fd); errno != 0 {
			t.Fatalf("%s: %v", name, errno)
		}
		if !got.readFromUnix(fd) {
			t.Fatalf("%s: not read back", name)
		}
		for i := range want.options {
			if len(want.options[i].value) == 0 {
				want.options[i].value = []byte{}
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
		if errno := attachFilter(fd, own); errno != 0 || got.readFromUnix(fd) {
			t.Errorf("%s: %v, another filter reads as a passport", name, errno)
		}
	}
}

func TestRemember(t *testing.T) {
	var p passport
	if !p.remember(6, 1, []byte{1}) || !p.remember(6, 2, []byte{2}) || !p.remember(6, 1, []byte{3, 4}) || p.remember(6, 3, make([]byte, 256)) {
		t.Error("what is remembered")
	}
	if len(p.options) != 2 || !bytes.Equal(p.options[0].value, []byte{3, 4}) {
		t.Errorf("%v", p.options)
	}
}

func FuzzPassport(f *testing.F) {
	p := testPassport(unix.AF_INET)
	var raw [passport6Size]byte
	p.encode6(&raw)
	f.Add(raw[:])
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again passport
		if p.decode6(data) && (p.peer.Addr().Is6() || p.local.Is6()) {
			t.Errorf("%+v", p)
		}
		program := make([]unix.SockFilter, len(data)/3)
		for i := range program {
			program[i] = unix.SockFilter{Code: bpfLoad, K: uint32(data[3*i])<<24 | uint32(data[3*i+1])<<8 | uint32(data[3*i+2])}
		}
		if len(program) > 2 {
			program[0].K, program[1].K, program[2].K = passportMagic, uint32(len(program)-3), passportVersion<<24
		}
		if p.decodeUnix(program) {
			if encoded, ok := p.encodeUnix(); ok && (!again.decodeUnix(encoded) || !reflect.DeepEqual(p, again)) {
				t.Errorf("%+v, then %+v", p, again)
			}
		}
	})
}
