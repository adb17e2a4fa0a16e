package upconv

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
	"unsafe"

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
	most   int               // how many may be

	// users is an epoll set of the sockets in use, which does not keep them: when the last program has closed one it is no
	// longer in there. The data of each is its group's id.
	users  int
	slot   int    // the number under which all of them are in there
	info   int    // its file in proc_pid_fdinfo(5)
	text   []byte // what was read there
	lastID uint32
	// inbox is an epoll set of the sockets that are kept and whose datagrams can be handed on.
	inbox int
	kept  map[int32]*group // by the descriptor in inbox
	raw   map[outbox]int   // a socket to hand on through; -1: not permitted
}

// outbox is what a socket is for that packets are handed on through.
type outbox struct {
	netns  uint64
	family int
}

// group is a socket in use and its companions, one a namespace.
type group struct {
	id    uint32
	netns uint64 // of the one in use
	name  netip.AddrPort
	kept  []companion
	// The first connect(2) gives a socket its address, until it is disconnected. That was in a companion's namespace.
	addressed bool
}

type companion struct {
	fd     int
	netns  uint64
	beside bool // it was used while the one in use was connected: what has come for it is for nobody
}

const (
	maxCompanions = 4096 // and not more than half of the descriptors that upconv may have: new sockets need some, too
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
			if c.beside {
				discard(c.fd)
			}
			return c.fd, true
		}
	}
	return -1, false
}

// addressed reports whether the socket of which fd is a copy would natively have the address that a connect(2) in another namespace
// than its own gave it.
func (k *companions) addressed(fd int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 {
		return false
	}
	g := k.groups[cookieOf(fd)]
	return g != nil && g.addressed
}

// discard receives what has come for a socket.
func discard(fd int) {
	var buf [1]byte
	for range 1 << 16 {
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf)), 1, unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EAGAIN {
			return
		}
	}
}

// release forgets a kept descriptor, which is the caller's then.
func (k *companions) release(fd int) {
	unix.EpollCtl(k.inbox, unix.EPOLL_CTL_DEL, fd, nil)
	delete(k.kept, int32(fd))
	k.count--
}

// keep keeps old, which the target's descriptor has just been taken from, as the companion of the socket in its place. It
// takes ownership of old; raw is a socket to hand on through to the namespace of the new one, or -1.
func (k *companions) keep(old, current int, sock *socket, raw int) {
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
	} else {
		k.inUsers(unix.EPOLL_CTL_DEL, old, 0)
	}
	delete(k.groups, before)
	k.lastID++
	g.id, g.netns, g.addressed = k.lastID, netnsCookie(current), isConnected(old)
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
	k.use(g, current)
	if !k.add(g, companion{fd: old, netns: sock.netns}) {
		return
	}
	if raw >= 0 && sock.proto == unix.IPPROTO_UDP {
		k.watch(unix.EPOLL_CTL_ADD, old)
	}
	for _, c := range g.kept { // whose datagrams now go elsewhere
		k.kept[int32(c.fd)] = g
		k.watch(unix.EPOLL_CTL_MOD, c.fd)
	}
}

// use makes current the socket in use of a group.
func (k *companions) use(g *group, current int) {
	k.groups[cookieOf(current)] = g
	if k.inUsers(unix.EPOLL_CTL_ADD, current, g.id) == unix.EEXIST { // it is another process's, too
		k.inUsers(unix.EPOLL_CTL_MOD, current, g.id)
	}
}

// inUsers is epoll_ctl(2) on users. A registration is of a file and a number, and only under that number can it be found again: so it is
// the same for all, and each is in there once.
func (k *companions) inUsers(how, fd int, id uint32) error {
	if err := unix.Dup3(fd, k.slot, unix.O_CLOEXEC); err != nil {
		return err
	}
	err := unix.EpollCtl(k.users, how, k.slot, &unix.EpollEvent{Fd: int32(id)})
	unix.Dup3(k.info, k.slot, unix.O_CLOEXEC) // which would keep the socket
	return err
}

// watches returns in how many epoll sets of upconv's own the socket of which fd is a copy is, while it is in use.
func (k *companions) watches(fd int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 || k.groups[cookieOf(fd)] == nil {
		return 0
	}
	return 1
}

// add adds a companion to a group. It takes ownership of its descriptor. It returns false where there are too many.
func (k *companions) add(g *group, c companion) bool {
	if k.count >= k.most {
		closeFD(c.fd)
		return false
	}
	g.kept = append(g.kept, c)
	k.count++
	k.kept[int32(c.fd)] = g
	return true
}

// keepBeside keeps fd, which is in a namespace, as a companion of the socket of which current is a copy. It takes ownership of fd.
// Nothing that comes for it is handed on.
func (k *companions) keepBeside(current, fd int, netns uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil && !k.open() {
		closeFD(fd)
		return
	}
	g := k.groups[cookieOf(current)]
	if g == nil {
		k.lastID++
		g = &group{id: k.lastID, netns: netnsCookie(current)}
		k.use(g, current)
	}
	k.add(g, companion{fd: fd, netns: netns, beside: true})
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
	var errno unix.Errno
	if k.slot, errno = dup(k.info); errno != 0 {
		closeFD(k.users)
		closeFD(k.inbox)
		closeFD(k.info)
		return false
	}
	k.most = maxCompanions
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		k.most = int(min(maxCompanions, limit.Cur/2))
	}
	k.groups, k.kept, k.raw = map[uint64]*group{}, map[int32]*group{}, map[outbox]int{}
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
	packet := make([]byte, maxHandedOn)
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

	maxHandedOn = ipv6Header + udpHeader + maxLength
)

