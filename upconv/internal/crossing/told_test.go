package crossing

import (
	"net/netip"
	"testing"
)

// TestToldAddresses fills the list beyond its bound: the latest addresses stay, the oldest goes,
// and none is there twice.
func TestToldAddresses(t *testing.T) {
	var told toldAddresses
	addr := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 97, byte(n >> 8), byte(n)}) }
	if told.Has(addr(0)) {
		t.Error("an empty list has an address")
	}
	for n := range maxTold + 1 {
		told.add(addr(n))
		told.add(addr(n))
	}
	if told.Has(addr(0)) {
		t.Error("the oldest address is still in a full list")
	}
	for n := 1; n <= maxTold; n++ {
		if !told.Has(addr(n)) {
			t.Fatalf("%v is not in the list", addr(n))
		}
	}
	if n := len(*told.list.Load()); n != maxTold {
		t.Errorf("the list has %d addresses, want %d", n, maxTold)
	}
}

// TestToldAddressesCost holds that to add an address again, as every send does, allocates nothing.
func TestToldAddressesCost(t *testing.T) {
	var told toldAddresses
	told.add(dummyLocal)
	if n := testing.AllocsPerRun(100, func() { told.add(dummyLocal) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
