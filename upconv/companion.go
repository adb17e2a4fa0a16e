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

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/target"
)

// A program may send to the origin and to an egress, or along several routes, through one and the
// same datagram socket. Under its descriptor is then always the socket of where it has sent last;
// the other one, its companion, is kept by upconv, with its port and what has come for it, and is
// put back when the program sends there again. What comes for it meanwhile is handed on to the one
// in use, as a packet on the loopback of its namespace with the address of who has really sent it;
// that takes CAP_NET_RAW there, and without it waits.
//
// This is state that is not in the kernel: should it be lost, so are the replies to what was sent
// the other way.

// companions are all that are kept.
type companions struct {
	mu     sync.Mutex
	groups map[uint64]*group // by the cookie of the socket in use
	count  int               // of kept sockets
	most   int               // how many may be

	// users is an epoll set of the sockets in use, which does not keep them: when the last program
	// has closed one it is no longer in there. The data of each is its group's id.
	users  int
	slot   int    // the number under which all of them are in there
	info   int    // its file in proc_pid_fdinfo(5)
	text   []byte // what was read there
	lastID uint32
	// inbox is an epoll set of the sockets that are kept and whose datagrams can be handed on.
	inbox *linux.PollSet
	kept  map[int32]*group  // by the descriptor in inbox
	ports map[uint16]int    // how many of the kept have a port; 0 stands for any
	raw   map[uint64]outlet // by namespace
	lent  map[int]loan      // by descriptor, those that take has given to somebody and that may be put back

	// arriving are the sockets, by their cookies, that are being put into the place of others:
	// these may become their companions.
	arriving map[uint64]bool
	over     chan struct{} // closed when there are to be none any more
	arrival  sync.Cond
}

// outlet is what there is in a namespace to hand on through: raw sockets for packets of IPv4 and of
// IPv6; -1: none, as it is not permitted.
type outlet struct{ v4, v6 int }

func (o outlet) close() {
	for _, fd := range []int{o.v4, o.v6} {
		if fd >= 0 {
			linux.Close(fd)
		}
	}
}

// group is a socket in use and its companions, one a place.
type group struct {
	id    uint32
	netns uint64 // of the one in use
	name  netip.AddrPort
	kept  []companion
	over  bool // nobody has the socket in use any more
}

// loan is a companion that is about to be the socket in use.
type loan struct {
	companion
	group *group
}

type companion struct {
	fd    int
	place place
	// source returns who a datagram that has come for it is from, as the program is told it; nil:
	// as it stands.
	source func(unix.Sockaddr) netip.AddrPort
	port   uint16 // that it had when it was kept; 0: none yet
	beside bool   // it was used while the one in use was connected: what has come for it is for nobody
	// handsOn is whether what comes for it is handed on, and by that its reader is the one who
	// does, of a Unix socket; else nil.
	handsOn bool
	reader  *unixReader
}

// place is where a datagram socket is: a namespace, by its cookie, or that it is one of another
// family than the program's.
type place uint64

const (
	onInet6 place = 1<<64 - 1 // net_gen_cookie counts, from 1
	onUnix  place = 1<<64 - 2
)

// to returns where a swap leads, whose arguments these are.
func (w *worker) to(egress *netns.Egress, x *crossing) place {
	switch {
	case x != nil && x.family() == unix.AF_UNIX:
		return onUnix
	case x != nil:
		return onInet6
	case egress != nil:
		return place(egress.Cookie)
	}
	return place(w.s.origin.Cookie)
}

// together reports whether the datagram sockets of two places are in one namespace. Then neither is
// kept for the other: as far as they can both have the port, what is handed on could come to the
// one that it is from.
func (w *worker) together(a, b place) bool {
	for _, at := range []*place{&a, &b} {
		if *at == onInet6 {
			*at = place(w.s.origin.Cookie)
		}
	}
	return a == b
}

// former is the socket that another one has just taken the place of.
type former struct {
	companion
	heard bool // it is one for datagrams and has a port: some may have come for it, and answers may be on their way
	aside bool // it is kept for the one in its place
}

