package policy

import (
	"math"
	"net/netip"
	"slices"

	"github.com/upconv/upconv/upconv/internal/ip4"
)

// lookup finds the first rule that is about a destination, in a time that hardly depends on how
// many there are.
//
// Rules with the same prefix make a node. Nodes form a tree, as prefixes contain each other or have
// nothing in common. The whole address space is cut into intervals, each of which knows its
// innermost node: one binary search finds that, and from there it goes up through the nodes around
// it, of which there are as many as rules are nested. In each node the ports are cut into intervals
// that know their first rule.
//
// Rules about local destinations (localBlocks) are only those that lie within a block, and such
// rules are about nothing else. So a block cuts the tree: its node has no parent.
type lookup struct {
	starts []uint32 // the first address of each interval
	inner  []int32  // its node, or none
	nodes  []lookupNode
	ports  []uint16 // the first port of each interval, for all nodes
	first  []int32  // index of its first rule, or noRule
}

type lookupNode struct {
	parent   int32 // or none
	least    int32 // of all the rules of this node and those around it
	bits     int8
	gap      bool // some addresses are in this node and in no inner one
	tcp, udp portSpan
}

// portSpan is a part of lookup.ports and lookup.first. If not empty, its first interval starts at
// port 0.
type portSpan struct{ from, to int32 }

const (
	none   = -1
	noRule = math.MaxInt32
)

// newLookup also returns the node of each rule.
func newLookup(rules []Rule) (l *lookup, of []int32) {
	of = make([]int32, len(rules))
	b := &lookupBuilder{lookup: &lookup{starts: []uint32{0}, inner: []int32{none}}}
	keys := prefixKeys(rules)
	var mine []int32
	for len(keys) > 0 {
		prefix := keys[0] >> indexBits
		start, bits := uint32(prefix>>(32-indexBits)), int(prefix&(1<<(32-indexBits)-1))
		local := false
		mine = mine[:0]
		for len(keys) > 0 && keys[0]>>indexBits == prefix {
			if index := keys[0] & noIndex; index == noIndex {
				local = true
			} else {
				mine = append(mine, int32(index))
			}
			keys = keys[1:]
		}
		for len(b.around) > 0 && b.around[len(b.around)-1].last < start {
			b.leaveNode()
		}
		parent := int32(none)
		if len(b.around) > 0 && !local {
			parent = b.around[len(b.around)-1].node
		}
		n := b.addNode(rules, mine, parent, bits)
		for _, i := range mine {
			of[i] = n
		}
		b.beginInterval(start, n)
		b.around = append(b.around, openNode{n, start | ^ip4.Mask(bits)})
	}
	for len(b.around) > 0 {
		b.leaveNode()
	}
	for _, n := range b.inner {
		if n != none {
			b.nodes[n].gap = true
		}
	}
	return b.lookup, of
}

// The index of a rule in a number of prefixKeys; noIndex stands for a local block.
const indexBits, noIndex = 26, 1<<26 - 1

// prefixKeys returns the prefixes of rules and local blocks, outer ones before inner ones. The
// address, the length and the index in one number are what sorts fastest.
func prefixKeys(rules []Rule) []uint64 {
	keys := make([]uint64, 0, len(rules)+len(localBlocks))
	key := func(prefix netip.Prefix, index int) uint64 {
		addr := ip4.Number(prefix.Addr()) & ip4.Mask(prefix.Bits())
		return uint64(addr)<<32 | uint64(prefix.Bits())<<indexBits | uint64(index)
	}
	for _, block := range localBlocks {
		keys = append(keys, key(block, noIndex))
	}
	for i := range rules {
		keys = append(keys, key(rules[i].Dest, i))
	}
	slices.Sort(keys)
	return keys
}

// lookupBuilder makes a lookup, from the lowest address to the highest.
type lookupBuilder struct {
	*lookup
	around []openNode // the nodes around the current address, the innermost last
}

// openNode is a node that the current address is in.
type openNode struct {
	node int32
	last uint32 // address
}

// addNode adds the node of a prefix of some bits, with the rules whose indexes are in mine.
func (b *lookupBuilder) addNode(rules []Rule, mine []int32, parent int32, bits int) int32 {
	node := lookupNode{parent: parent, bits: int8(bits), least: noRule}
	if parent != none {
		node.least = b.nodes[parent].least
	}
	if len(mine) > 0 {
		node.least = min(node.least, mine[0])
		node.tcp = b.cutPorts(rules, mine, TCP, portSpan{})
		node.udp = b.cutPorts(rules, mine, UDP, node.tcp)
	}
	b.nodes = append(b.nodes, node)
	return int32(len(b.nodes) - 1)
}

