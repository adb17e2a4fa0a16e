package nat64

import "net/netip"

// specialBlock is an entry of the IANA IPv4 Special-Purpose Address Registry.
type specialBlock struct {
	prefix netip.Prefix
	global bool // "Globally Reachable" is true
	source string
}

// specialBlocks is the IANA IPv4 Special-Purpose Address Registry (RFC 6890 section 2.2.2, as
// amended by RFC 8190 and the later entries named), and multicast, which has a registry of its own
// but is in the list that RFC 6052 section 3.1 refers to. Of entries that overlap the longest one
// counts.
//
// Left out are the entries that change nothing: 0.0.0.0/32, 192.0.0.0/29 (RFC 7335), 192.0.0.8/32
// (RFC 7600) and 192.0.0.170/31 (RFC 8880) within blocks that are not global either, and the
// withdrawn 6to4 block 192.88.99.0/24 (RFC 7526), for which the registry says "N/A".
var specialBlocks = []specialBlock{
	{netip.MustParsePrefix("0.0.0.0/8"), false, "RFC 791 section 3.2"},
	{netip.MustParsePrefix("10.0.0.0/8"), false, "RFC 1918"},
	{netip.MustParsePrefix("100.64.0.0/10"), false, "RFC 6598"},
	{netip.MustParsePrefix("127.0.0.0/8"), false, "RFC 1122 section 3.2.1.3"},
	{netip.MustParsePrefix("169.254.0.0/16"), false, "RFC 3927"},
	{netip.MustParsePrefix("172.16.0.0/12"), false, "RFC 1918"},
	{netip.MustParsePrefix("192.0.0.0/24"), false, "RFC 6890 section 2.1"},
	{netip.MustParsePrefix("192.0.0.9/32"), true, "RFC 7723"},
	{netip.MustParsePrefix("192.0.0.10/32"), true, "RFC 8155"},
	{netip.MustParsePrefix("192.0.2.0/24"), false, "RFC 5737"},
	{netip.MustParsePrefix("192.31.196.0/24"), true, "RFC 7535"},
	{netip.MustParsePrefix("192.52.193.0/24"), true, "RFC 7450"},
	{netip.MustParsePrefix("192.88.99.2/32"), false, "RFC 6751"},
	{netip.MustParsePrefix("192.168.0.0/16"), false, "RFC 1918"},
	{netip.MustParsePrefix("192.175.48.0/24"), true, "RFC 7534"},
	{netip.MustParsePrefix("198.18.0.0/15"), false, "RFC 2544"},
	{netip.MustParsePrefix("198.51.100.0/24"), false, "RFC 5737"},
	{netip.MustParsePrefix("203.0.113.0/24"), false, "RFC 5737"},
	{netip.MustParsePrefix("224.0.0.0/4"), false, "RFC 5771"},
	{netip.MustParsePrefix("240.0.0.0/4"), false, "RFC 1112 section 4"},
	{netip.MustParsePrefix("255.255.255.255/32"), false, "RFC 919 section 7"},
}

// nonGlobal returns the block because of which an IPv4 address is not globally reachable; nil if it
// is.
func nonGlobal(addr netip.Addr) *specialBlock {
	var found *specialBlock
	for i := range specialBlocks {
		b := &specialBlocks[i]
		if b.prefix.Contains(addr) && (found == nil || b.prefix.Bits() > found.prefix.Bits()) {
			found = b
		}
	}
	if found != nil && found.global {
		return nil
	}
	return found
}
