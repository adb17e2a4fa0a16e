package upconv

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// A program may send to the origin and to an egress through one and the same datagram socket. Under its descriptor is then
// always the socket of where it has sent last; the other one, its companion, is kept by upconv, with its port and what has
// come for it, and is put back when the program sends there again. What comes for it meanwhile is handed on to the one in
// use, as a packet on the loopback of its namespace with the address of who has really sent it; that takes CAP_NET_RAW
// there, and without it waits.
//
// This is state that is not in the kernel: should it be lost, so are the replies to what was sent the other way.

// companions are all that are kept.
type companions struct {
	mu     sync.Mutex
	groups map[uint64]*group // by the cookie of the socket in use
	count  int               // of kept sockets

	// users is an epoll set of the sockets in use, which does not keep them: when the last program has closed one it is no
	// longer in there. The data of each is its group's id.
	users  int
	info   int    // its file in proc_pid_fdinfo(5)
	text   []byte // what was read there
	lastID uint32
	// inbox is an epoll set of the sockets that are kept and whose datagrams can be handed on.
	inbox int
	kept  map[int32]*group  // by the descriptor in inbox
	raw   map[uint64]outlet // by namespace
}

// outlet is what there is in a namespace to hand on through: raw sockets for packets of IPv4 and of IPv6; -1: none, as it is not permitted.
type outlet struct{ v4, v6 int }

func (o outlet) close() {
	for _, fd := range []int{o.v4, o.v6} {
		if fd >= 0 {
			closeFD(fd)
		}
	}
}

// group is a socket in use and its companions, one a namespace.
type group struct {
	id    uint32
	netns uint64 // of the one in use
	name  netip.AddrPort
	kept  []companion
}

type companion struct {
	fd    int
	netns uint64
}

const (
	maxCompanions = 4096
	// sweeping is how often it is looked whether the sockets in use are still there. bind(2) does not wait for it.
	sweeping = 50 * time.Millisecond
)

// bindRules stop bind(2), so that the port of a companion, or of a socket that a receiver waits for, is free when the program has closed
// its socket, or has been killed.
func bindRules() []seccompx.Rule {
	return []seccompx.Rule{
		{Syscalls: []string{"bind"}, When: []seccompx.Cond{seccompx.Arg(2).Low32().AtLeast(sizeofSockaddrIn)}, Do: seccompx.UserNotify},
		{Syscalls: []string{"socketcall"}, When: []seccompx.Cond{seccompx.Arg(0).Low32().Equal(sysBind)}, Do: seccompx.UserNotify},
	}
}

const sysBind = 2 // of socketcall(2), linux/net.h

// bind handles a stopped bind(2).
func (w *worker) bind(c *call) outcome {
	w.s.receivers.leave(c)
	w.s.companions.sweep()
	if w.s.needs.atSocket() {
		return w.bindAtSocket(c)
	}
	return carryOn
}

// take returns the companion that the socket of which old is a copy has in a namespace. It is the caller's then.
func (k *companions) take(old int, netns uint64) (fd int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 {
		return -1, false
	}
	g := k.groups[cookieOf(old)]
	if g == nil {
		return -1, false
	}
	for i, c := range g.kept {
		if c.netns == netns {
			g.kept = append(g.kept[:i], g.kept[i+1:]...)
			k.release(c.fd)
			return c.fd, true
		}
	}
	return -1, false
}

// release forgets a kept descriptor, which is the caller's then.
func (k *companions) release(fd int) {
	unix.EpollCtl(k.inbox, unix.EPOLL_CTL_DEL, fd, nil)
	delete(k.kept, int32(fd))
	k.count--
}