// former returns what there is to know of the socket old, or -1, of the thread tid, whose place is
// taken by one that is at to.
func (w *worker) former(tid, old int, sock *socket, to place) (was former) {
	was.fd = old
	if old < 0 || sock.kind != unix.SOCK_DGRAM {
		return was
	}
	was.place = place(linux.NetnsCookie(old))
	was.heard = sock.proto == unix.IPPROTO_UDP && sock.bound
	canReturn := true
	if family := linux.DomainOf(old); w.s.needs.crosses() && (family == unix.AF_UNIX || family == unix.AF_INET6) {
		var pass passport.Passport
		if pass.ReadFrom(old, family) {
			s := w.s
			was.source = func(from unix.Sockaddr) netip.AddrPort { return s.sender(from, &pass) }
			if was.place = onUnix; family == unix.AF_INET6 {
				was.place = onInet6
			} else {
				was.reader = &unixReader{turns: &s.turns, pid: s.targets.Process(tid)}
			}
			canReturn = !pass.Connected // see deaf
		}
	}
	was.heard = was.heard && was.place != 0
	last := w.s.origin.Closed && was.place == place(w.s.origin.Cookie) // there is no other to be had
	was.aside = (was.heard || last) && canReturn && !w.together(was.place, to)
	return was
}

// sender returns who a datagram is from that has come for a socket with a passport.
func (s *session) sender(from unix.Sockaddr, pass *passport.Passport) netip.AddrPort {
	six, ok := from.(*unix.SockaddrInet6)
	if !ok {
		return pass.Peer // a Unix socket's
	}
	real := netip.AddrPortFrom(netip.AddrFrom16(six.Addr), uint16(six.Port))
	if _, ok := s.originalAddr(real.Addr(), pass); !ok && pass.Family == unix.AF_INET6 {
		return real
	}
	return s.original(real, pass)
}

const (
	maxCompanions = 4096 // and not more than half of the descriptors that upconv may have: new sockets need some, too
	// sweeping is how often it is looked whether the sockets in use are still there. bind(2) does
	// not wait for it.
	sweeping = 50 * time.Millisecond
)

// bind handles a stopped bind(2).
func (w *worker) bind(c *call) outcome {
	w.s.receivers.leave(c)
	if w.s.companions.any() {
		var sa [4]byte // sin_family and sin_port; no port if it cannot be read
		target.ReadMemory(c.tid, c.args[1], sa[:])
		w.s.companions.freePort(sa[:])
	}
	if w.collides(c) {
		return answer(unix.EADDRINUSE)
	}
	if w.s.needs.netns {
		return w.bindAtSocket(c)
	}
	return carryOn
}

// arrives is for a socket that is about to be put into the place of another. As soon as it is
// there, another thread's call may find it there and ask for its companion: take waits until the
// caller has called arrived.
func (k *companions) arrives(fd int) (cookie uint64) {
	cookie = linux.CookieOf(fd)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.arriving == nil {
		k.arriving, k.arrival.L = map[uint64]bool{}, &k.mu
	}
	k.arriving[cookie] = true
	return cookie
}

func (k *companions) arrived(cookie uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.arriving, cookie)
	k.arrival.Broadcast()
}

// take returns the companion that the socket of which old is a copy has in a place. It is the
// caller's then, who calls settle or putBack.
func (k *companions) take(old int, at place) (fd int, ok bool) {
	c, ok := k.find(old, at)
	if !ok {
		return -1, false
	}
	if c.reader != nil { // what it has received already is to be handed on
		c.reader.mu.Lock()
		defer c.reader.mu.Unlock()
	}
	if !k.lend(&c) {
		return -1, false
	}
	if c.beside {
		discard(c.fd)
	}
	return c.fd, true
}

// find returns the companion for take, which waits while that is being put there.
func (k *companions) find(old int, at place) (found companion, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 && len(k.arriving) == 0 {
		return found, false
	}
	cookie := linux.CookieOf(old)
	for k.arriving[cookie] { // whoever puts it there has taken what it needs, and so waits for nobody
		k.arrival.Wait()
	}
	g := k.groups[cookie]
	if g == nil {
		return found, false
	}
	i := slices.IndexFunc(g.kept, func(c companion) bool { return c.place == at })
	if i < 0 {
		return found, false
	}
	return g.kept[i], true
}

// lend has a companion be no longer kept. It returns false if it is not.
func (k *companions) lend(c *companion) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.kept[int32(c.fd)]
	if g == nil {
		return false
	}
	i := slices.IndexFunc(g.kept, func(other companion) bool { return other.fd == c.fd && other.place == c.place })
	if i < 0 {
		return false
	}
	g.kept = slices.Delete(g.kept, i, i+1)
	k.release(c)
	if k.lent == nil {
		k.lent = map[int]loan{}
	}
	k.lent[c.fd] = loan{*c, g}
	return true
}

// settle is for a socket that is in use now, whether take has returned it or not.
func (k *companions) settle(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.lent, fd)
}

