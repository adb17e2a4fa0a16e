package siit

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Control messages, cmsg(3), of sockets that have been replaced by ones of another family: what the
// program sends as on an AF_INET socket must go out on an AF_INET6 one, and what comes with a
// datagram the other way round. And i386 programs have a layout of their own.

// Control is one control message.
type Control struct {
	Level, Name int
	Data        []byte
}

// ControlLayout returns the size of a struct cmsghdr, and what everything is aligned to.
func ControlLayout(compat bool) (header, align int) {
	if compat {
		return 12, 4 // struct compat_cmsghdr, net/compat.h
	}
	return unix.SizeofCmsghdr, 8
}

func aligned(n, align int) int { return (n + align - 1) &^ (align - 1) }

// TakeControl returns the first control message of a buffer, and what is behind it. ok is false at
// the end. The errno is EINVAL for a length that cannot be: CMSG_OK in linux/socket.h.
func TakeControl(from []byte, compat bool) (m Control, rest []byte, ok bool, errno unix.Errno) {
	header, align := ControlLayout(compat)
	if len(from) < header {
		return Control{}, nil, false, 0
	}
	length := uint64(binary.NativeEndian.Uint32(from))
	if !compat {
		length = binary.NativeEndian.Uint64(from)
	}
	if length < uint64(header) || length > uint64(len(from)) {
		return Control{}, nil, false, unix.EINVAL
	}
	m.Level = int(int32(binary.NativeEndian.Uint32(from[header-8:])))
	m.Name = int(int32(binary.NativeEndian.Uint32(from[header-4:])))
	m.Data = from[header:length]
	return m, from[min(aligned(int(length), align), len(from)):], true, 0
}

// AppendControl appends a control message in the layout of this machine.
func AppendControl(to []byte, level, name int, data []byte) []byte {
	header, align := ControlLayout(false)
	to = binary.NativeEndian.AppendUint64(to, uint64(header+len(data)))
	to = binary.NativeEndian.AppendUint32(to, uint32(level))
	to = binary.NativeEndian.AppendUint32(to, uint32(name))
	to = append(to, data...)
	return append(to, make([]byte, aligned(len(data), align)-len(data))...)
}

// Controls are the control messages that a program is given, as put_cmsg in net/core/scm.c and
// put_cmsg_compat in net/compat.c lay them out.
type Controls struct {
	compat    bool
	room      int     // what is left of the program's buffer
	truncated bool    // MSG_CTRUNC
	Bytes     []byte  // what is to be written of all pieces, one behind the other
	Pieces    []piece // the messages
	// Direct, if it is not nil, writes a message n bytes behind the beginning of the program's
	// buffer at once. One that cannot be written leaves no trace.
	Direct func(n int, message []byte) unix.Errno
}

// piece is a control message within controls.bytes. The bytes behind it, up to where the next one
// begins, are the program's.
type piece struct{ Length, Space int }

func (to *Controls) Reset(compat bool, room int) {
	*to = Controls{compat: compat, room: room, Bytes: to.Bytes[:0], Pieces: to.Pieces[:0]}
}

// Put adds a message.
func (to *Controls) Put(level, name int, data []byte) {
	header, align := ControlLayout(to.compat)
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
	start := len(to.Bytes)
	if to.compat {
		to.Bytes = binary.NativeEndian.AppendUint32(to.Bytes, uint32(length))
	} else {
		to.Bytes = binary.NativeEndian.AppendUint64(to.Bytes, uint64(length))
	}
	to.Bytes = binary.NativeEndian.AppendUint32(to.Bytes, uint32(level))
	to.Bytes = binary.NativeEndian.AppendUint32(to.Bytes, uint32(name))
	to.Bytes = append(to.Bytes, data[:length-header]...)
	if to.Direct != nil && to.Direct(to.Used(), to.Bytes[start:]) != 0 {
		to.Bytes = to.Bytes[:start]
		return
	}
	to.Pieces = append(to.Pieces, piece{length, space})
	to.room -= space
}

// Used returns how much of the program's buffer they take: msg_controllen.
func (to *Controls) Used() (n int) {
	for _, p := range to.Pieces {
		n += p.Space
	}
	return n
}

// Flag returns MSG_CTRUNC if something has not found room.
func (to *Controls) Flag() uint32 {
	if to.truncated {
		return unix.MSG_CTRUNC
	}
	return 0
}
