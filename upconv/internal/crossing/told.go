package crossing

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// toldAddresses are the latest addresses that programs were told as their own for sockets of
// another family, oldest first. Who answers from the address that a datagram came to gives them
// back, also when the namespace has got others since.
type toldAddresses struct {
	list atomic.Pointer[[]netip.Addr]
	mu   sync.Mutex // held while the list is replaced
}

// maxTold bounds the list: it is more addresses than a namespace is likely to have in its life.
const maxTold = 256

// add puts an address into the list, unless it is there.
func (t *toldAddresses) add(addr netip.Addr) {
	if t.Has(addr) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Has(addr) {
		return
	}
	var list []netip.Addr
	if before := t.list.Load(); before != nil {
		list = (*before)[max(0, len(*before)-maxTold+1):]
	}
	list = append(slices.Clone(list), addr)
	t.list.Store(&list)
}

// Has reports whether an address is in the list.
func (t *toldAddresses) Has(addr netip.Addr) bool {
	list := t.list.Load()
	return list != nil && slices.Contains(*list, addr)
}