// keep keeps old, which the target's descriptor has just been taken from, as the companion of the socket in its place. It
// takes ownership of old; handsOn is whether what comes for it can be handed on to the namespace of the new one.
func (k *companions) keep(old, current int, sock *socket, handsOn bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil {
		if !k.open() {
			closeFD(old)
			return
		}
	}
	before := cookieOf(old)
	g := k.groups[before]
	if g == nil {
		g = &group{}
	}
	delete(k.groups, before)
	k.lastID++
	g.id, g.netns = k.lastID, netnsCookie(current)
	var now socket
	if examineDatagram(current, &now) {
		if addr, ok := netip.AddrFromSlice(now.address()); ok {
			g.name = netip.AddrPortFrom(addr.Unmap(), now.port())
		}
	}
	if other := k.groups[cookieOf(current)]; other != nil { // of another process, which shares it
		for _, c := range other.kept {
			if c.netns == sock.netns || slices.ContainsFunc(g.kept, func(own companion) bool { return own.netns == c.netns }) {
				k.release(c.fd)
				closeFD(c.fd)
			} else {
				g.kept = append(g.kept, c)
			}
		}
	}
	k.groups[cookieOf(current)] = g
	// One that has been in use before, and under the same number, is still in there.
	if event := (unix.EpollEvent{Fd: int32(g.id)}); unix.EpollCtl(k.users, unix.EPOLL_CTL_ADD, current, &event) == unix.EEXIST {
		unix.EpollCtl(k.users, unix.EPOLL_CTL_MOD, current, &event)
	}
	if k.count >= maxCompanions {
		closeFD(old)
		return
	}
	g.kept = append(g.kept, companion{old, sock.netns})
	k.count++
	k.kept[int32(old)] = g
	if handsOn {
		k.watch(unix.EPOLL_CTL_ADD, old)
	}
	for _, c := range g.kept { // whose datagrams now go elsewhere
		k.kept[int32(c.fd)] = g
		k.watch(unix.EPOLL_CTL_MOD, c.fd)
	}
}

// watch puts a kept socket into inbox, or has it be told of again what is there yet. Edges, and not levels: an error queue, or
// datagrams that cannot be handed on, would be ready all the time.
func (k *companions) watch(how, fd int) {
	unix.EpollCtl(k.inbox, how, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
}

// open makes what is needed for the first one.
func (k *companions) open() bool {
	var err error
	if k.users, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return false
	}
	if k.inbox, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		closeFD(k.users)
		return false
	}
	if k.info, err = unix.Open("/proc/self/fdinfo/"+strconv.Itoa(k.users), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		closeFD(k.users)
		closeFD(k.inbox)
		return false
	}
	k.groups, k.kept, k.raw = map[uint64]*group{}, map[int32]*group{}, map[uint64]outlet{}
	go k.handOn()
	go func() {
		for range time.Tick(sweeping) {
			k.sweep()
		}
	}()
	return true
}

// sweep closes the companions of sockets that nobody has any more.
func (k *companions) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 {
		return
	}
	text, ok := k.registered()
	if !ok {
		return
	}
	used := map[uint32]bool{}
	for line := range bytes.Lines(text) {
		if _, r, _, ok := parseRegistration(line); ok {
			used[uint32(r.event.Fd)] = true
		}
	}
	for cookie, g := range k.groups {
		if used[g.id] {
			continue
		}
		for _, c := range g.kept {
			k.release(c.fd)
			closeFD(c.fd)
		}
		delete(k.groups, cookie)
	}
}

// registered returns what proc_pid_fdinfo(5) says of users.
func (k *companions) registered() (text []byte, ok bool) {
	for {
		n, err := unix.Pread(k.info, k.text, 0)
		if err != nil {
			return nil, false
		}
		if n < len(k.text) {
			return k.text[:n], true
		}
		k.text = make([]byte, max(4096, 2*len(k.text)))
	}
}

// handOn hands on what comes for companions, for ever.
func (k *companions) handOn() {
	events := make([]unix.EpollEvent, 16)
	packet := make([]byte, handedOn+maxLength)
	for {
		n, err := unix.EpollWait(k.inbox, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for _, e := range events[:max(n, 0)] {
			k.mu.Lock()
			if g := k.kept[e.Fd]; g != nil {
				k.drain(int(e.Fd), g.netns, g.name, packet)
			}
			k.mu.Unlock()
		}
	}
}

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
	handedOn   = ipv6Header + udpHeader // what is in front of a datagram that is handed on
)

// drain hands on what has come for a socket to the one with a name in a namespace. packet has room for handedOn and a datagram.
func (k *companions) drain(fd int, netns uint64, to netip.AddrPort, packet []byte) {
	raw, ok := k.raw[netns]
	if !ok || raw.v4 < 0 || to.Port() == 0 {
		return
	}
	for range 64 { // at a time
		n, from, err := unix.Recvfrom(fd, packet[handedOn:], unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return // nothing more
		}
		if err != nil {
			continue // of an error of the socket nobody is told
		}
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			raw.send4(packet[:handedOn+n], netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port)), to)
		case *unix.SockaddrInet6:
			src := netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
			switch {
			case src.Addr().Is4():
				raw.send4(packet[:handedOn+n], src, to)
			case !src.Addr().IsLinkLocalUnicast(): // which would come from the loopback's link
				raw.send6(packet[:handedOn+n], src, to)
			}
		}
	}
	if k.kept[int32(fd)] != nil {
		k.watch(unix.EPOLL_CTL_MOD, fd) // there may be more
	}
}

