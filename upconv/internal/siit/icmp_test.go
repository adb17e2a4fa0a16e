package siit

import (
	"bytes"
	"testing"
)

func TestICMP(t *testing.T) {
	for _, c := range []struct {
		name     string
		six      []byte
		four     []byte // nil: left alone
		sixAgain []byte // what ICMP4To6 makes of four: without a checksum
	}{
		{"reply", []byte{129, 0, 0xab, 0xcd, 0x12, 0x34, 0, 1}, []byte{0, 0, 0xed, 0xca, 0x12, 0x34, 0, 1}, []byte{129, 0, 0, 0, 0x12, 0x34, 0, 1}},
		{"request", []byte{128, 0, 0, 0, 0x12, 0x34, 0, 1}, []byte{8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1}, []byte{128, 0, 0, 0, 0x12, 0x34, 0, 1}},
		{"odd length", []byte{129, 0, 9, 9, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, []byte{0, 0, 0xfb, 0xfd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, []byte{129, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}},
		{"another type", []byte{1, 4, 0, 0, 0, 0, 0, 0}, nil, nil},
		{"too short", []byte{129, 0, 0, 0, 0, 0, 0}, nil, nil},
		{"nothing", nil, nil, nil},
	} {
		got := bytes.Clone(c.six)
		if ok := ICMP6To4(got); ok != (c.four != nil) || ok && !bytes.Equal(got, c.four) || !ok && !bytes.Equal(got, c.six) {
			t.Errorf("%s: %x, %v, want %x", c.name, got, ok, c.four)
		}
		if c.four == nil {
			continue
		}
		if sum := Checksum(got); sum != 0 {
			t.Errorf("%s: with its checksum the sum is %#x, not 0", c.name, sum)
		}
		if ok := ICMP4To6(got); !ok || !bytes.Equal(got, c.sixAgain) {
			t.Errorf("%s: back: %x, %v, want %x", c.name, got, ok, c.sixAgain)
		}
	}
	if ICMP4To6([]byte{3, 3, 0, 0, 0, 0, 0, 0}) || ICMP4To6([]byte{8, 0, 0, 0}) {
		t.Error("not an echo message, and yet translated")
	}
}

func FuzzICMP(f *testing.F) {
	f.Add([]byte{129, 0, 0xab, 0xcd, 0x12, 0x34, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, message []byte) {
		four := bytes.Clone(message)
		if !ICMP6To4(four) {
			if !bytes.Equal(four, message) {
				t.Fatalf("%x is not for it, and is %x now", message, four)
			}
			return
		}
		if Checksum(four) != 0 {
			t.Fatalf("%x: checksum", four)
		}
		six := bytes.Clone(four)
		if !ICMP4To6(six) || six[0] != message[0] || six[1] != message[1] || !bytes.Equal(six[4:], message[4:]) {
			t.Fatalf("%x comes back as %x", message, six)
		}
	})
}
