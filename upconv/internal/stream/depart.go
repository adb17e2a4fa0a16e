package stream

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/swap"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// What bind(2) says of a port that a stream of the program's has taken along to an egress. See
// ports for what is remembered of it.

// leaves reports whether a port leaves the origin in the swap of a stream.
func (w *Worker) leaves(s *swap.Swap) bool {
	if s.Socket.Port() == 0 {
		return false
	}
	return s.Egress != nil && s.Egress.Cookie != w.s.Origin.Cookie || s.Crossing != nil && s.Crossing.Family() == unix.AF_INET6
}

// depart is for a stream whose port leaves the origin, before the new one, which has it in the
// egress, is put into its place. Another thread that is about to ask the kernel for the port
// must not get it; so that is waited for. That is rare, and no worker waits: the call is put aside.
// If all is well the outcome is undecided.
//
// As long as the old socket is the target's, it holds the port in the origin.
func (w *Worker) depart(s *swap.Swap) session.Outcome {
	c, to := s.Call, w.PlaceOf(s.Egress, s.Crossing)
	p, port := &w.s.ports, s.Socket.Port()
	p.put(port, departure{to: to, moving: true})
	p.goesOn(c.TID)
	for p.isContended(c.TID, port) {
		if !w.MayWait() {
			p.cancel(port, to)
			w.CloseNow(s.FD)
			return session.Aside
		}
		time.Sleep(50 * time.Microsecond)
	}
	return session.Undecided
}

// noteConnection is for a bound stream, of which fd is a copy, that has just begun to connect to
// sa.
func (w *Worker) noteConnection(e *event.Pending, fd int, sock *sockstate.Socket, sa []byte) {
	var now sockstate.Socket
	d := departure{to: companion.OnInet6}
	switch route := e.Decision.Route; route.Kind {
	case policy.Netns:
		d.to = companion.Place(w.s.EgressOf(route).Cookie)
	case policy.NAT64, policy.Inet6:
	default:
		return
	}
	if d.to == companion.Place(w.s.Origin.Cookie) || !now.ReadName(fd) {
		return
	}
	if port := sock.Port(); port != 0 && port != now.Port() { // the kernel has chosen another one
		w.s.ports.cancel(port, d.to)
	}
	if now.Port() == 0 {
		return // it has failed
	}
	var peer [linux.SizeofSockaddrIn6]byte
	copy(peer[:], sa)
	d.cookie, d.inet6 = linux.CookieOf(fd), now.Domain == unix.AF_INET6
	d.local, d.peer = mappedIn(now.Domain, &now.Name), mappedIn(int(binary.NativeEndian.Uint16(sa)), &peer)
	d.peerPort, d.zone = binary.BigEndian.Uint16(sa[2:]), binary.NativeEndian.Uint32(peer[24:])
	w.s.ports.put(now.Port(), d)
}

// mappedIn returns the IP address within a struct sockaddr_in or sockaddr_in6. An IPv4 address
// becomes an IPv4-mapped one.
func mappedIn(domain int, name *[linux.SizeofSockaddrIn6]byte) [16]byte {
	addr, _ := netip.AddrFromSlice(linux.AddressIn(domain, name))
	return addr.As16()
}

// Collides reports whether the port that a stopped bind(2) asks for is one that another socket has
// taken along to an egress. Whatever else is wrong with the call the kernel says.
func (w *Worker) Collides(c *session.Call) bool {
	length := uint32(c.Args[2])
	if length < linux.SizeofSockaddrIn || length > linux.SizeofSockaddrStorage {
		return false
	}
	var name [linux.SizeofSockaddrIn6]byte
	if target.ReadMemory(c.TID, c.Args[1], name[:min(length, linux.SizeofSockaddrIn6)]) != 0 {
		return false
	}
	family, port := int(binary.NativeEndian.Uint16(name[:])), binary.BigEndian.Uint16(name[2:])
	if port == 0 || family != unix.AF_INET && family != unix.AF_INET6 && family != unix.AF_UNSPEC {
		return false
	}
	p := &w.s.ports
	w.s.AskedPorts.Add(port)
	d, gone := p.ask(c.TID, port)
	if !gone {
		return false
	}
	fd, errno := w.s.Targets.Getfd(c.TID, c.FD)
	if errno != 0 {
		return false
	}
	defer linux.Close(fd)
	sock := w.SocketMemory()
	if !sockstate.ExamineStream(fd, sock) || sock.Bound || sock.Netns != w.s.Origin.Cookie && !w.s.InEgress(sock.Netns) || !w.mayBind(sock.Domain, &name) {
		return false
	}
	connected := d.moving || w.isConnectedYet(c, port, &d)
	switch {
	case w.isTaken(c, fd, sock, &d, &name):
		if connected || w.isBoundYet(c, port, &d) {
			return true
		}
	case connected: // which allows others beside it
		return false
	}
	p.forget(port, d)
	return false
}

