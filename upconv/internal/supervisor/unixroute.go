package supervisor

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/proxyproto"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/internal/trap"
	"github.com/upconv/upconv/upconv/policy"
)

// unixPath is a struct sockaddr_un.
type unixPath struct {
	raw    [2 + policy.MaxUnixPath + 1]byte
	length int
	file   int                 // the socket file, where the name goes through a descriptor; or -1
	as     *target.Credentials // whose rights count; valid after open
}

func (p *unixPath) sa() []byte { return p.raw[:p.length] }

func (p *unixPath) set(name string) {
	p.raw, p.file = [2 + policy.MaxUnixPath + 1]byte{}, -1
	*(*uint16)(unsafe.Pointer(&p.raw)) = unix.AF_UNIX
	p.length = 2 + copy(p.raw[2:], name)
	if name[0] == '@' {
		p.raw[2] = 0
	} else {
		p.length++ // the byte of zero
	}
}

// open finds the socket of a route, for the thread tid and by its rights: who may write a directory
// of the path could lead upconv anywhere. What it opens, close closes.
func (p *unixPath) open(s *Session, route *policy.Route, tid int) (errno unix.Errno) {
	p.set(route.Target)
	if p.as, errno = s.targets.CredentialsOf(tid); errno != 0 {
		return errno
	}
	if !route.TargetRoot {
		return 0
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", tid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return linux.ErrnoOf(err)
	}
	defer unix.Close(root)
	if errno := p.as.Become(); errno != 0 {
		return errno
	}
	defer p.as.Revert()
	// Symbolic links, absolute ones too, must not lead out of there.
	file, err := unix.Openat2(root, route.Target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return linux.ErrnoOf(err)
	}
	p.set(fmt.Sprintf("/proc/thread-self/fd/%d", file))
	p.file = file
	return 0
}

// connect connects a Unix socket to it.
func (p *unixPath) connect(fd int) unix.Errno {
	if errno := p.as.Become(); errno != 0 {
		return errno
	}
	defer p.as.Revert()
	return linux.Connect(fd, p.sa())
}

func (p *unixPath) close() {
	if p.file >= 0 {
		linux.Close(p.file)
		p.file = -1
	}
}

// connectUnix connects the socket fd, which is not installed yet: where that fails, the target
// keeps the one it has. If it is connected the outcome is undecided.
func (w *worker) connectUnix(c *call, e *event.Pending, x *crossing, fd int, sock *sockstate.Socket) outcome {
	errno := x.path.open(w.s, x.route, c.tid)
	if errno == 0 {
		errno = x.path.connect(fd)
		if errno == unix.EAGAIN && w.patient(c, sock.Flags) {
			if !w.alone {
				x.path.close()
				return aside((*worker).connect)
			}
			errno = w.waitForRoom(fd, x, linux.TimeoutOf(fd, unix.SO_SNDTIMEO))
		}
	}
	x.path.close()
	if errno == unix.EAGAIN {
		// A TCP server with a full backlog that does not just let clients wait
		// (tcp_abort_on_overflow) refuses. EINPROGRESS would promise what nobody works on.
		e.Add("the backlog of " + x.route.Target + " is full")
		errno = unix.ECONNREFUSED
	}
	if errno = x.asInet(e, errno); errno != 0 {
		w.s.events.Record(e, underWay(errno))
		return answer(errno)
	}
	if x.route.ProxyV2 {
		header := proxyproto.Header(x.pass.Local, x.pass.LocalPort, x.pass.Peer)
		if _, err := unix.Write(fd, header[:]); err != nil {
			e.Add("PROXY header: " + err.Error()) // the server has hung up, as the program will see
		}
	}
	return undecided
}

// asInet turns what is wrong with a path into what a program expects that knows no paths.
func (x *crossing) asInet(e *event.Pending, errno unix.Errno) unix.Errno {
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EPROTOTYPE, unix.ENXIO:
		e.Add(x.route.Target + ": " + linux.ErrnoName(errno))
		return unix.ECONNREFUSED
	case unix.EACCES, unix.EPERM:
		e.Add(x.route.Target + ": " + linux.ErrnoName(errno) + " for the program's user")
		return unix.EACCES
	case unix.ENOTCONN: // of a send without a name
		return unix.EDESTADDRREQ
	}
	return errno
}