// drain hands on what has come for a socket to the one with a name in a namespace. packet has room for maxHandedOn.
func (k *companions) drain(fd int, netns uint64, to netip.AddrPort, packet []byte) {
	raw4, ok := k.raw[outbox{netns, unix.AF_INET}]
	if !ok || raw4 < 0 || to.Port() == 0 {
		return
	}
	raw6, ok := k.raw[outbox{netns, unix.AF_INET6}]
	if !ok {
		raw6 = -1
	}
	const data = ipv6Header + udpHeader // where that begins in packet

	for range 64 { // at a time
		n, from, err := unix.Recvfrom(fd, packet[data:], unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return // nothing more
		}
		if err != nil {
			continue // of an error of the socket nobody is told
		}
		var src netip.AddrPort
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			src = netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))
		case *unix.SockaddrInet6:
			src = netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
		}
		switch {
		case src.Addr().Is4() && ipv4Header+udpHeader+n <= maxLength:
			handOn4(raw4, src, to, packet[data-udpHeader-ipv4Header:data+n])
		case src.Addr().Is6() && raw6 >= 0 && udpHeader+n <= maxLength:
			handOn6(raw6, src, to, packet[:data+n])
		}
	}
	if k.kept[int32(fd)] != nil {
		k.watch(unix.EPOLL_CTL_MOD, fd) // there may be more
	}
}

// handOn4 sends a packet, of which all but the headers is there, through a raw socket to a name of its namespace.
func handOn4(raw int, src, to netip.AddrPort, packet []byte) {
	dst := to.Addr()
	if !dst.Is4() || dst.IsUnspecified() {
		dst = loopback4
	}
	// RFC 791 and RFC 768. The kernel fills in the header's checksum and identification, raw(7); that of UDP may be left out.
	h := packet[:ipv4Header]
	clear(h)
	h[0], h[8], h[9] = 4<<4|ipv4Header/4, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(h[2:], uint16(len(packet)))
	s4, d4 := src.Addr().As4(), dst.As4()
	copy(h[12:], s4[:])
	copy(h[16:], d4[:])
	putUDP(packet[ipv4Header:], src, to)
	unix.Sendto(raw, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: d4})
}

// handOn6 is handOn4 for IPv6.
func handOn6(raw int, src, to netip.AddrPort, packet []byte) {
	dst := to.Addr()
	if !dst.Is6() || dst.IsUnspecified() {
		dst = netip.IPv6Loopback()
	}
	// RFC 8200. Here UDP must have a checksum: over both addresses, its length, its number and all of it.
	h, rest := packet[:ipv6Header], packet[ipv6Header:]
	clear(h)
	h[0], h[6], h[7] = 6<<4, unix.IPPROTO_UDP, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(rest)))
	s16, d16 := src.Addr().As16(), dst.As16()
	copy(h[8:], s16[:])
	copy(h[24:], d16[:])
	putUDP(rest, src, to)
	more := len(rest) + unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(rest[6:], uint16(more&0xffff+more>>16))
	sum := checksum(packet[8:])
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(rest[6:], sum)
	unix.Sendto(raw, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Addr: d16})
}

// putUDP puts the header of a UDP packet, without a checksum.
func putUDP(packet []byte, src, to netip.AddrPort) {
	binary.BigEndian.PutUint16(packet, src.Port())
	binary.BigEndian.PutUint16(packet[2:], to.Port())
	binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)))
	binary.BigEndian.PutUint16(packet[6:], 0)
}

// outbox returns a socket to hand on through in the namespace of the socket in use, or -1.
func (w *worker) outbox(c *call, current int, egress *egress, family int) int {
	k, box := &w.s.companions, outbox{netnsCookie(current), family}
	k.mu.Lock()
	raw, ok := k.raw[box]
	k.mu.Unlock()
	if ok {
		return raw
	}
	var errno unix.Errno
	if egress == nil {
		raw, errno = w.inOrigin(c.tid, family, unix.SOCK_RAW, unix.IPPROTO_RAW)
	} else {
		raw, errno = w.socket(egress, family, unix.SOCK_RAW, unix.IPPROTO_RAW)
	}
	if errno != 0 {
		w.s.log.Debug("what comes for a datagram socket that has been put aside is not handed on", "error", errno)
		if errno != unix.EPERM { // and may be possible the next time
			return -1
		}
		raw = -1
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil && !k.open() {
		if raw >= 0 {
			closeFD(raw)
		}
		return -1
	}
	if other, ok := k.raw[box]; ok { // another worker was faster
		if raw >= 0 {
			closeFD(raw)
		}
		return other
	}
	k.raw[box] = raw
	return raw
}

// setAside takes ownership of old, in whose place current has been put: to keep it, or if both are in one namespace, where
// they cannot both have the port, to hand on what has come for it.
func (w *worker) setAside(c *call, old, current int, sock *socket, egress *egress) {
	raw := w.outbox(c, current, egress, unix.AF_INET)
	if raw >= 0 && sock.domain == unix.AF_INET6 {
		w.outbox(c, current, egress, unix.AF_INET6)
	}
	if netnsCookie(current) != sock.netns {
		w.s.companions.keep(old, current, sock, raw)
		return
	}
	if raw >= 0 && sock.kind == unix.SOCK_DGRAM {
		k := &w.s.companions
		k.mu.Lock()
		addr, _ := netip.AddrFromSlice(sock.address())
		k.drain(old, sock.netns, netip.AddrPortFrom(addr.Unmap(), sock.port()), make([]byte, maxHandedOn))
		k.mu.Unlock()
	}
	closeFD(old)
}
