package target

import (
	"golang.org/x/sys/unix"
)

// process_vm_readv(2) takes about as long for another vector as for another page, however short the
// vector is: it looks for the memory each time. The headers, names and data of sendmmsg(2) are many
// short pieces that mostly lie side by side, so gather reads what is between them too.

// near is how much may lie between two pieces that are read as one.
const near = 4096

// Gathering is the scratch memory of gather.
type Gathering struct {
	spans []span
	of    []uint8 // by piece: its span
	whole []unix.RemoteIovec
	buf   []byte
	// What readAround has read: the memory from low on.
	low    uintptr
	around []byte
}

// span is memory from low to high that is read at once, to the place at of the buffer.
type span struct {
	low, high uintptr
	at        int
}

const (
	fewPieces   = 4 // are not worth it, but if they are in one page
	pageSize    = 4096
	Reach       = 512
	maxSpans    = 8
	maxGathered = 1 << 17 // copying it twice takes as long as what is saved
)

// ReadAround reads size bytes of the target's memory at address at, or less, into a part of buf,
// which has room for 2*reach more. What it finds near them is likely to be wanted next: names and
// vectors that a function puts on its stack beside the headers. It stays within the pages of what
// is asked for.
func (g *Gathering) ReadAround(tid int, buf []byte, at uintptr, size int) (data []byte, errno unix.Errno) {
	low, end := at&^(pageSize-1), at+uintptr(size)
	if at-low > Reach {
		low = at - Reach
	}
	high := (end - 1) | (pageSize - 1) + 1
	if high-end > Reach {
		high = end + Reach
	}
	g.around = nil
	if high > end && end > at {
		whole := buf[:high-low]
		if n, errno := ReadVectors(tid, whole, []unix.RemoteIovec{{Base: low, Len: len(whole)}}); errno == 0 && n == len(whole) {
			g.low, g.around = low, whole
			return whole[at-low:][:size], 0
		}
	}
	n, errno := ReadVectors(tid, buf[:size], []unix.RemoteIovec{{Base: at, Len: size}})
	return buf[:n], errno
}

// GatherAround is gather for what is likely to be in what readAround has read.
func (g *Gathering) GatherAround(tid int, buf []byte, vectors []unix.RemoteIovec) (n int, errno unix.Errno) {
	for i := range vectors {
		v := &vectors[i]
		from := v.Base - g.low
		if v.Len < 0 || from > uintptr(len(g.around)) || uintptr(v.Len) > uintptr(len(g.around))-from {
			return g.Gather(tid, buf, vectors)
		}
		n += copy(buf[n:], g.around[from:][:v.Len])
	}
	return n, 0
}

// Gather is ReadVectors; for many vectors, faster.
func (g *Gathering) Gather(tid int, buf []byte, vectors []unix.RemoteIovec) (n int, errno unix.Errno) {
	if len(vectors) == 1 || !g.plan(vectors) {
		return ReadVectors(tid, buf, vectors)
	}
	total := 0
	g.whole = g.whole[:0]
	for i := range g.spans {
		s := &g.spans[i]
		s.at = total
		total += int(s.high - s.low)
		g.whole = append(g.whole, unix.RemoteIovec{Base: s.low, Len: int(s.high - s.low)})
	}
	if total > maxGathered {
		return ReadVectors(tid, buf, vectors)
	}
	if total > len(g.buf) {
		g.buf = make([]byte, max(total, min(2*len(g.buf), maxGathered), pageSize))
	}
	if got, errno := ReadVectors(tid, g.buf[:total], g.whole); errno != 0 || got < total {
		return ReadVectors(tid, buf, vectors) // which says how far it can be read
	}
	for i := range vectors {
		v, s := &vectors[i], &g.spans[g.of[i]]
		n += copy(buf[n:], g.buf[s.at+int(v.Base-s.low):][:v.Len])
	}
	return n, 0
}

// plan puts the pieces into spans. It returns false where they are too scattered for that, or none
// that there can be.
func (g *Gathering) plan(vectors []unix.RemoteIovec) bool {
	g.spans, g.of = g.spans[:0], g.of[:0]
	for i := range vectors {
		low := vectors[i].Base
		high := low + uintptr(vectors[i].Len)
		if vectors[i].Len < 0 || vectors[i].Len > 1<<16 || high < low {
			return false
		}
		found := -1
		for j := range g.spans {
			if s := &g.spans[j]; high+near >= s.low && high+near > near && low <= s.high+near && s.high+near > near {
				s.low, s.high = min(s.low, low), max(s.high, high)
				found = j
				break
			}
		}
		if found < 0 {
			if len(g.spans) == maxSpans {
				return false
			}
			found = len(g.spans)
			g.spans = append(g.spans, span{low: low, high: high})
		}
		g.of = append(g.of, uint8(found))
	}
	if len(vectors) <= fewPieces {
		return len(g.spans) == 1 && g.spans[0].low&^(pageSize-1) == (g.spans[0].high-1)&^(pageSize-1)
	}
	return len(g.spans) < len(vectors)/2
}
