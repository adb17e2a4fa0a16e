package passport

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

func samplePassport(family int) Passport {
	return Passport{Family: family, Proto: unix.IPPROTO_MPTCP, Peer: netip.MustParseAddrPort("203.0.113.10:443"), Local: netip.MustParseAddr("192.0.0.2")}
}

// TestPassport6 puts passports on real sockets; it needs no privilege.
func TestPassport6(t *testing.T) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, errno := linux.NewSocket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer linux.Close(fd)
		var got Passport
		if got.ReadFrom6(fd) {
			t.Error("a fresh socket has a passport")
		}
		want := samplePassport(family)
		if errno := want.PutOn6(fd); errno != 0 {
			t.Fatal(errno)
		}
		if !got.ReadFrom6(fd) || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		want.Peer, want.Connected = netip.MustParseAddrPort("255.255.255.255:65535"), true // replaces the first
		if errno := want.PutOn6(fd); errno != 0 || !got.ReadFrom6(fd) || !reflect.DeepEqual(got, want) {
			t.Errorf("%v; got %+v, want %+v", errno, got, want)
		}
	}
}

func TestPassportUnix(t *testing.T) {
	own := []unix.SockFilter{{Code: bpfLoad, K: 7}, {Code: bpfRet, K: 40}}
	for name, change := range map[string]func(*Passport){
		"plain": func(*Passport) {},
		"options": func(p *Passport) {
			p.Remember(6, 1, []byte{1, 0, 0, 0})
			p.Remember(6, 13, []byte("cubic"))
			p.Remember(0, 2, nil)
		},
		"filter":           func(p *Passport) { p.Filter = own },
		"takes everything": func(p *Passport) { p.Filter = []unix.SockFilter{{Code: bpfRet, K: ^uint32(0)}} },
		"all":              func(p *Passport) { p.Filter, p.Locked = own, true; p.Remember(6, 1, []byte{1, 0, 0, 0}) },
	} {
		want := samplePassport(unix.AF_INET)
		want.LocalPort = 40000
		got := Passport{Connected: true} // of a socket that was looked at before
		change(&want)
		fd, errno := linux.NewSocket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer linux.Close(fd)
		if got.ReadFromUnix(fd) {
			t.Error("a fresh socket has a passport")
		}
		if errno := want.PutOnUnix(fd); errno != 0 {
			t.Fatalf("%s: %v", name, errno)
		}
		if !got.ReadFromUnix(fd) {
			t.Fatalf("%s: not read back", name)
		}
		for i := range want.Options {
			if len(want.Options[i].Value) == 0 {
				want.Options[i].Value = []byte{}
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
		if errno := AttachFilter(fd, own); errno != 0 || got.ReadFromUnix(fd) {
			t.Errorf("%s: %v, another filter reads as a passport", name, errno)
		}
	}
}

func TestRemember(t *testing.T) {
	var p Passport
	if !p.Remember(6, 1, []byte{1}) || !p.Remember(6, 2, []byte{2}) || !p.Remember(6, 1, []byte{3, 4}) || p.Remember(6, 3, make([]byte, 256)) {
		t.Error("what is remembered")
	}
	if len(p.Options) != 2 || !bytes.Equal(p.Options[0].Value, []byte{3, 4}) {
		t.Errorf("%v", p.Options)
	}
}

func FuzzPassport(f *testing.F) {
	p := samplePassport(unix.AF_INET)
	var raw [passport6Size]byte
	p.encode6(&raw)
	f.Add(raw[:])
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again Passport
		if p.decode6(data) && (p.Peer.Addr().Is6() || p.Local.Is6()) {
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