// unixPeer returns the path that a send goes to along a route to a Unix socket, nil if it goes to
// none.
func (x *crossing) unixPeer() *unixPath {
	if x == nil || x.family() != unix.AF_UNIX || x.path.length == 0 {
		return nil
	}
	return &x.path
}

// patient reports whether the target's call is one that waits, on a file with these status flags.
func (w *worker) patient(c *call, flags int) bool {
	return flags&unix.O_NONBLOCK == 0 && !(c.fastOpen.on && c.fastOpen.flags&unix.MSG_DONTWAIT != 0)
}

// waitForRoom connects a Unix socket to a server whose backlog is full. It holds up its thread: the
// wait is the kernel's own.
func (w *worker) waitForRoom(fd int, x *crossing, timeout time.Duration) (errno unix.Errno) {
	var before unix.Timeval
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&before), unsafe.Sizeof(before))
	linux.SetFlags(fd, 0)
	defer func() {
		linux.SetFlags(fd, unix.O_NONBLOCK)
		linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&before), unsafe.Sizeof(before))
	}()
	w.aside.held.Timed.Store(timeout != 0)
	began := time.Now()
	for length := trap.ShortSlice; ; length = min(2*length, trap.LongSlice) {
		if timeout != 0 {
			rest := timeout - time.Since(began)
			if rest <= 0 {
				return unix.EINPROGRESS // socket(7), SO_SNDTIMEO
			}
			length = min(length, max(rest, time.Millisecond))
		}
		slice := unix.NsecToTimeval(int64(length)) // with a time, a signal to this thread ends the call
		linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&slice), unsafe.Sizeof(slice))
		if errno = x.path.as.Become(); errno != 0 {
			return errno
		}
		errno = unix.EAGAIN
		ended := w.aside.stop.During(func() {
			_, _, errno = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&x.path.raw)), uintptr(x.path.length))
		})
		x.path.as.Revert()
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return errno
		}
		if ended != 0 {
			return ended
		}
	}
}

// unixSpares are Unix sockets that a worker keeps ready. To give one its passport takes longer than
// to make it, since the kernel compiles the filter. So where a program connects to one destination
// again and again they have that already. The passport on the socket is what counts: what is here
// can be dropped at any time.
type unixSpares struct {
	fds   []int
	ports []uint16          // passport.localPort of each; 0 for one that has no passport, or another one
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

// refill makes new ones where there are none, after a socket was given the passport pass. They get
// it too if the one before had the same.
func (s *unixSpares) refill(w *worker, pass *passport.Passport) {
	again := s.pass.Resembles(pass)
	if !again {
		s.pass = passport.Passport{Family: pass.Family, Proto: pass.Proto, Peer: pass.Peer, Local: pass.Local}
		clear(s.ports)
	}
	if len(s.fds) > 0 {
		return
	}
	for range maxSpares {
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
func (x *crossing) finishUnix(w *worker, old, to int, sock *sockstate.Socket) unix.Errno {
	p := &x.pass
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
	w.s.fresh.Of(sock.Domain).EachSet(&w.s.used, old, sock, func(row *sockstate.Option, value []byte) {
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
	if w.s.used.Has(sockstate.RowOf(unix.SOL_SOCKET, unix.SO_ATTACH_FILTER)) {
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

// connected gives a Unix socket, which is connected and the target's, its status flags, and says
// what the target is to see.
func (w *worker) connected(c *call, e *event.Pending, fd int, sock *sockstate.Socket) outcome {
	e.Local = fd
	out := answer(0)
	if c.fastOpen.on {
		out = w.open(c, fd, nil)
	}
	linux.SetFlags(fd, sock.Flags)
	w.s.events.Record(e, underWay(out.errno))
	return out
}
