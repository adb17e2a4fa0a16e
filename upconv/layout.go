package upconv

import "encoding/binary"

// layout says how struct msghdr, struct mmsghdr and struct iovec are laid out in a program's memory:
// as for this machine, or as for i386, whose longs and pointers are half as long (net/compat.c).
type layout struct {
	compat bool // made with the 32-bit structures of i386
}

const (
	sizeofMsghdr = 56   // struct msghdr of user space
	compatMsghdr = 28   // and that of i386
	maxIovecs    = 1024 // UIO_MAXIOV, linux/uio.h
)

// msghdr is what is in a struct msghdr of the target, but for msg_flags. Nothing of it has been
// checked.
type msghdr struct {
	name       uint64 // where it is
	nameLen    int32
	iovecs     uint64 // where the array of struct iovec is
	count      uint64 // of those
	control    uint64
	controlLen uint64
}

// msghdr decodes a struct msghdr.
func (l layout) msghdr(raw []byte) msghdr {
	return msghdr{
		name: l.word(raw, 0), nameLen: int32(binary.NativeEndian.Uint32(raw[l.wordSize():])),
		iovecs: l.word(raw, 2), count: l.word(raw, 3),
		control: l.word(raw, 4), controlLen: l.word(raw, 5),
	}
}

// iovec decodes the i-th struct iovec of an array.
func (l layout) iovec(raw []byte, i int) (base, length uint64) {
	return l.word(raw, 2*i), l.word(raw, 2*i+1)
}

// negative reports whether a length is a negative ssize_t of the target, which import_iovec in
// lib/iov_iter.c refuses.
func (l layout) negative(length uint64) bool { return length>>(8*l.wordSize()-1) != 0 }

// word returns the i-th of the target's longs or pointers.
func (l layout) word(raw []byte, i int) uint64 {
	if l.compat {
		return uint64(binary.NativeEndian.Uint32(raw[4*i:]))
	}
	return binary.NativeEndian.Uint64(raw[8*i:])
}

// wordSize is the size of a long or a pointer in the target, and the others those of the
// structures.
func (l layout) wordSize() int {
	if l.compat {
		return 4
	}
	return 8
}

func (l layout) iovecSize() int { return 2 * l.wordSize() }

func (l layout) msghdrSize() int {
	if l.compat {
		return compatMsghdr
	}
	return sizeofMsghdr
}

func (l layout) mmsghdrSize() int { return l.msghdrSize() + l.wordSize() } // msg_len, and what it is aligned with
