package upconv

import "encoding/binary"

// struct msghdr, struct mmsghdr and struct iovec as they are in the target's memory: laid out as
// for this machine, or as for i386, whose longs and pointers are half as long (net/compat.c).

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
func (c *call) msghdr(raw []byte) msghdr {
	return msghdr{
		name: c.word(raw, 0), nameLen: int32(binary.NativeEndian.Uint32(raw[c.wordSize():])),
		iovecs: c.word(raw, 2), count: c.word(raw, 3),
		control: c.word(raw, 4), controlLen: c.word(raw, 5),
	}
}

// iovec decodes the i-th struct iovec of an array.
func (c *call) iovec(raw []byte, i int) (base, length uint64) {
	return c.word(raw, 2*i), c.word(raw, 2*i+1)
}

// negative reports whether a length is a negative ssize_t of the target, which import_iovec in
// lib/iov_iter.c refuses.
func (c *call) negative(length uint64) bool { return length>>(8*c.wordSize()-1) != 0 }

// word returns the i-th of the target's longs or pointers.
func (c *call) word(raw []byte, i int) uint64 {
	if c.compat {
		return uint64(binary.NativeEndian.Uint32(raw[4*i:]))
	}
	return binary.NativeEndian.Uint64(raw[8*i:])
}

// wordSize is the size of a long or a pointer in the target, and the others those of the
// structures.
func (c *call) wordSize() int {
	if c.compat {
		return 4
	}
	return 8
}

func (c *call) iovecSize() int { return 2 * c.wordSize() }

func (c *call) msghdrSize() int {
	if c.compat {
		return compatMsghdr
	}
	return sizeofMsghdr
}

func (c *call) mmsghdrSize() int { return c.msghdrSize() + c.wordSize() } // msg_len, and what it is aligned with
