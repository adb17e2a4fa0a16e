package receive

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// deliver writes what has come to the target's memory: all at once if that goes, or else as far as
// the kernel comes.
func (r *reception) deliver(b *receiveBuffers, came *arrival) unix.Errno {
	tid := r.c.TID
	data := came.data
	b.remote, b.rest = b.remote[:0], b.rest[:0]
	left := len(data)
	for _, v := range r.message.vector {
		if part := min(v.Len, left); part > 0 {
			b.remote = append(b.remote, unix.RemoteIovec{Base: v.Base, Len: part})
			left -= part
		}
	}
	const others = 64
	if len(b.remote) > linux.MaxIovecs-others {
		if target.WriteVectors(tid, data, nil, b.remote) != len(data) {
			return unix.EFAULT
		}
		data, b.remote = nil, b.remote[:0]
	}
	if r.kind != receivesFrom {
		r.collectControl(b)
	}
	place := r.namePlace()
	if r.message.name != 0 && place.errno == 0 {
		r.collectName(b, came, &place)
	}
	if r.kind != receivesFrom {
		r.collectHeader(b, came)
	}
	total := len(data) + len(b.rest)
	wrote := 0
	if total > 0 {
		wrote = target.WriteVectors(tid, data, b.rest, b.remote)
	}
	if wrote == total {
		return place.errno
	}
	if wrote < len(data) {
		return unix.EFAULT
	}
	return r.deliverPieces(b, came, &place)
}

// collect adds bytes to what is to be written to the target's memory besides the data.
func (b *receiveBuffers) collect(at uint64, bytes []byte) {
	if len(bytes) > 0 {
		b.remote = append(b.remote, unix.RemoteIovec{Base: uintptr(at), Len: len(bytes)})
		b.rest = append(b.rest, bytes...)
	}
}

// collectControl collects the control messages.
func (r *reception) collectControl(b *receiveBuffers) {
	at, bytes := r.message.control, b.out.Bytes
	for _, p := range b.out.Pieces {
		b.collect(at, bytes[:p.Length])
		at, bytes = at+uint64(p.Space), bytes[p.Length:]
	}
}

// collectName collects the source address and its length, in the order in which the kernel writes
// them: where they overlap, the last one counts.
func (r *reception) collectName(b *receiveBuffers, came *arrival, place *namePlace) {
	length := lengthOf(came.name)
	if LengthFirst() {
		b.collect(place.lengthAt, length[:])
		b.collect(r.message.name, place.cut(came.name))
	} else {
		b.collect(r.message.name, place.cut(came.name))
		b.collect(place.lengthAt, length[:])
	}
}

// collectHeader collects msg_controllen, msg_flags and, of a struct mmsghdr, msg_len.
func (r *reception) collectHeader(b *receiveBuffers, came *arrival) {
	m := &r.message
	word := uint64(r.c.WordSize())
	var tail [16]byte
	if r.c.Compat {
		binary.NativeEndian.PutUint32(tail[:], uint32(b.out.Used()))
	} else {
		binary.NativeEndian.PutUint64(tail[:], uint64(b.out.Used()))
	}
	binary.NativeEndian.PutUint32(tail[word:], came.flags|b.out.Flag())
	b.collect(m.at+5*word, tail[:word+4])
	if r.kind == receivesMessages {
		var value [4]byte
		binary.NativeEndian.PutUint32(value[:], uint32(came.result))
		b.collect(m.at+7*word, value[:])
	}
}

// namePlace is where the program wants the length of a source address, and for how much of the
// address it has room.
type namePlace struct {
	lengthAt uint64
	room     int32
	errno    unix.Errno // what is wrong with it
}

// cut returns as much of an address as there is room for.
func (p *namePlace) cut(name []byte) []byte { return name[:max(0, min(int(p.room), len(name)))] }

// lengthOf returns the length of an address as the program is given it.
func lengthOf(name []byte) (length [4]byte) {
	binary.NativeEndian.PutUint32(length[:], uint32(len(name)))
	return length
}

// namePlace reads where the source address and its length go.
func (r *reception) namePlace() namePlace {
	if r.kind != receivesFrom {
		return namePlace{lengthAt: r.message.at + uint64(r.c.WordSize()), room: r.message.nameLen}
	}
	p := namePlace{lengthAt: r.c.Args[5]}
	if r.message.name == 0 {
		return p
	}
	var raw [4]byte
	if target.ReadMemory(r.c.TID, p.lengthAt, raw[:]) != 0 {
		p.errno = unix.EFAULT
		return p
	}
	if p.room = int32(binary.NativeEndian.Uint32(raw[:])); p.room < 0 {
		p.errno = unix.EINVAL
	}
	return p
}

// deliverPieces is for a target whose memory cannot be written everywhere: one piece after the
// other, as the kernel does it.
func (r *reception) deliverPieces(b *receiveBuffers, came *arrival, place *namePlace) unix.Errno {
	m := &r.message
	tid := r.c.TID
	if r.kind != receivesFrom {
		b.out.Reset(r.c.Compat, m.controlRoom())
		b.out.Direct = func(n int, message []byte) unix.Errno { return target.WriteMemory(tid, m.control+uint64(n), message) }
		r.translate(&b.out, came)
	}
	put := func(at uint64, bytes []byte) bool { return len(bytes) == 0 || target.WriteMemory(tid, at, bytes) == 0 }
	if place.errno != 0 {
		return place.errno
	}
	if m.name != 0 {
		length, name := lengthOf(came.name), place.cut(came.name)
		ok := false
		if LengthFirst() {
			ok = put(place.lengthAt, length[:]) && put(m.name, name)
		} else {
			ok = put(m.name, name) && put(place.lengthAt, length[:])
		}
		if !ok {
			return unix.EFAULT
		}
	}
	if r.kind == receivesFrom {
		return 0
	}
	word := uint64(r.c.WordSize())
	var value [8]byte
	binary.NativeEndian.PutUint32(value[:], came.flags|b.out.Flag())
	if !put(m.at+6*word, value[:4]) {
		return unix.EFAULT
	}
	binary.NativeEndian.PutUint64(value[:], uint64(b.out.Used())) // i386 is little-endian
	if !put(m.at+5*word, value[:word]) {
		return unix.EFAULT
	}
	binary.NativeEndian.PutUint32(value[:], uint32(came.result))
	if r.kind == receivesMessages && !put(m.at+7*word, value[:4]) {
		return unix.EFAULT
	}
	return 0
}
