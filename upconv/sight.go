package upconv

import (
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/peek"
)

// Where upconv has the privilege, it looks at a descriptor in the kernel itself, with one call for
// what otherwise takes twenty. Without it the same is found out by system calls, but for what none
// of them tells.

// sights is what is needed for looking.
type sights struct {
	peeker         *peek.Peeker
	fresh4, fresh6 peek.Sight // of an AF_INET and an AF_INET6 TCP socket of the origin that nobody has touched

	learn    sync.Once                   // freshUDP, when it is first needed
	freshUDP [1 << len(often)]peek.Sight // of such an AF_INET UDP socket: by what of often is set, a bit each
}

// often is what programs set on UDP sockets so often that one with nothing else is still taken for
// untouched: the C library does on those that it asks for names with, and Go on all.
var often = [...]struct{ level, name int }{
	{unix.IPPROTO_IP, unix.IP_RECVERR},
	{unix.SOL_SOCKET, unix.SO_BROADCAST},
}

// maySee reports whether loading the program is likely to be permitted: capabilities in a user
// namespace of one's own do not do.
func maySee() bool {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return false
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		return false
	}
	return (linux.HasCapability(unix.CAP_SYS_ADMIN) || linux.HasCapability(unix.CAP_BPF) && linux.HasCapability(unix.CAP_PERFMON)) && peek.Allowed()
}

// settleSights is how long after the command was started it is time to get ready to look, if nobody
// has connected before.
const settleSights = 30 * time.Millisecond

// openSights gets ready to look, once. It takes some milliseconds, so it is not done before the
// command is started, and many a command has ended before it is done. A call that needs it waits.
func (s *session) openSights() { s.open.Do(s.loadSights) }

func (s *session) loadSights() {
	peeker := s.peeks()
	if peeker == nil {
		s.epolls.blind() // the filter does not tell who makes sets
		return
	}
	all := &sights{peeker: peeker}
	for domain, fresh := range map[int]*peek.Sight{unix.AF_INET: &all.fresh4, unix.AF_INET6: &all.fresh6} {
		if fd, ok := s.origin.Seed(domain); ok {
			peeker.Look(s.pid, fd, fresh)
		}
	}
	if all.fresh4.File == 0 {
		s.epolls.blind()
		return
	}
	s.sights.Store(all)
}

// looks returns what is needed for looking, nil where upconv cannot look.
func (s *session) looks() *sights {
	all := s.sights.Load()
	if all == nil && s.needs.sees {
		s.openSights()
		all = s.sights.Load()
	}
	return all
}

// see looks at the target's descriptor. It reports whether it could.
func (w *worker) see(c *call) bool {
	w.moves, w.held = w.s.moves.Load(), 0
	all := w.s.looks()
	w.sighted = all != nil && all.peeker.Look(c.tid, c.fd, &w.sight) == 0
	return w.sighted
}

