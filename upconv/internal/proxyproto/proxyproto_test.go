package proxyproto

import (
	"bytes"
	"net/netip"
	"testing"
)

func TestHeader(t *testing.T) {
	got := Header(netip.MustParseAddr("192.0.0.2"), 40000, netip.MustParseAddrPort("203.0.113.10:443"))
	want := []byte("\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21\x11\x00\x0c\xc0\x00\x00\x02\xcb\x00\x71\x0a\x9c\x40\x01\xbb")
	if !bytes.Equal(got[:], want) {
		t.Errorf("% x\n% x", got, want)
	}
}
