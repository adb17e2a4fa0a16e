package companion

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Set is all companions that are kept. The zero value has none.
type Set struct {
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
	lent  map[int]loan      // by descriptor, those that somebody has taken and that may be put back

	// arriving are the sockets, by their cookies, that are being put into the place of others:
	// these may become their companions.
	arriving map[uint64]bool
	over     chan struct{} // closed when there are to be none any more
	arrival  sync.Cond
}

// group is a socket in use and its companions, one a place.
type group struct {
	id    uint32
	netns uint64 // of the one in use
	name  netip.AddrPort
	kept  []Companion
	over  bool // nobody has the socket in use any more
}

// Companion is a socket that is kept, or is to be.
type Companion struct {
	FD    int
	Place Place
	// Source returns who a datagram that has come for it is from, as the program is told it; nil:
	// as it stands.
	Source func(unix.Sockaddr) netip.AddrPort
	port   uint16 // that it had when it was kept; 0: none yet
	beside bool   // it was used while the one in use was connected: what has come for it is for nobody
	// handsOn is whether what comes for it is handed on, and by that its reader is the one who
	// does, of a Unix socket; else nil.
	handsOn bool
	Reader  *UnixReader
}

// maxCompanions is how many sockets are kept at most, and not more than half of the descriptors
// that upconv may have: new sockets need some, too.
const maxCompanions = 4096

// release forgets a companion, whose descriptor is the caller's then.
func (k *Set) release(c *Companion) {
	unix.EpollCtl(k.inbox.FD, unix.EPOLL_CTL_DEL, c.FD, nil)
	delete(k.kept, int32(c.FD))
	if k.ports[c.port]--; k.ports[c.port] == 0 {
		delete(k.ports, c.port)
	}
	k.count--
}

// Keep keeps was, which the target's descriptor has just been taken from, as the companion of the
// socket in its place. It takes ownership of it; handsOn is whether what comes for it can be handed
// on to the namespace of the new one.
func (k *Set) Keep(was Companion, current int, handsOn bool) {
	// Of a socket that the program has locked this takes long.
	old := was.FD
	was.port, was.handsOn = inetPort(old), handsOn
	var now sockstate.Socket
	var name netip.AddrPort
	if sockstate.ExamineDatagram(current, &now) {
		if addr, ok := netip.AddrFromSlice(now.Address()); ok {
			name = netip.AddrPortFrom(addr.Unmap(), now.Port())
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
			if c.Place == was.Place || slices.ContainsFunc(g.kept, func(own Companion) bool { return own.Place == c.Place }) {
				k.release(&c)
				linux.Close(c.FD)
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
		k.kept[int32(c.FD)] = g
		k.watch(unix.EPOLL_CTL_MOD, c.FD)
	}
}

// use makes current the socket in use of a group.
func (k *Set) use(g *group, current int) {
	k.groups[linux.CookieOf(current)] = g
	if k.inUsers(unix.EPOLL_CTL_ADD, current, g.id) == unix.EEXIST { // it is another process's, too
		k.inUsers(unix.EPOLL_CTL_MOD, current, g.id)
	}
}

// inUsers is epoll_ctl(2) on users. A registration is of a file and a number, and only under that
// number can it be found again: so it is the same for all, and each is in there once.
func (k *Set) inUsers(how, fd int, id uint32) error {
	if err := unix.Dup3(fd, k.slot, unix.O_CLOEXEC); err != nil {
		return err
	}
	err := unix.EpollCtl(k.users, how, k.slot, &unix.EpollEvent{Fd: int32(id)})
	unix.Dup3(k.info, k.slot, unix.O_CLOEXEC) // which would keep the socket
	return err
}

// Watches returns in how many epoll sets of upconv's own the socket of which fd is a copy is, while
// it is in use.
func (k *Set) Watches(fd int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.groups) == 0 || k.groups[linux.CookieOf(fd)] == nil {
		return 0
	}
	return 1
}

// inetPort returns the port of an IPv4 or IPv6 socket, 0 of any other.
func inetPort(fd int) uint16 {
	var name sockstate.Socket
	if name.ReadName(fd) && linux.IsInet(name.Domain) {
		return name.Port()
	}
	return 0
}

// add adds a companion to a group. It takes ownership of its descriptor. It returns false where
// there are too many.
func (k *Set) add(g *group, c Companion) bool {
	if k.count >= k.most {
		linux.Close(c.FD)
		return false
	}
	g.kept = append(g.kept, c)
	k.count++
	k.ports[c.port]++
	k.kept[int32(c.FD)] = g
	return true
}

// KeepBeside keeps fd, which is at a place, as a companion of the socket of which current is a
// copy. It takes ownership of fd. Nothing that comes for it is handed on.
func (k *Set) KeepBeside(current, fd int, at Place) {
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
	k.add(g, Companion{FD: fd, Place: at, port: port, beside: true})
}

// watch puts a kept socket into inbox, or has it be told of again what is there yet. Edges, and not
// levels: an error queue, or datagrams that cannot be handed on, would be ready all the time.
func (k *Set) watch(how, fd int) {
	unix.EpollCtl(k.inbox.FD, how, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
}

// open makes what is needed for the first one.
func (k *Set) open() bool {
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

// Close closes all of them, and what they take.
func (k *Set) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.groups == nil {
		return
	}
	for _, g := range k.groups {
		for _, c := range g.kept {
			linux.Close(c.FD)
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

// Any reports whether there are companions.
func (k *Set) Any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.groups) > 0
}
