package upconv

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// deliver writes to the target's memory: all at once if that goes, or else as far as the kernel
// comes.
func (r *reception) deliver(b *receiveBuffers, data, name []byte, came *arrival, n int) unix.Errno {
	m := &r.message
	tid := r.c.tid
	b.remote, b.rest = b.remote[:0], b.rest[:0]
	left := len(data)
	for _, v := range m.vector {
		if part := min(v.Len, left); part > 0 {
			b.remote = append(b.remote, unix.RemoteIovec{Base: v.Base, Len: part})
			left -= part
		}
	}
	const others = 64
	if len(b.remote) > linux.MaxIovecs-others {
		if transfer(tid, data, nil, b.remote) != len(data) {
			return unix.EFAULT
		}
		data, b.remote = nil, b.remote[:0]
	}
	put := func(at uint64, bytes []byte) {
		if len(bytes) > 0 {
			b.remote = append(b.remote, unix.RemoteIovec{Base: uintptr(at), Len: len(bytes)})
			b.rest = append(b.rest, bytes...)
		}
	}
	word := uint64(r.c.WordSize())
	if r.kind != receivesFrom {
		at := m.control
		bytes := b.out.Bytes
		for _, p := range b.out.Pieces {
			put(at, bytes[:p.Length])
			at, bytes = at+uint64(p.Space), bytes[p.Length:]
		}
	}
	lengthAt, room, nameErrno := r.nameRoom()
	var length [4]byte
	binary.NativeEndian.PutUint32(length[:], uint32(len(name)))
	short := name[:max(0, min(int(room), len(name)))]
	if m.name != 0 && nameErrno == 0 {
		if lengthFirst() {
			put(lengthAt, length[:])
			put(m.name, short)
		} else {
			put(m.name, short)
			put(lengthAt, length[:])
		}
	}
	var tail [16]byte
	tailAt, tailLen := m.at+5*word, 0
	if r.kind != receivesFrom {
		// msg_controllen, msg_flags and, of a struct mmsghdr, msg_len.
		if r.c.Compat {
			binary.NativeEndian.PutUint32(tail[:], uint32(b.out.Used()))
		} else {
			binary.NativeEndian.PutUint64(tail[:], uint64(b.out.Used()))
		}
		binary.NativeEndian.PutUint32(tail[word:], came.flags|b.out.Flag())
		tailLen = int(word) + 4
		put(tailAt, tail[:tailLen])
		if r.kind == receivesMessages {
			var value [4]byte
			binary.NativeEndian.PutUint32(value[:], uint32(n))
			put(m.at+7*word, value[:])
		}
	}
	total := len(data) + len(b.rest)
	wrote := 0
	if total > 0 {
		wrote = transfer(tid, data, b.rest, b.remote)
	}
	if wrote == total {
		return nameErrno
	}
	if wrote < len(data) {
		return unix.EFAULT
	}
	return r.deliverPieces(b, short, length, lengthAt, came, n, nameErrno)
}

// nameRoom returns where the length of the source address goes, and how much room there is for
// that; the errno is what is wrong with it.
func (r *reception) nameRoom() (lengthAt uint64, room int32, errno unix.Errno) {
	if r.kind != receivesFrom {
		return r.message.at + uint64(r.c.WordSize()), r.message.nameLen, 0
	}
	lengthAt = r.c.args[5]
	if r.message.name == 0 {
		return lengthAt, 0, 0
	}
	var raw [4]byte
	if target.ReadMemory(r.c.tid, lengthAt, raw[:]) != 0 {
		return lengthAt, 0, unix.EFAULT
	}
	if room = int32(binary.NativeEndian.Uint32(raw[:])); room < 0 {
		errno = unix.EINVAL
	}
	return lengthAt, room, errno
}

// deliverPieces is for a target whose memory cannot be written everywhere: one piece after the
// other, as the kernel does it.
func (r *reception) deliverPieces(b *receiveBuffers, name []byte, length [4]byte, lengthAt uint64, came *arrival, n int, nameErrno unix.Errno) unix.Errno {
	m := &r.message
	tid := r.c.tid
	if r.kind != receivesFrom {
		b.out.Reset(r.c.Compat, m.controlRoom())
		b.out.Direct = func(n int, message []byte) unix.Errno { return target.WriteMemory(tid, m.control+uint64(n), message) }
		r.translate(&b.out, came)
	}
	put := func(at uint64, bytes []byte) bool { return len(bytes) == 0 || target.WriteMemory(tid, at, bytes) == 0 }
	if nameErrno != 0 {
		return nameErrno
	}
	if m.name != 0 {
		ok := false
		if lengthFirst() {
			ok = put(lengthAt, length[:]) && put(m.name, name)
		} else {
			ok = put(m.name, name) && put(lengthAt, length[:])
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
	binary.NativeEndian.PutUint32(value[:], uint32(n))
	if r.kind == receivesMessages && !put(m.at+7*word, value[:4]) {
		return unix.EFAULT
	}
	return 0
}

// transfer writes data, and rest behind it, to places in the target's memory. It returns how much
// of it could be.
func transfer(tid int, data, rest []byte, to []unix.RemoteIovec) int {
	var local [2]unix.Iovec
	count := 0
	for _, part := range [2][]byte{data, rest} {
		if len(part) > 0 {
			local[count].Base = &part[0]
			local[count].SetLen(len(part))
			count++
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(tid), uintptr(unsafe.Pointer(&local)), uintptr(count),
		uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)), 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