// putBack keeps a socket again that take has returned and that did not come into use. It reports
// whether it is kept, and so no longer the caller's.
func (k *companions) putBack(fd int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.lent[fd]
	delete(k.lent, fd)
	if !ok || c.group.over || slices.ContainsFunc(c.group.kept, func(other companion) bool { return other.place == c.place }) {
		return false
	}
	if k.add(c.group, c.companion) && c.handsOn {
		k.watch(unix.EPOLL_CTL_ADD, fd)
	}
	return true
}

// discard receives what has come for a socket. A Unix socket is locked while a program receives
// from it; so not a RawSyscall.
func discard(fd int) {
	var buf [1]byte
	for range 1 << 16 {
		_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf)), 1, unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EAGAIN {
			return
		}
	}
}

// makeRoom looks for companions of closed sockets where there can be no more.
func (k *companions) makeRoom() {
	if k.count >= k.most {
		k.sweepLocked()
	}
}

// release forgets a companion, whose descriptor is the caller's then.
func (k *companions) release(c *companion) {
	unix.EpollCtl(k.inbox.FD, unix.EPOLL_CTL_DEL, c.fd, nil)
	delete(k.kept, int32(c.fd))
	if k.ports[c.port]--; k.ports[c.port] == 0 {
		delete(k.ports, c.port)
	}
	k.count--
}

// keep keeps was, which the target's descriptor has just been taken from, as the companion of the
// socket in its place. It takes ownership of it; handsOn is whether what comes for it can be handed
// on to the namespace of the new one.
func (k *companions) keep(was companion, current int, handsOn bool) {
	// Of a socket that the program has locked this takes long.
	old := was.fd
	was.port, was.handsOn = inetPort(old), handsOn
	var now socket
	var name netip.AddrPort
	if examineDatagram(current, &now) {
		if addr, ok := netip.AddrFromSlice(now.address()); ok {
			name = netip.AddrPortFrom(addr.Unmap(), now.port())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil {
		if !k.open() {
			linux.Close(old)
			return
		}
	}
	k.makeRoom()
	before := linux.CookieOf(old)
	g := k.groups[before]
	if g == nil {
		g = &group{}
	} else {
		k.inUsers(unix.EPOLL_CTL_DEL, old, 0)
	}
	delete(k.groups, before)
	k.lastID++
	g.id, g.netns, g.name = k.lastID, linux.NetnsCookie(current), name
	if other := k.groups[linux.CookieOf(current)]; other != nil { // of another process, which shares it
		for _, c := range other.kept {
			if c.place == was.place || slices.ContainsFunc(g.kept, func(own companion) bool { return own.place == c.place }) {
				k.release(&c)
				linux.Close(c.fd)
			} else {
				g.kept = append(g.kept, c)
			}
		}
	}
	k.use(g, current)
	if !k.add(g, was) {
		return
	}
	if handsOn {
		k.watch(unix.EPOLL_CTL_ADD, old)
	}
	for _, c := range g.kept { // whose datagrams now go elsewhere
		k.kept[int32(c.fd)] = g
		k.watch(unix.EPOLL_CTL_MOD, c.fd)
	}
}

// use makes current the socket in use of a group.
func (k *companions) use(g *group, current int) {
	k.groups[linux.CookieOf(current)] = g
	if k.inUsers(unix.EPOLL_CTL_ADD, current, g.id) == unix.EEXIST { // it is another process's, too
		k.inUsers(unix.EPOLL_CTL_MOD, current, g.id)
	}
}

// inUsers is epoll_ctl(2) on users. A registration is of a file and a number, and only under that
// number can it be found again: so it is the same for all, and each is in there once.
func (k *companions) inUsers(how, fd int, id uint32) error {
	if err := unix.Dup3(fd, k.slot, unix.O_CLOEXEC); err != nil {
		return err
	}
	err := unix.EpollCtl(k.users, how, k.slot, &unix.EpollEvent{Fd: int32(id)})
	unix.Dup3(k.info, k.slot, unix.O_CLOEXEC) // which would keep the socket
	return err
}

// watches returns in how many epoll sets of upconv's own the socket of which fd is a copy is, while
// it is in use.
func (k *companions) watches(fd int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 || k.groups[linux.CookieOf(fd)] == nil {
		return 0
	}
	return 1
}

// inetPort returns the port of an IPv4 or IPv6 socket, 0 of any other.
func inetPort(fd int) uint16 {
	var name socket
	if name.readName(fd) && linux.IsInet(name.domain) {
		return name.port()
	}
	return 0
}

// add adds a companion to a group. It takes ownership of its descriptor. It returns false where
// there are too many.
func (k *companions) add(g *group, c companion) bool {
	if k.count >= k.most {
		linux.Close(c.fd)
		return false
	}
	g.kept = append(g.kept, c)
	k.count++
	k.ports[c.port]++
	k.kept[int32(c.fd)] = g
	return true
}

// keepBeside keeps fd, which is at a place, as a companion of the socket of which current is a
// copy. It takes ownership of fd. Nothing that comes for it is handed on.
func (k *companions) keepBeside(current, fd int, at place) {
	port := inetPort(fd)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil && !k.open() {
		linux.Close(fd)
		return
	}
	k.makeRoom()
	g := k.groups[linux.CookieOf(current)]
	if g == nil {
		k.lastID++
		g = &group{id: k.lastID, netns: linux.NetnsCookie(current)}
		k.use(g, current)
	}
	k.add(g, companion{fd: fd, place: at, port: port, beside: true})
}

// watch puts a kept socket into inbox, or has it be told of again what is there yet. Edges, and not
// levels: an error queue, or datagrams that cannot be handed on, would be ready all the time.
func (k *companions) watch(how, fd int) {
	unix.EpollCtl(k.inbox.FD, how, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
}

// open makes what is needed for the first one.
func (k *companions) open() bool {
	var err error
	if k.users, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return false
	}
	if k.inbox, err = linux.NewPollSet(); err != nil {
		linux.Close(k.users)
		return false
	}
	if k.info, err = unix.Open("/proc/self/fdinfo/"+strconv.Itoa(k.users), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		linux.Close(k.users)
		k.inbox.Close()
		return false
	}
	var errno unix.Errno
	if k.slot, errno = linux.Dup(k.info); errno != 0 {
		linux.Close(k.users)
		k.inbox.Close()
		linux.Close(k.info)
		return false
	}
	k.most = maxCompanions
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		k.most = int(min(maxCompanions, limit.Cur/2))
	}
	k.groups, k.kept, k.raw, k.ports = map[uint64]*group{}, map[int32]*group{}, map[uint64]outlet{}, map[uint16]int{}
	k.over = make(chan struct{})
	go k.handOn()
	go k.sweeps(k.over)
	return true
}

// sweeps calls sweep now and then, until over is closed.
func (k *companions) sweeps(over <-chan struct{}) {
	ticker := time.NewTicker(sweeping)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.sweep()
		case <-over:
			return
		}
	}
}

