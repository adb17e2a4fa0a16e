package supervisor

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

// A crossing is a swap for a socket of another address family.
type crossing struct {
	route  *policy.Route
	mapped bool // a send to the origin after all: to an IPv4-mapped address
	pass   passport.Passport
	to     [linux.SizeofSockaddrIn6]byte // of an AF_INET6 socket: what it is connected to
	zone   string                        // and where that is, if it is link-local
	path   unixPath                      // of a Unix socket
	has    uint16                        // it has its passport already, with this port; or 0
}

// dummyLocal is the address that a program is told as its own where its namespace has no IPv4
// address: one of 192.0.0.0/29, which is for such things (RFC 7335), and the one that a customer's
// end of DS-Lite has (RFC 6333).
var dummyLocal = netip.AddrFrom4([4]byte{192, 0, 0, 2})

// prepare fills in what a destination is replaced by. The error is one of Translate.
func (w *crossingWorker) prepare(x *crossing, e *event.Pending, sock *sockstate.Socket) error {
	dst := e.Dst
	x.route, x.mapped = e.Decision.Route, false
	x.pass = passport.Passport{Family: sock.Domain, Proto: sock.Proto, Peer: dst, Local: w.localFor(sock, dst.Addr())}
	w.s.told.add(x.pass.Local)
	if x.route.Kind == policy.UnixPath {
		return nil
	}
	addr, err := w.s.translate(x.route, dst.Addr())
	if err != nil {
		return err
	}
	x.to, x.zone = linux.SockaddrIn6(addr, dst.Port()), addr.Zone()
	return nil
}

// localFor returns the address that the program is told as its own: what it has bound the socket
// to, or what its namespace has.
func (w *crossingWorker) localFor(sock *sockstate.Socket, dst netip.Addr) netip.Addr {
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

// scope gives an address its interface, which is one of the namespace of the socket fd.
func (x *crossing) scope(fd int) unix.Errno {
	if x.zone == "" {
		return 0
	}
	index, err := strconv.ParseUint(x.zone, 10, 32)
	if err != nil {
		request, err := unix.NewIfreq(x.zone)
		if err != nil {
			return unix.ENODEV
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
			return linux.ErrnoOf(err)
		}
		index = uint64(request.Uint32())
	}
	binary.NativeEndian.PutUint32(x.to[24:], uint32(index))
	return 0
}

// onlyIPv6 reports whether an AF_INET6 socket takes no IPv4-mapped addresses.
func onlyIPv6(fd int) bool {
	var only int32
	return linux.Getsockopt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unsafe.Pointer(&only), 4) == 0 && only != 0
}

// crossed tells whether old is a socket that took the place of one of another family in an earlier
// connect(2). If it can be connected again, sock then says what the program thinks it is; busy is
// true where it cannot.
func (w *crossingWorker) crossed(old int, sock *sockstate.Socket, idle bool) (is, busy bool) {
	p := &w.crossing.pass
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

// hasPassport reports whether a socket took the place of one of another family; its passport is
// then in w.crossing.pass. family is what it is now.
func (w *crossingWorker) hasPassport(fd int) (family int, ok bool) {
	family = linux.DomainOf(fd)
	return family, (family != unix.AF_UNIX || w.s.Needs.Unix) && w.crossing.pass.ReadFrom(fd, family)
}

// makeCrossed makes the socket of a crossing.
func (w *crossingWorker) makeCrossed(x *crossing, c *session.Call) (fd int, errno unix.Errno) {
	x.has = 0
	kind, proto := linux.KindOf(x.pass.Proto), x.pass.Proto
	switch {
	case x.route.Kind != policy.UnixPath:
		switch proto {
		case unix.IPPROTO_MPTCP:
			proto = unix.IPPROTO_TCP
		case unix.IPPROTO_ICMP:
			proto = unix.IPPROTO_ICMPV6
		}
		if fd, errno = w.InOrigin(c.TID, unix.AF_INET6, kind, proto); errno == 0 && kind == unix.SOCK_DGRAM && x.pass.Family == unix.AF_INET {
			one := int32(1) // as of any AF_INET socket; inet6_create in net/ipv6/af_inet6.c leaves it out
			linux.Setsockopt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, unsafe.Pointer(&one), 4)
		}
		return fd, errno
	case x.route.Target[0] == '@':
		return w.InOrigin(c.TID, unix.AF_UNIX, kind, 0)
	}
	// Of no namespace that matters.
	if kind == unix.SOCK_STREAM {
		var ok bool
		if fd, x.has, ok = w.unixSpares.take(&x.pass); ok {
			return fd, 0
		}
	}
	return linux.NewSocket(unix.AF_UNIX, kind, 0)
}

// finishCrossed gives the socket to what copyOptions could not, and its passport.
func (w *crossingWorker) finishCrossed(x *crossing, e *event.Pending, old, to int, sock *sockstate.Socket) unix.Errno {
	if x.pass.Proto == unix.IPPROTO_MPTCP {
		e.Add("TCP instead of MPTCP")
	}
	if x.route.Kind == policy.UnixPath {
		return w.finishUnix(x, old, to, sock)
	}
	if old >= 0 && sock.Domain == unix.AF_INET {
		sockstate.CopyMapped(w.s.Fresh.Of(unix.AF_INET), &w.s.Used, old, to)
	}
	if errno := x.scope(to); errno != 0 {
		return errno
	}
	return x.pass.PutOn6(to)
}

// family returns the address family of the new socket.
func (x *crossing) family() int {
	if x.route.Kind == policy.UnixPath {
		return unix.AF_UNIX
	}
	return unix.AF_INET6
}
