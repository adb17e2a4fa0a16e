package guard

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// envelope is what goes with the data of a message that upconv sends in the place of the kernel.
type envelope struct {
	worker  *Worker
	call    *session.Call
	to      *guardedSocket
	name    []byte            // the address; empty: none
	control []byte            // control messages, in the layout of this machine
	fds     []int             // descriptors in those, which are the envelope's own
	peer    crossing.UnixPath // the name, if that is a path of a Unix socket
	pathed  bool              // it is
	faulty  bool              // what is sent cannot be read
}

// seal fills the envelope for what is left of a message.
func (e *envelope) seal(m *guardedMessage) (errno unix.Errno) {
	e.peer.File = -1
	w, c, to := e.worker, e.call, e.to
	switch inet := linux.IsInet(to.domain); {
	case inet:
		if to.proto != unix.IPPROTO_TCP && to.proto != unix.IPPROTO_MPTCP { // to those it means nothing
			e.name = m.name
		}
		e.control, errno = w.PackControl(c, m.control, nil)
	case sendUnderWay(c).sent > 0: // it has gone with the beginning
	case to.domain == unix.AF_UNIX:
		errno = e.sealUnix(m)
	default:
		e.name = m.name
		e.control, errno = w.Control.ToSend(m.control, c.Compat, 0)
	}
	return errno
}

// opened is for an envelope that has arrived: what it carries goes once. Control messages of TCP go
// with each piece, as some are about that: its kind, in TLS.
func (e *envelope) opened() {
	if !linux.IsInet(e.to.domain) {
		e.close()
		e.name, e.control = nil, nil
	}
}

// close closes what the envelope has.
func (e *envelope) close() {
	for _, fd := range e.fds {
		linux.Close(fd)
	}
	e.fds = nil
	if e.peer.File >= 0 {
		e.peer.Close()
	}
}

// path returns the path that a message goes to, nil if there is none.
func (e *envelope) path() *crossing.UnixPath {
	if !e.pathed {
		return nil
	}
	return &e.peer
}

// send sends data, without waiting. last says that the message ends with it.
func (e *envelope) send(data []byte, last bool) (n int, errno unix.Errno) {
	asked := sendUnderWay(e.call).flags
	flags := asked&^(unix.MSG_ZEROCOPY|unix.MSG_FASTOPEN) | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if !last {
		flags = flags&^(unix.MSG_OOB|unix.MSG_EOR) | unix.MSG_MORE
	}
	if asked&unix.MSG_ZEROCOPY != 0 && !e.faulty {
		if lent := lend(e.to.fd, data); lent != nil {
			flags |= unix.MSG_ZEROCOPY
			data = lent
			defer unix.Munmap(lent)
		}
	}
	header := unix.Msghdr{}
	part := unix.Iovec{Base: unsafe.SliceData(data), Len: uint64(len(data))}
	if len(data) > 0 {
		header.Iov, header.Iovlen = &part, 1
	}
	if len(e.name) > 0 {
		header.Name, header.Namelen = &e.name[0], uint32(len(e.name))
	}
	if len(e.control) > 0 {
		header.Control, header.Controllen = &e.control[0], uint64(len(e.control))
	}
	submit := func() unix.Errno {
		sent, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(e.to.fd), uintptr(unsafe.Pointer(&header)), uintptr(flags))
		n = int(sent)
		return errno
	}
	switch {
	case e.pathed:
		if errno = e.peer.As.AsUser(); errno == 0 {
			errno = submit()
			e.peer.As.AsSelf()
		}
	case e.to.domain == unix.AF_UNIX || linux.IsInet(e.to.domain):
		errno = submit()
	default:
		errno = target.WithCapabilitiesOf(e.call.TID, submit)
	}
	if errno != 0 {
		return 0, errno
	}
	return n, 0
}

// fault sends data that cannot be read: the kernel says EFAULT, or what comes before that.
func (e *envelope) fault() unix.Errno {
	memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return unix.EFAULT
	}
	defer unix.Munmap(memory)
	e.faulty = true
	if _, errno := e.send(memory, true); errno != 0 && errno != unix.EAGAIN {
		return errno
	}
	return unix.EFAULT
}

// lend returns a copy of data in memory that is not used again, if the socket fd says when it has
// been sent (SO_ZEROCOPY): the kernel may read it for long, and keeps the pages, so the caller
// unmaps it at once. nil: MSG_ZEROCOPY means nothing.
func lend(fd int, data []byte) []byte {
	var on int32
	if len(data) == 0 || linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, unsafe.Pointer(&on), 4) != 0 || on == 0 {
		return nil
	}
	memory, err := unix.Mmap(-1, 0, len(data), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil
	}
	copy(memory, data)
	return memory
}
