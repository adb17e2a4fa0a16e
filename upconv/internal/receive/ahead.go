package receive

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// ahead is what recvmmsg(2) has read of the messages that come next: at once, where that goes.
type ahead struct {
	first, count uint64 // which
	headers      [(linux.SizeofMsghdr + 8) * readAhead]byte
	vectors      []byte
	at           [readAhead]int // where the vector of each is; -1: it has not been read
}

const (
	readAhead       = 32
	vectorReadAhead = 4 // of a message that has no more
)

// parse reads the message that is next, for recvmmsg(2).
func (r *reception) parse(b *receiveBuffers) unix.Errno {
	size := uint64(r.c.MmsghdrSize())
	a := &b.ahead
	if r.done < a.first || r.done >= a.first+a.count {
		r.readAhead(b, size)
	}
	m := &r.message
	if a.count == 0 {
		return unix.EFAULT
	}
	i := r.done - a.first
	errno := m.decodeHeader(&r.c, r.at+r.done*size, a.headers[i*size:(i+1)*size])
	if errno == 0 && a.at[i] >= 0 {
		errno = m.decodeVector(&r.c, b, a.vectors[a.at[i]:])
	} else if errno == 0 {
		errno = m.readVector(&r.c, b)
	}
	r.parsed = errno == 0
	return errno
}

// readAhead reads the messages from the next one on: at least that one, unless it cannot be read.
func (r *reception) readAhead(b *receiveBuffers, size uint64) {
	a := &b.ahead
	a.first, a.count = r.done, min(r.count-r.done, readAhead)
	if target.ReadMemory(r.c.TID, r.at+r.done*size, a.headers[:a.count*size]) != 0 {
		if a.count = 1; target.ReadMemory(r.c.TID, r.at+r.done*size, a.headers[:size]) != 0 {
			a.count = 0
			return
		}
	}
	total := 0
	var where [readAhead]unix.RemoteIovec
	n := 0
	for i := range a.count {
		a.at[i] = -1
		var m message
		if m.decodeHeader(&r.c, 0, a.headers[i*size:(i+1)*size]) != 0 || m.vectorCount > vectorReadAhead || m.vectorCount == 0 {
			continue
		}
		length := m.vectorCount * r.c.IovecSize()
		where[n] = unix.RemoteIovec{Base: uintptr(m.vectorAt), Len: length}
		n++
		a.at[i] = total
		total += length
	}
	if n == 0 {
		return
	}
	if a.vectors == nil {
		a.vectors = make([]byte, 16*vectorReadAhead*readAhead)
	}
	if got, errno := target.ReadVectors(r.c.TID, a.vectors[:total], where[:n]); errno != 0 || got != total {
		for i := range a.at {
			a.at[i] = -1
		}
	}
}
