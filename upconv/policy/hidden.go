package policy

import "math"

// portRange is a range of ports of one protocol.
type portRange struct {
	proto    Proto
	low, top uint16
}

// hiddenIn finds the rules of which earlier ones, one or several together, take every destination.
// That an address may be the origin's own, which only rules about that one address are for, does
// not count: what such a rule says for a destination that is elsewhere never applies either.
func hiddenIn(rules []Rule) []int {
	l, of := newLookup(rules)
	children := make([][]int32, len(l.nodes))
	for n := range l.nodes {
		if p := l.nodes[n].parent; p != none {
			children[p] = append(children[p], int32(n))
		}
	}
	// left returns what is left of ranges when the rules of a node before rule i have taken theirs.
	left := func(ranges []portRange, n, i int32) []portRange {
		var rest []portRange
		for _, r := range ranges {
			l.each(n, r, func(piece portRange, first int32) {
				if first >= i {
					rest = append(rest, piece)
				}
			})
		}
		return rest
	}
	// taken reports whether the rules before i within a node take all of ranges.
	var taken func(ranges []portRange, n, i int32) bool
	taken = func(ranges []portRange, n, i int32) bool {
		if ranges = left(ranges, n, i); len(ranges) == 0 {
			return true
		}
		if l.nodes[n].gap {
			return false
		}
		for _, c := range children[n] {
			if !taken(ranges, c, i) {
				return false
			}
		}
		return true
	}

	var found []int
rules:
	for i := range rules {
		n := of[i]
		var ranges []portRange
		for _, proto := range []Proto{TCP, UDP} {
			if rules[i].Proto&proto != 0 {
				l.each(n, portRange{proto, rules[i].LowPort, rules[i].HiPort}, func(piece portRange, first int32) {
					if first == int32(i) {
						ranges = append(ranges, piece)
					}
				})
			}
		}
		for p := l.nodes[n].parent; p != none && len(ranges) > 0; p = l.nodes[p].parent {
			ranges = left(ranges, p, int32(i))
		}
		if len(ranges) > 0 {
			if l.nodes[n].gap {
				continue
			}
			for _, c := range children[n] {
				if !taken(ranges, c, int32(i)) {
					continue rules
				}
			}
		}
		found = append(found, i)
	}
	return found
}

// each calls f for every piece of r that has one first rule, or none (noRule), in node n.
func (l *lookup) each(n int32, r portRange, f func(piece portRange, first int32)) {
	span := l.nodes[n].tcp
	if r.proto == UDP {
		span = l.nodes[n].udp
	}
	if span.from == span.to {
		f(r, noRule)
		return
	}
	for i := l.interval(span, r.low); i < span.to && l.ports[i] <= r.top; i++ {
		end := uint16(math.MaxUint16)
		if i+1 < span.to {
			end = l.ports[i+1] - 1
		}
		f(portRange{r.proto, max(r.low, l.ports[i]), min(r.top, end)}, l.first[i])
	}
}
