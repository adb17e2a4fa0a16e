package linux

import "encoding/binary"

// Layout says how struct msghdr, struct mmsghdr and struct iovec are laid out in a program's
// memory: as for this machine, or as for i386, whose longs and pointers are half as long
// (net/compat.c).
type Layout struct {
	Compat bool // made with the 32-bit structures of i386
}

const (
	MaxPacket    = 0xffff // what fits into the length of an IPv4 packet, and of the payload of an IPv6 one
	SizeofMsghdr = 56     // struct msghdr of user space
	compatMsghdr = 28     // and that of i386
	MaxIovecs    = 1024   // UIO_MAXIOV, linux/uio.h
)

// Msghdr is what is in a struct msghdr of the target, but for msg_flags. Nothing of it has been
// checked.
type Msghdr struct {
	Name       uint64 // where it is
	NameLen    int32
	Iovecs     uint64 // where the array of struct iovec is
	Count      uint64 // of those
	Control    uint64
	ControlLen uint64
}

// Msghdr decodes a struct msghdr.
func (l Layout) Msghdr(raw []byte) Msghdr {
	return Msghdr{
		Name: l.word(raw, 0), NameLen: int32(binary.NativeEndian.Uint32(raw[l.WordSize():])),
		Iovecs: l.word(raw, 2), Count: l.word(raw, 3),
		Control: l.word(raw, 4), ControlLen: l.word(raw, 5),
	}
}

// Iovec decodes the i-th struct iovec of an array.
func (l Layout) Iovec(raw []byte, i int) (base, length uint64) {
	return l.word(raw, 2*i), l.word(raw, 2*i+1)
}

// Negative reports whether a length is a negative ssize_t of the target, which import_iovec in
// lib/iov_iter.c refuses.
func (l Layout) Negative(length uint64) bool { return length>>(8*l.WordSize()-1) != 0 }

// word returns the i-th of the target's longs or pointers.
func (l Layout) word(raw []byte, i int) uint64 {
	if l.Compat {
		return uint64(binary.NativeEndian.Uint32(raw[4*i:]))
	}
	return binary.NativeEndian.Uint64(raw[8*i:])
}

// WordSize is the size of a long or a pointer in the target, and the others those of the
// structures.
func (l Layout) WordSize() int {
	if l.Compat {
		return 4
	}
	return 8
}

func (l Layout) IovecSize() int { return 2 * l.WordSize() }

func (l Layout) MsghdrSize() int {
	if l.Compat {
		return compatMsghdr
	}
	return SizeofMsghdr
}

func (l Layout) MmsghdrSize() int { return l.MsghdrSize() + l.WordSize() } // msg_len, and what it is aligned with
