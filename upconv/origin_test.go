package upconv

import (
	"net/netip"
	"testing"
)

func TestOwnAddresses(t *testing.T) {
	assigned, err := OwnAddresses("")
	if err != nil {
		t.Fatal(err)
	}
	if !assigned(netip.MustParseAddr("127.0.0.1")) || assigned(netip.MustParseAddr("203.0.113.99")) {
		t.Error("127.0.0.1 is not an address here, or 203.0.113.99 is")
	}
	if _, err := OwnAddresses("/nosuch"); err == nil {
		t.Error("no error for a namespace that is not there")
	}
}