// beginInterval begins an interval at an address, with its innermost node.
func (b *lookupBuilder) beginInterval(start uint32, node int32) {
	if n := len(b.starts) - 1; b.starts[n] == start {
		b.inner[n] = node
		return
	}
	b.starts, b.inner = append(b.starts, start), append(b.inner, node)
}

// leaveNode begins the interval behind the innermost node.
func (b *lookupBuilder) leaveNode() {
	top := b.around[len(b.around)-1]
	b.around = b.around[:len(b.around)-1]
	if top.last == math.MaxUint32 {
		return
	}
	outer := int32(none)
	if len(b.around) > 0 {
		outer = b.around[len(b.around)-1].node
	}
	b.beginInterval(top.last+1, outer)
}

// cutPorts appends the port intervals of the rules in mine, indexes in ascending order, that are
// about proto. Where the result is the same as what is there already in twin, it returns that.
func (l *lookup) cutPorts(rules []Rule, mine []int32, proto Proto, twin portSpan) portSpan {
	cuts := []uint16{0}
	for _, i := range mine {
		if r := &rules[i]; r.Proto&proto != 0 {
			cuts = append(cuts, r.LowPort)
			if r.HiPort < math.MaxUint16 {
				cuts = append(cuts, r.HiPort+1)
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	first := make([]int32, len(cuts))
	free := make([]int32, len(cuts)+1) // the next interval that has no rule yet is there, or further on
	for i := range free {
		free[i] = int32(i)
		if i < len(first) {
			first[i] = noRule
		}
	}
	next := func(i int32) int32 {
		for free[i] != i {
			free[i] = free[free[i]]
			i = free[i]
		}
		return i
	}
	for _, i := range mine {
		r := &rules[i]
		if r.Proto&proto == 0 {
			continue
		}
		k, _ := slices.BinarySearch(cuts, r.LowPort)
		for j := next(int32(k)); int(j) < len(cuts) && cuts[j] <= r.HiPort; j = next(j) {
			first[j], free[j] = i, j+1
		}
	}
	span := portSpan{int32(len(l.ports)), int32(len(l.ports))}
	for i, cut := range cuts {
		if i == 0 || first[i] != first[i-1] {
			l.ports, l.first = append(l.ports, cut), append(l.first, first[i])
			span.to++
		}
	}
	if slices.Equal(l.ports[span.from:], l.ports[twin.from:twin.to]) && slices.Equal(l.first[span.from:], l.first[twin.from:twin.to]) {
		l.ports, l.first = l.ports[:span.from], l.first[:span.from]
		return twin
	}
	return span
}

// find returns the index of the first rule about a destination, or noRule. With single it looks at
// rules about that one address only.
func (l *lookup) find(addr uint32, port uint16, proto Proto, single bool) int32 {
	best := int32(noRule)
	for n := l.innermost(addr); n != none; {
		node := &l.nodes[n]
		if node.least >= best || single && node.bits != 32 {
			break
		}
		if proto&TCP != 0 {
			best = min(best, l.firstAt(node.tcp, port))
		}
		if proto&UDP != 0 {
			best = min(best, l.firstAt(node.udp, port))
		}
		if single {
			break
		}
		n = node.parent
	}
	return best
}

func (l *lookup) firstAt(s portSpan, port uint16) int32 {
	if s.from == s.to {
		return noRule
	}
	return l.first[l.interval(s, port)]
}

// innermost returns the innermost node that an address is in, or none.
func (l *lookup) innermost(addr uint32) int32 {
	low, high := 0, len(l.starts)
	for high-low > 1 {
		if middle := int(uint(low+high) >> 1); l.starts[middle] <= addr {
			low = middle
		} else {
			high = middle
		}
	}
	return l.inner[low]
}

// interval returns the index of the interval of a span, which is not empty, that a port is in.
func (l *lookup) interval(s portSpan, port uint16) int32 {
	low, high := s.from, s.to
	for high-low > 1 {
		if middle := low + (high-low)/2; l.ports[middle] <= port {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}
