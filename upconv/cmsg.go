package upconv

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Control messages, cmsg(3), of sockets that have been replaced by ones of another family: what the
// program sends as on an AF_INET socket must go out on an AF_INET6 one, and what comes with a
// datagram the other way round. And i386 programs have a layout of their own.

// control is one control message.
type control struct {
	level, name int
	data        []byte
}

// controlLayout returns the size of a struct cmsghdr, and what everything is aligned to.
func controlLayout(compat bool) (header, align int) {
	if compat {
		return 12, 4 // struct compat_cmsghdr, net/compat.h
	}
	return unix.SizeofCmsghdr, 8
}

func aligned(n, align int) int { return (n + align - 1) &^ (align - 1) }

// takeControl returns the first control message of a buffer, and what is behind it. ok is false at
// the end. The errno is EINVAL for a length that cannot be: CMSG_OK in linux/socket.h.
func takeControl(from []byte, compat bool) (m control, rest []byte, ok bool, errno unix.Errno) {
	header, align := controlLayout(compat)
	if len(from) < header {
		return control{}, nil, false, 0
	}
	length := uint64(binary.NativeEndian.Uint32(from))
	if !compat {
		length = binary.NativeEndian.Uint64(from)
	}
	if length < uint64(header) || length > uint64(len(from)) {
		return control{}, nil, false, unix.EINVAL
	}
	m.level = int(int32(binary.NativeEndian.Uint32(from[header-8:])))
	m.name = int(int32(binary.NativeEndian.Uint32(from[header-4:])))
	m.data = from[header:length]
	return m, from[min(aligned(int(length), align), len(from)):], true, 0
}

// appendControl appends a control message in the layout of this machine.
func appendControl(to []byte, level, name int, data []byte) []byte {
	header, align := controlLayout(false)
	to = binary.NativeEndian.AppendUint64(to, uint64(header+len(data)))
	to = binary.NativeEndian.AppendUint32(to, uint32(level))
	to = binary.NativeEndian.AppendUint32(to, uint32(name))
	to = append(to, data...)
	return append(to, make([]byte, aligned(len(data), align)-len(data))...)
}

// controls are the control messages that a program is given, as put_cmsg in net/core/scm.c and
// put_cmsg_compat in net/compat.c lay them out.
type controls struct {
	compat    bool
	room      int     // what is left of the program's buffer
	truncated bool    // MSG_CTRUNC
	bytes     []byte  // what is to be written of all pieces, one behind the other
	pieces    []piece // the messages
	// direct, if it is not nil, writes a message n bytes behind the beginning of the program's
	// buffer at once. One that cannot be written leaves no trace.
	direct func(n int, message []byte) unix.Errno
}

// piece is a control message within controls.bytes. The bytes behind it, up to where the next one
// begins, are the program's.
type piece struct{ length, space int }

func (to *controls) reset(compat bool, room int) {
	*to = controls{compat: compat, room: room, bytes: to.bytes[:0], pieces: to.pieces[:0]}
}

// put adds a message.
func (to *controls) put(level, name int, data []byte) {
	header, align := controlLayout(to.compat)
	if to.room < header {
		to.truncated = true
		return
	}
	var old [24]byte
	if to.compat && level == unix.SOL_SOCKET {
		// struct timeval and timespec, once or three times, are of 32-bit numbers there.
		switch n := len(data) / 8; name {
		case unix.SO_TIMESTAMP, unix.SO_TIMESTAMPNS, unix.SO_TIMESTAMPING:
			n = min(n, len(old)/4)
			for i := range n {
				binary.NativeEndian.PutUint32(old[4*i:], uint32(binary.NativeEndian.Uint64(data[8*i:])))
			}
			data = old[:4*n]
		}
	}
	length, space := header+len(data), header+aligned(len(data), align)
	if to.room < length {
		to.truncated = true
		length = to.room
	}
	space = min(space, to.room)
	start := len(to.bytes)
	if to.compat {
		to.bytes = binary.NativeEndian.AppendUint32(to.bytes, uint32(length))
	} else {
		to.bytes = binary.NativeEndian.AppendUint64(to.bytes, uint64(length))
	}
	to.bytes = binary.NativeEndian.AppendUint32(to.bytes, uint32(level))
	to.bytes = binary.NativeEndian.AppendUint32(to.bytes, uint32(name))
	to.bytes = append(to.bytes, data[:length-header]...)
	if to.direct != nil && to.direct(to.used(), to.bytes[start:]) != 0 {
		to.bytes = to.bytes[:start]
		return
	}
	to.pieces = append(to.pieces, piece{length, space})
	to.room -= space
}

// used returns how much of the program's buffer they take: msg_controllen.
func (to *controls) used() (n int) {
	for _, p := range to.pieces {
		n += p.space
	}
	return n
}

// flag returns MSG_CTRUNC if something has not found room.
func (to *controls) flag() uint32 {
	if to.truncated {
		return unix.MSG_CTRUNC
	}
	return 0
}