// mayBind reports whether a socket of a family can be bound to a name, and whether IPv4 sockets
// compete for that.
func (w *Worker) mayBind(domain int, name *[linux.SizeofSockaddrIn6]byte) bool {
	family := int(binary.NativeEndian.Uint16(name[:]))
	full, _ := netip.AddrFromSlice(linux.AddressIn(domain, name))
	addr := full.Unmap()
	switch {
	case domain == unix.AF_INET && (family == unix.AF_INET || family == unix.AF_UNSPEC && addr.IsUnspecified()):
	case domain == unix.AF_INET6 && family == unix.AF_INET6 && (addr.Is4() || addr.IsUnspecified()):
	default:
		return false
	}
	return addr.IsUnspecified() || addr.IsLoopback() || w.s.Origin.Assigned(addr)
}

// isTaken reports whether a socket, of which fd is a copy, could not be bound to a name where a
// departure has led.
func (w *Worker) isTaken(c *session.Call, fd int, sock *sockstate.Socket, d *departure, name *[linux.SizeofSockaddrIn6]byte) bool {
	probe, errno := w.socketAt(c, d.to, sock.Domain)
	if errno != 0 {
		return false
	}
	defer linux.Close(probe)
	reuses := []struct{ level, option int }{{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_REUSEPORT}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}}
	for _, o := range reuses {
		var value int32
		if linux.Getsockopt(fd, o.level, o.option, unsafe.Pointer(&value), 4) == 0 && value != 0 {
			linux.Setsockopt(probe, o.level, o.option, unsafe.Pointer(&value), 4)
		}
	}
	w.CopyInode(&swap.Swap{Call: c, Old: fd, Socket: sock, FD: probe}) // sockets share a port with SO_REUSEPORT if they are one user's
	length := linux.SizeofSockaddrIn6
	if sock.Domain == unix.AF_INET {
		length = linux.SizeofSockaddrIn
	}
	if d.to == companion.OnInet6 {
		if addr, _ := netip.AddrFromSlice(linux.AddressIn(sock.Domain, name)); !addr.Unmap().Is4() || addr.Unmap().IsLoopback() {
			return false // the kernel itself sees that, or a connection has another address
		}
		one := int32(1)
		linux.Setsockopt(probe, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unsafe.Pointer(&one), 4)
		six := linux.SockaddrIn6(netip.IPv6Unspecified(), binary.BigEndian.Uint16(name[2:]))
		return linux.Bind(probe, six[:]) == unix.EADDRINUSE
	}
	errno = linux.Bind(probe, name[:length])
	if errno == unix.EADDRNOTAVAIL {
		clear(linux.AddressIn(sock.Domain, name))
		errno = linux.Bind(probe, name[:length])
	}
	return errno == unix.EADDRINUSE
}

// socketAt makes a TCP socket where streams of a family are put on the way to a place; the caller
// owns it.
func (w *Worker) socketAt(c *session.Call, at companion.Place, domain int) (int, unix.Errno) {
	if at == companion.OnInet6 {
		return w.InOrigin(c.TID, unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	}
	e := w.s.egressAt(at)
	if e == nil {
		return -1, unix.ENOENT
	}
	return w.Socket(e, domain, unix.SOCK_STREAM, unix.IPPROTO_TCP)
}

// egressAt returns an egress by its cookie, nil if there is none.
func (s *Session) egressAt(at companion.Place) *netns.Egress {
	for _, e := range s.Rules.Load().Egress {
		if companion.Place(e.Cookie) == at {
			return e
		}
	}
	return nil
}
