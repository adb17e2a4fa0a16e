package crossing

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/policy"
)

// Crossing is a swap for a socket of another address family.
type Crossing struct {
	Route  *policy.Route
	Mapped bool // a send to the origin after all: to an IPv4-mapped address
	Pass   passport.Passport
	To     [linux.SizeofSockaddrIn6]byte // of an AF_INET6 socket: what it is connected to
	Zone   string                        // and where that is, if it is link-local
	Path   UnixPath                      // of a Unix socket
	has    uint16                        // it has its passport already, with this port; or 0
}

// dummyLocal is the address that a program is told as its own where its namespace has no IPv4
// address: one of 192.0.0.0/29, which is for such things (RFC 7335), and the one that a customer's
// end of DS-Lite has (RFC 6333).
var dummyLocal = netip.AddrFrom4([4]byte{192, 0, 0, 2})

// Prepare fills in x for the destination of an event and the program's socket. The error is one of
// Translate.
func (w *Worker) Prepare(x *Crossing, e *event.Pending, sock *sockstate.Socket) error {
	dst := e.Dst
	x.Route, x.Mapped = e.Decision.Route, false
	x.Pass = passport.Passport{Family: sock.Domain, Proto: sock.Proto, Peer: dst, Local: w.localFor(sock, dst.Addr())}
	w.s.Told.add(x.Pass.Local)
	if x.Route.Kind == policy.UnixPath {
		return nil
	}
	addr, err := w.s.Translate(x.Route, dst.Addr())
	if err != nil {
		return err
	}
	x.To, x.Zone = linux.SockaddrIn6(addr, dst.Port()), addr.Zone()
	return nil
}

// localFor returns the address that the program is told as its own: what it has bound the socket
// to, or what its namespace has.
func (w *Worker) localFor(sock *sockstate.Socket, dst netip.Addr) netip.Addr {
	if sock.Bound {
		if addr, ok := netip.AddrFromSlice(sock.Address()); ok {
			if addr = addr.Unmap(); addr.Is4() && !addr.IsUnspecified() {
				return addr
			}
		}
	}
	if dst.IsLoopback() {
		return linux.Loopback4
	}
	if own := w.s.Origin.Own.Load(); own != nil {
		return *own
	}
	return dummyLocal
}

// Scope gives the address x.To its interface: that which x.Zone means in the namespace of the
// socket fd. The errno is ENODEV where there is none.
func (x *Crossing) Scope(fd int) unix.Errno {
	if x.Zone == "" {
		return 0
	}
	index, err := strconv.ParseUint(x.Zone, 10, 32)
	if err != nil {
		request, err := unix.NewIfreq(x.Zone)
		if err != nil {
			return unix.ENODEV
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
			return linux.ErrnoOf(err)
		}
		index = uint64(request.Uint32())
	}
	binary.NativeEndian.PutUint32(x.To[24:], uint32(index))
	return 0
}

// Crossed reports whether old is a socket that took the place of one of another family in an
// earlier connect(2). If it can be connected again, which takes that it is idle, sock then says
// what the program thinks it is; busy is true where it cannot.
func (w *Worker) Crossed(old int, sock *sockstate.Socket, idle bool) (is, busy bool) {
	p := &w.found
	if !idle {
		if !w.s.Needs.Unix || linux.DomainOf(old) != unix.AF_UNIX {
			return false, false
		}
		return p.ReadFromUnix(old), true
	}
	if sock.Domain != unix.AF_INET6 || !p.ReadFrom6(old) {
		return false, false
	}
	sock.AsMade(p)
	return true, false
}

// PassportOf returns the passport of a socket that took the place of one of another family, and
// what it is now. It is nil for any other socket, and valid until the next one is asked for.
func (w *Worker) PassportOf(fd int) (p *passport.Passport, family int) {
	family = linux.DomainOf(fd)
	if (family != unix.AF_UNIX || w.s.Needs.Unix) && w.found.ReadFrom(fd, family) {
		return &w.found, family
	}
	return nil, family
}

// MakeCrossed makes the non-blocking socket of a crossing; the caller owns it.
func (w *Worker) MakeCrossed(x *Crossing, c *session.Call) (fd int, errno unix.Errno) {
	x.has = 0
	kind, proto := linux.KindOf(x.Pass.Proto), x.Pass.Proto
	switch {
	case x.Route.Kind != policy.UnixPath:
		switch proto {
		case unix.IPPROTO_MPTCP:
			proto = unix.IPPROTO_TCP
		case unix.IPPROTO_ICMP:
			proto = unix.IPPROTO_ICMPV6
		}
		if fd, errno = w.InOrigin(c.TID, unix.AF_INET6, kind, proto); errno == 0 && kind == unix.SOCK_DGRAM && x.Pass.Family == unix.AF_INET {
			one := int32(1) // as of any AF_INET socket; inet6_create in net/ipv6/af_inet6.c leaves it out
			linux.Setsockopt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, unsafe.Pointer(&one), 4)
		}
		return fd, errno
	case x.Route.Target[0] == '@':
		return w.InOrigin(c.TID, unix.AF_UNIX, kind, 0)
	}
	// Of no namespace that matters.
	if kind == unix.SOCK_STREAM {
		var ok bool
		if fd, x.has, ok = w.unixSpares.take(&x.Pass); ok {
			return fd, 0
		}
	}
	return linux.NewSocket(unix.AF_UNIX, kind, 0)
}

// FinishCrossed gives the socket to what sockstate.Defaults.CopyOptions could not take over from
// old, and its passport. old is -1 where nothing has been done to the program's socket.
func (w *Worker) FinishCrossed(x *Crossing, e *event.Pending, old, to int, sock *sockstate.Socket) unix.Errno {
	if x.Pass.Proto == unix.IPPROTO_MPTCP {
		e.Add("TCP instead of MPTCP")
	}
	if x.Route.Kind == policy.UnixPath {
		return w.finishUnix(x, old, to, sock)
	}
	if old >= 0 && sock.Domain == unix.AF_INET {
		sockstate.CopyMapped(w.s.Fresh.Of(unix.AF_INET), &w.s.Used, old, to)
	}
	if errno := x.Scope(to); errno != 0 {
		return errno
	}
	return x.Pass.PutOn6(to)
}

// Family returns the address family of the new socket.
func (x *Crossing) Family() int {
	if x.Route.Kind == policy.UnixPath {
		return unix.AF_UNIX
	}
	return unix.AF_INET6
}