// close closes all of them, and what they take.
func (k *companions) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil {
		return
	}
	for _, g := range k.groups {
		for _, c := range g.kept {
			linux.Close(c.fd)
		}
		g.over = true
	}
	for _, out := range k.raw {
		out.close()
	}
	close(k.over)
	k.inbox.Close()
	linux.Close(k.users)
	linux.Close(k.slot)
	linux.Close(k.info)
	k.groups, k.kept, k.raw, k.ports, k.count = nil, nil, nil, nil, 0
}

// sweep closes the companions of sockets that nobody has any more.
func (k *companions) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweepLocked()
}

// freePort is sweep for a bind(2), with sa the beginning of its address, if a companion may have
// its port. To look at all of them for every port takes long where many ask name servers, each from
// a port of its own.
func (k *companions) freePort(sa []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mayHave(sa) {
		k.sweepLocked()
	}
}

// mayHave reports whether a companion may have the port of an address. The caller holds mu.
func (k *companions) mayHave(sa []byte) bool {
	port := binary.BigEndian.Uint16(sa[2:])
	return len(k.groups) > 0 && (port == 0 || k.ports[port] > 0 || k.ports[0] > 0)
}

// any reports whether there are companions.
func (k *companions) any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.groups) > 0
}

// sweepLocked is sweep for who holds mu.
func (k *companions) sweepLocked() {
	if len(k.groups) == 0 {
		return
	}
	text, ok := k.registered()
	if !ok {
		return
	}
	used := map[uint32]bool{}
	for line := range bytes.Lines(text) {
		if _, event, _, ok := target.ParseRegistration(line); ok {
			used[uint32(event.Fd)] = true
		}
	}
	for cookie, g := range k.groups {
		if used[g.id] {
			continue
		}
		for _, c := range g.kept {
			k.release(&c)
			linux.Close(c.fd)
		}
		g.over = true
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
		n, err := k.inbox.Wait(events)
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			k.mu.Lock()
			if g := k.kept[e.Fd]; g != nil {
				k.drain(g, int(e.Fd), packet)
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

// drain hands on what has come for a companion to the socket in use. packet has room for handedOn
// and a datagram.
func (k *companions) drain(g *group, fd int, packet []byte) {
	raw, ok := k.raw[g.netns]
	if !ok || raw.v4 < 0 || g.name.Port() == 0 {
		return
	}
	for i := range g.kept {
		if reader := g.kept[i].reader; g.kept[i].fd == fd && reader != nil {
			reader.wake(k, fd)
			return
		}
		for n := 0; g.kept[i].fd == fd && n < 64; n++ { // at a time
			length, from, err := unix.Recvfrom(fd, packet[handedOn:], unix.MSG_DONTWAIT)
			switch err {
			case nil: // of an error of the socket nobody is told
				raw.send(packet[:handedOn+length], g.kept[i].sender(from), g.name)
			case unix.EAGAIN:
				return // nothing more
			}
		}
	}
	k.watch(unix.EPOLL_CTL_MOD, fd) // there may be more
}

// sender returns who a datagram is from.
func (was *companion) sender(from unix.Sockaddr) netip.AddrPort {
	if was.source != nil {
		return was.source(from)
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
	}
	return netip.AddrPort{}
}

// send sends a datagram, which is behind handedOn, from src to the socket with a name.
func (o outlet) send(packet []byte, src, to netip.AddrPort) {
	switch addr := src.Addr(); {
	case addr.Is4():
		o.send4(packet, src, to)
	case addr.Is6() && !addr.IsLinkLocalUnicast(): // that would be on the loopback's link
		o.send6(packet, src, to)
	}
}

// send4 sends to the socket's address, or to 127.0.0.1.
func (o outlet) send4(packet []byte, src, to netip.AddrPort) {
	dst := to.Addr()
	if !dst.Is4() || dst.IsUnspecified() {
		dst = linux.Loopback4
	}
	packet = packet[handedOn-ipv4Header-udpHeader:]
	if len(packet) > maxLength {
		return
	}
	// RFC 791 and RFC 768. The kernel fills in the header's checksum and identification, raw(7);
	// that of UDP may be left out.
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

// send6 is for an AF_INET6 socket that hears from an IPv6 peer. It sends to the socket's address,
// or to ::1.
func (o outlet) send6(packet []byte, src, to netip.AddrPort) {
	dst := to.Addr()
	if !dst.Is6() || dst.IsUnspecified() {
		dst = netip.IPv6Loopback()
	}
	length := len(packet) - ipv6Header
	if o.v6 < 0 || length > maxLength {
		return
	}
	// RFC 8200, and RFC 768 with its section 8.1: there must be a checksum, which is not 0. It is
	// also about a pseudo header, and that comes to the same in any order.
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
	sum := siit.Checksum(packet)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[46:], sum)
	h[0], h[6], h[7] = 6<<4, unix.IPPROTO_UDP, 64
	unix.Sendto(o.v6, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Addr: d16})
}

// outbox sees that there is something to hand on through in the namespace of the socket in use, if
// that can be.
func (w *worker) outbox(c *call, current int, egress *netns.Egress) (ok bool) {
	k, netns := &w.s.companions, linux.NetnsCookie(current)
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

// unread is what has come for a socket, and nobody has received yet. It is to come for another one.
type unread struct {
	raw     outlet
	to      netip.AddrPort
	packets [][]byte // datagrams, behind handedOn
	from    []netip.AddrPort
}

// takeOut takes it out of the former socket, if it can be handed over to current.
func (w *worker) takeOut(c *call, was *companion, current int, egress *netns.Egress) (u unread) {
	fds := []unix.PollFd{{Fd: int32(was.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); n <= 0 || err != nil {
		return u
	}
	var now socket
	if !examineDatagram(current, &now) || now.port() == 0 || !w.outbox(c, current, egress) {
		return u
	}
	addr, _ := netip.AddrFromSlice(now.address())
	u.to = netip.AddrPortFrom(addr.Unmap(), now.port())
	k := &w.s.companions
	k.mu.Lock()
	u.raw = k.raw[now.netns]
	k.mu.Unlock()
	packet := make([]byte, handedOn+maxLength)
	for range maxHandedOver {
		n, from, err := unix.Recvfrom(was.fd, packet[handedOn:], unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			break
		}
		if err == nil {
			u.packets, u.from = append(u.packets, slices.Clone(packet[:handedOn+n])), append(u.from, was.sender(from))
		}
	}
	return u
}

// handOver sends it there.
func (u *unread) handOver() {
	for i, packet := range u.packets {
		u.raw.send(packet, u.from[i], u.to)
	}
}

// maxHandedOver is how many datagrams that have come for a socket are handed over at most.
const maxHandedOver = 256

// setAside takes ownership of a socket, in whose place current has been put, to keep it.
func (w *worker) setAside(c *call, was *former, current int, egress *netns.Egress) {
	handsOn := was.heard && w.outbox(c, current, egress)
	w.s.companions.keep(was.companion, current, handsOn)
}
