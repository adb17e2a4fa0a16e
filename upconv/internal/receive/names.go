package receive

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// What a program sees of a socket of its own that has been replaced by one of another family.
// Everything here is about such sockets only: calls on others go on as they stand. They are stopped
// at all only if the policy has a route to another family.

// Getpeername handles a stopped getpeername(2).
func (w *Worker) Getpeername(c *session.Call) session.Outcome { return w.tellName(c, true) }

// Getsockname handles a stopped getsockname(2).
func (w *Worker) Getsockname(c *session.Call) session.Outcome { return w.tellName(c, false) }

// tellName answers getpeername(2), or getsockname(2).
func (w *Worker) tellName(c *session.Call, peer bool) session.Outcome {
	fd, p, family := w.crossedFD(c)
	if p == nil {
		return session.CarryOn
	}
	var name [linux.SizeofSockaddrIn6]byte
	length, ok := p.Name(fd, family, peer, &name)
	if !ok {
		return session.CarryOn // ENOTCONN
	}
	return session.Answer(putName(c.TID, c.Args[1], c.Args[2], name[:length]))
}

// crossedFD fetches the socket that a call is about if it is one that has been replaced by one of
// another family, and returns its passport, and what it is now. The passport of others is nil. Tidy
// closes the descriptor.
func (w *Worker) crossedFD(c *session.Call) (fd int, p *passport.Passport, family int) {
	if !w.s.AnyCrossed.Load() {
		return -1, nil, 0
	}
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	if errno != 0 {
		return -1, nil, 0
	}
	w.Done = append(w.Done, fd)
	w.Retag(c, fd)
	p, family = w.PassportOf(fd)
	return fd, p, family
}

// putName gives a socket address to the target as move_addr_to_user does in net/socket.c: as much
// as there is room for, and the length that it would have had.
func putName(tid int, at, lengthAt uint64, name []byte) unix.Errno {
	var raw [4]byte
	if target.ReadMemory(tid, lengthAt, raw[:]) != 0 {
		return unix.EFAULT
	}
	room := int32(binary.NativeEndian.Uint32(raw[:]))
	binary.NativeEndian.PutUint32(raw[:], uint32(len(name)))
	put := func() unix.Errno {
		if target.WriteMemory(tid, lengthAt, raw[:]) != 0 {
			return unix.EFAULT
		}
		return 0
	}
	switch {
	case room < 0:
		return unix.EINVAL
	case LengthFirst():
		if errno := put(); errno != 0 {
			return errno
		}
	}
	if n := min(int(room), len(name)); n > 0 && target.WriteMemory(tid, at, name[:n]) != 0 {
		return unix.EFAULT
	}
	if LengthFirst() {
		return 0
	}
	return put()
}

// LengthFirst reports whether this kernel writes the length before the address, which shows where
// the address cannot be written.
var LengthFirst = sync.OnceValue(func() bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	length := uint32(100)
	unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), 1, uintptr(unsafe.Pointer(&length)))
	return length != 100
})
