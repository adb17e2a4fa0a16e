package crossing

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// AsInet turns an errno about a path into one that a program expects that knows no paths, and notes
// in the event what was wrong.
func (x *Crossing) AsInet(e *event.Pending, errno unix.Errno) unix.Errno {
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EPROTOTYPE, unix.ENXIO:
		e.Add(x.Route.Target + ": " + linux.ErrnoName(errno))
		return unix.ECONNREFUSED
	case unix.EACCES, unix.EPERM:
		e.Add(x.Route.Target + ": " + linux.ErrnoName(errno) + " for the program's user")
		return unix.EACCES
	case unix.ENOTCONN: // of a send without a name
		return unix.EDESTADDRREQ
	}
	return errno
}

// UnixPeer returns the path that a send goes to along a route to a Unix socket, nil if it goes to
// none.
func (x *Crossing) UnixPeer() *UnixPath {
	if x == nil || x.Family() != unix.AF_UNIX || x.Path.Length == 0 {
		return nil
	}
	return &x.Path
}

// unixSpares are Unix sockets that a worker keeps ready. To give one its passport takes longer than
// to make it, since the kernel compiles the filter. So where a program connects to one destination
// again and again they have that already. The passport on the socket is what counts: what is here
// can be dropped at any time.
type unixSpares struct {
	fds   []int
	ports []uint16          // LocalPort in the passport of each; 0 for one that has no passport, or another one
	pass  passport.Passport // of those that have one, but for that
}

// take returns one of them, which the caller owns. If it has the passport p already, but for the
// port, then port is that.
func (s *unixSpares) take(p *passport.Passport) (fd int, port uint16, ok bool) {
	last := len(s.fds) - 1
	if last < 0 {
		return -1, 0, false
	}
	if fd = s.fds[last]; s.pass.Resembles(p) {
		port = s.ports[last]
	}
	s.fds, s.ports = s.fds[:last], s.ports[:last]
	return fd, port, true
}

// refillUnix makes new Unix sockets where there are none, after one was given the passport pass.
// They get it too if the one before had the same.
func (w *Worker) refillUnix(pass *passport.Passport) {
	s := &w.unixSpares
	again := s.pass.Resembles(pass)
	if !again {
		s.pass = passport.Passport{Family: pass.Family, Proto: pass.Proto, Peer: pass.Peer, Local: pass.Local}
		clear(s.ports)
	}
	if len(s.fds) > 0 {
		return
	}
	for range session.MaxSpares {
		fd, errno := linux.NewSocket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if errno != 0 {
			return
		}
		port := uint16(0)
		if again {
			if s.pass.LocalPort = w.s.anyPort(); s.pass.PutOnUnix(fd) == 0 {
				port = s.pass.LocalPort
			}
		}
		s.fds, s.ports = append(s.fds, fd), append(s.ports, port)
	}
}

// finishUnix gives the Unix socket to its passport, with the options that it does not have itself.
func (w *Worker) finishUnix(x *Crossing, old, to int, sock *sockstate.Socket) unix.Errno {
	p := &x.Pass
	if p.LocalPort = sock.Port(); p.LocalPort == 0 {
		p.LocalPort = w.s.anyPort()
	}
	p.Options, p.Filter, p.Locked = nil, nil, false
	if sock.Kind == unix.SOCK_DGRAM {
		linux.Bind(to, []byte{unix.AF_UNIX, 0}) // a name of the kernel's choice, unix(7), so that there is somebody to reply to
	}
	if old < 0 { // nothing has been done to it
		if x.has != 0 {
			p.LocalPort = x.has
			return 0
		}
		return p.PutOnUnix(to)
	}
	w.s.Fresh.Of(sock.Domain).EachSet(&w.s.Used, old, sock, func(row *sockstate.Option, value []byte) {
		switch {
		case notOnUnix(row):
		case row.Level != unix.SOL_SOCKET:
			p.Remember(row.Level, row.Name, value)
		case row.Name == unix.SO_LOCK_FILTER:
			p.Locked = true
		default:
			linux.Setsockopt(to, row.Level, row.Name, unsafe.Pointer(&value[0]), uintptr(len(value)))
		}
	})
	if w.s.Used.Has(sockstate.RowOf(unix.SOL_SOCKET, unix.SO_ATTACH_FILTER)) {
		p.Filter, _ = passport.AttachedFilter(old)
	}
	return p.PutOnUnix(to)
}

// anyPort returns a port as the kernel would choose one, for sockets that have none.
func (s *Session) anyPort() uint16 {
	const first, last = 32768, 60999 // ip_local_port_range, ip(7)
	return uint16(first + s.nextPort.Add(1)*7919%(last-first+1))
}

// notOnUnix reports whether an option has quite another meaning for a Unix socket.
func notOnUnix(row *sockstate.Option) bool {
	return row.Level == unix.SOL_SOCKET && (row.Name == unix.SO_PASSCRED || row.Name == unix.SO_PASSSEC)
}