// send4 sends a datagram, which is behind handedOn, from src to the socket with a name: to its address, or to 127.0.0.1.
func (o outlet) send4(packet []byte, src, to netip.AddrPort) {
	dst := to.Addr()
	if !dst.Is4() || dst.IsUnspecified() {
		dst = loopback4
	}
	packet = packet[handedOn-ipv4Header-udpHeader:]
	if len(packet) > maxLength {
		return
	}
	// RFC 791 and RFC 768. The kernel fills in the header's checksum and identification, raw(7); that of UDP may be left out.
	h := packet[:ipv4Header+udpHeader]
	clear(h)
	h[0], h[8], h[9] = 4<<4|ipv4Header/4, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(h[2:], uint16(len(packet)))
	s4, d4 := src.Addr().As4(), dst.As4()
	copy(h[12:], s4[:])
	copy(h[16:], d4[:])
	binary.BigEndian.PutUint16(h[20:], src.Port())
	binary.BigEndian.PutUint16(h[22:], to.Port())
	binary.BigEndian.PutUint16(h[24:], uint16(len(packet)-ipv4Header))
	unix.Sendto(o.v4, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: d4})
}

// send6 is send4 for an AF_INET6 socket that hears from an IPv6 peer: to its address, or to ::1.
func (o outlet) send6(packet []byte, src, to netip.AddrPort) {
	dst := to.Addr()
	if !dst.Is6() || dst.IsUnspecified() {
		dst = netip.IPv6Loopback()
	}
	length := len(packet) - ipv6Header
	if o.v6 < 0 || length > maxLength {
		return
	}
	// RFC 8200, and RFC 768 with its section 8.1: there must be a checksum, which is not 0. It is also about a pseudo header, and that
	// comes to the same in any order.
	h := packet[:ipv6Header+udpHeader]
	clear(h)
	s16, d16 := src.Addr().As16(), dst.As16()
	copy(h[8:], s16[:])
	copy(h[24:], d16[:])
	binary.BigEndian.PutUint16(h[40:], src.Port())
	binary.BigEndian.PutUint16(h[42:], to.Port())
	binary.BigEndian.PutUint16(h[44:], uint16(length))
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[7] = unix.IPPROTO_UDP
	sum := checksum(packet)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[46:], sum)
	h[0], h[6], h[7] = 6<<4, unix.IPPROTO_UDP, 64
	unix.Sendto(o.v6, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Addr: d16})
}

// outbox sees that there is something to hand on through in the namespace of the socket in use, if that can be.
func (w *worker) outbox(c *call, current int, egress *egress) (ok bool) {
	k, netns := &w.s.companions, netnsCookie(current)
	k.mu.Lock()
	raw, ok := k.raw[netns]
	k.mu.Unlock()
	if ok {
		return raw.v4 >= 0
	}
	open := func(domain int) (fd int, errno unix.Errno) {
		if egress == nil {
			fd, errno = w.inOrigin(c.tid, domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
		} else {
			fd, errno = w.socket(egress, domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
		}
		if errno != 0 {
			return -1, errno
		}
		return fd, 0
	}
	raw = outlet{-1, -1}
	var errno unix.Errno
	if raw.v4, errno = open(unix.AF_INET); errno == 0 {
		if raw.v6, errno = open(unix.AF_INET6); errno == unix.EAFNOSUPPORT { // a kernel may have no IPv6
			errno = 0
		}
	}
	if errno != 0 {
		w.s.log.Debug("what comes for a datagram socket that has been put aside is not handed on", "error", errno)
		raw.close()
		raw = outlet{-1, -1}
		if errno != unix.EPERM { // and may be possible the next time
			return false
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	other, fast := k.raw[netns] // another worker was faster
	if fast || k.groups == nil && !k.open() {
		raw.close()
		return fast && other.v4 >= 0
	}
	k.raw[netns] = raw
	return raw.v4 >= 0
}

// setAside takes ownership of old, in whose place current has been put: to keep it, or if both are in one namespace, where
// they cannot both have the port, to hand on what has come for it.
func (w *worker) setAside(c *call, old, current int, sock *socket, egress *egress) {
	ok := w.outbox(c, current, egress)
	if netnsCookie(current) != sock.netns {
		w.s.companions.keep(old, current, sock, ok)
		return
	}
	if ok && sock.kind == unix.SOCK_DGRAM {
		k := &w.s.companions
		k.mu.Lock()
		addr, _ := netip.AddrFromSlice(sock.address())
		k.drain(old, sock.netns, netip.AddrPortFrom(addr.Unmap(), sock.port()), make([]byte, handedOn+maxLength))
		k.mu.Unlock()
	}
	closeFD(old)
}