// saw reports whether old is a copy of the file that was seen. A socket is known by its inode.
func (w *worker) saw(old int) bool {
	if w.sight.Mode&unix.S_IFMT == unix.S_IFSOCK {
		var stat unix.Stat_t
		return unix.Fstat(old, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK && stat.Ino == w.sight.Ino
	}
	var sight peek.Sight
	return w.s.sights.Load().peeker.Look(w.s.pid, old, &sight) == 0 && sight.File == w.sight.File
}

// single reports whether the target's descriptor was seen to be the only reference to its file: no
// other descriptor, call or process had one.
func (w *worker) single() bool { return w.sighted && w.sight.Refs == 1+w.held }

// lookBack looks once more at the socket old, which has just been taken from the target: other
// threads could use it until then. waited is whether it was seen to have no other reference, and
// has one now: a thread that waits for it keeps it alive. (To look for such threads takes long
// where there are many.) late are the places in epoll sets that it has got, besides those that are
// known.
func (w *worker) lookBack(c *call, old int, places []registration, witness bool) (waited bool, late []registration) {
	if !w.sighted || w.sight.OwnTable {
		return false, nil
	}
	var sight peek.Sight
	if w.s.sights.Load().peeker.Look(w.s.pid, old, &sight) != 0 {
		return w.single(), nil
	}
	return w.single() && sight.Refs != 1, w.latePlaces(c, &sight, places, witness)
}

// latePlaces returns the places that a socket has got between two looks, besides those that are
// known. sight is what the second one has shown; witness is whether upconv has then put it into a
// set of its own.
func (w *worker) latePlaces(c *call, sight *peek.Sight, places []registration, witness bool) (late []registration) {
	own := 0
	if witness {
		own = 1
	}
	if w.showsPlaces(sight) {
		added := slices.DeleteFunc(slices.Clone(sight.Places()), func(p peek.Place) bool {
			return slices.ContainsFunc(w.sight.Places(), func(q peek.Place) bool { return p.Set == q.Set && p.Number == q.Number })
		})
		if len(added) > own {
			late, _ = w.placesSeen(c, added, len(added)-own)
		}
		return late
	}
	if sight.Watched <= w.sight.Watched+own && sight.Watched < peek.MaxWatched {
		return nil
	}
	w.forgetSets(c) // it may be in a set that is new
	late, _ = w.registrationsByInode(c, nil)
	return slices.DeleteFunc(late, func(r registration) bool {
		return slices.ContainsFunc(places, func(known registration) bool { return known.epfd == r.epfd && known.number == r.number })
	})
}

// idle reports whether what was seen is a TCP or MPTCP socket that is not connected, connecting or
// listening. One whose connect(2) has failed while nobody waited is not: the next one fetches the
// error.
func (w *worker) idle(family int) bool {
	s := &w.sight
	if s.Mode&unix.S_IFMT != unix.S_IFSOCK || s.Family != family || s.Type != unix.SOCK_STREAM || s.State != tcpClose || !s.Unconnected {
		return false
	}
	return s.Protocol == unix.IPPROTO_TCP || s.Protocol == unix.IPPROTO_MPTCP
}

// untouched reports whether what was seen is a TCP socket of the origin in the state that socket(2)
// leaves one in, which is no other number's or process's.
func (w *worker) untouched(family int) bool {
	all, sight := w.s.sights.Load(), &w.sight
	fresh := &all.fresh4
	if family == unix.AF_INET6 {
		fresh = &all.fresh6
	}
	return w.unshared() && sight.Common == fresh.Common && sight.Stream == fresh.Stream
}

func (w *worker) unshared() bool {
	sight := &w.sight
	return sight.Mode == unix.S_IFSOCK|0o777 && sight.NetNS == w.s.origin.Cookie && w.single() && !sight.Owned &&
		sight.Flags&unix.O_ASYNC == 0 && !w.s.used.any.Load()
}

// untouchedUDP is untouched for an AF_INET UDP socket. set is what of often the program has set
// nevertheless, a bit each.
func (w *worker) untouchedUDP(tid int) (set int, is bool) {
	all, sight := w.s.sights.Load(), &w.sight
	if !w.unshared() || sight.Family != unix.AF_INET || sight.Protocol != unix.IPPROTO_UDP || sight.Type != unix.SOCK_DGRAM {
		return 0, false
	}
	all.learn.Do(func() { w.learnUDP(all, tid) })
	for set := range all.freshUDP {
		if fresh := &all.freshUDP[set]; fresh.File != 0 && sight.Common == fresh.Common && sight.Datagram == fresh.Datagram {
			return set, true
		}
	}
	return 0, false
}

// learnUDP looks at what untouchedUDP compares with. The thread tid is in the origin.
func (w *worker) learnUDP(all *sights, tid int) {
	fd, errno := w.inOrigin(tid, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if errno != 0 {
		return
	}
	defer linux.Close(fd)
	for set := range all.freshUDP {
		for i, o := range often {
			value := int32(set >> i & 1)
			if linux.Setsockopt(fd, o.level, o.name, unsafe.Pointer(&value), 4) != 0 {
				return
			}
		}
		fresh := &all.freshUDP[set]
		if all.peeker.Look(w.s.pid, fd, fresh) != 0 || fresh.NetNS != w.s.origin.Cookie {
			fresh.File = 0
		}
	}
}

// setOften sets options of often, a bit each; on an AF_INET6 socket in the place of an AF_INET one
// their counterparts too.
func setOften(fd, set int, inet6 bool) {
	for i, o := range often {
		if one := int32(1); set&(1<<i) != 0 {
			linux.Setsockopt(fd, o.level, o.name, unsafe.Pointer(&one), 4)
			if inet6 && o.level == unix.IPPROTO_IP {
				mapOption(fd, o.name)
			}
		}
	}
}

// trySights returns why sockets cannot be looked at, and if they can why signals cannot be told of;
// nil if they can.
func trySights() (sockets, signals error) {
	peeker, err := peek.Open()
	if err != nil {
		return err, nil
	}
	defer peeker.Close()
	teller, err := peeker.Tell()
	if err == nil {
		teller.Close()
	}
	return nil, err
}
