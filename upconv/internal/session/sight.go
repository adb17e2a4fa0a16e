package session

import (
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// Where upconv has the privilege, it looks at a descriptor in the kernel itself, with one call for
// what otherwise takes twenty. Without it the same is found out by system calls, but for what none
// of them tells.

// Sights is what is needed for looking.
type Sights struct {
	Peeker         *peek.Peeker
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

// MaySee reports whether loading the program is likely to be permitted: capabilities in a user
// namespace of one's own do not do.
func MaySee() bool {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return false
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		return false
	}
	return (linux.HasCapability(unix.CAP_SYS_ADMIN) || linux.HasCapability(unix.CAP_BPF) && linux.HasCapability(unix.CAP_PERFMON)) && peek.Allowed()
}

// SightsDelay is how long after the start of the command a session gets ready to look, if nobody
// has connected before.
const SightsDelay = 30 * time.Millisecond

// OpenSights gets ready to look, once. It takes some milliseconds, so it is not done before the
// command is started, and many a command has ended before it is done. A call that needs it waits.
func (s *Session) OpenSights() { s.open.Do(s.loadSights) }

// loadSights gets ready to look. Where that cannot be done, s.blind is told.
func (s *Session) loadSights() {
	peeker := s.peeks()
	if peeker == nil {
		s.blind() // the filter does not tell who makes sets
		return
	}
	all := &Sights{Peeker: peeker}
	for domain, fresh := range map[int]*peek.Sight{unix.AF_INET: &all.fresh4, unix.AF_INET6: &all.fresh6} {
		if fd, ok := s.Origin.Seed(domain); ok {
			peeker.Look(s.PID, fd, fresh)
		}
	}
	if all.fresh4.File == 0 {
		s.blind()
		return
	}
	s.Sights.Store(all)
}

// Looks returns what is needed for looking, nil where upconv cannot look.
func (s *Session) Looks() *Sights {
	all := s.Sights.Load()
	if all == nil && s.Needs.Sees {
		s.OpenSights()
		all = s.Sights.Load()
	}
	return all
}

// view is what one look at the target's descriptor in the kernel has shown.
type view struct {
	peek.Sight
	Moves  uint64 // how many datagram sockets had been moved then
	Copies int    // how many of Refs were upconv's own
}

// See looks at the target's descriptor, and puts what that shows into c.View; nil: it could not
// look. It reports whether it could. What was being closed is not what is there: another thread has
// put another file under the number.
func (w *Worker) See(c *Call) bool {
	c.View = nil
	v := &w.viewed
	all := w.s.Looks()
	if all == nil {
		return false
	}
	for range MaxRaces {
		v.Moves, v.Copies = w.s.Moves.Load(), 0
		if all.Peeker.Look(c.TID, c.FD, &v.Sight) != 0 {
			return false
		}
		if !v.Closed() {
			c.View = v
			return true
		}
	}
	return false
}

// Saw reports whether old is a copy of the file that was seen. A socket is known by its inode.
func (w *Worker) Saw(v *view, old int) bool {
	if v.Mode&unix.S_IFMT == unix.S_IFSOCK {
		var stat unix.Stat_t
		return unix.Fstat(old, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK && stat.Ino == v.Ino
	}
	var sight peek.Sight
	return w.s.Sights.Load().Peeker.Look(w.s.PID, old, &sight) == 0 && sight.File == v.File
}

// Single reports whether the target's descriptor was seen to be the only reference to its file: no
// other descriptor, call or process had one.
func (v *view) Single() bool { return v != nil && v.Refs == 1+v.Copies }

// Alone reports whether the target's thread was seen to share its descriptors with nobody.
func (v *view) Alone() bool { return v != nil && v.OwnTable }

// Idle reports whether what was seen is a TCP or MPTCP socket that is not connected, connecting or
// listening. One whose connect(2) has failed while nobody waited is not: the next one fetches the
// error.
func (v *view) Idle(family int) bool {
	if v.Mode&unix.S_IFMT != unix.S_IFSOCK || v.Family != family || v.Type != unix.SOCK_STREAM || v.State != sockstate.TCPClose || !v.Unconnected {
		return false
	}
	return v.Protocol == unix.IPPROTO_TCP || v.Protocol == unix.IPPROTO_MPTCP
}

// Untouched reports whether what was seen is a TCP socket of the origin in the state that socket(2)
// leaves one in, which is no other number's or process's.
func (w *Worker) Untouched(v *view, family int) bool {
	all := w.s.Sights.Load()
	fresh := &all.fresh4
	if family == unix.AF_INET6 {
		fresh = &all.fresh6
	}
	return w.unshared(v) && v.Common == fresh.Common && v.Stream == fresh.Stream
}

// unshared reports whether what was seen is a socket of the origin that is no other number's or
// process's, and whose options nobody has set that hardly anybody sets.
func (w *Worker) unshared(v *view) bool {
	return v.Mode == unix.S_IFSOCK|0o777 && v.NetNS == w.s.Origin.Cookie && v.Single() && !v.Owned &&
		v.Flags&unix.O_ASYNC == 0 && !w.s.Used.Any.Load()
}

// UntouchedUDP is Untouched for an AF_INET UDP socket. set is what of often the program has set
// nevertheless, a bit each.
func (w *Worker) UntouchedUDP(c *Call) (set int, is bool) {
	all, v := w.s.Sights.Load(), c.View
	if v == nil || !w.unshared(v) || v.Family != unix.AF_INET || v.Protocol != unix.IPPROTO_UDP || v.Type != unix.SOCK_DGRAM {
		return 0, false
	}
	all.learn.Do(func() { w.learnUDP(all, c.TID) })
	for set := range all.freshUDP {
		if fresh := &all.freshUDP[set]; fresh.File != 0 && v.Common == fresh.Common && v.Datagram == fresh.Datagram {
			return set, true
		}
	}
	return 0, false
}

// learnUDP looks at what UntouchedUDP compares with. The thread tid is in the origin.
func (w *Worker) learnUDP(all *Sights, tid int) {
	fd, errno := w.InOrigin(tid, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
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
		if all.Peeker.Look(w.s.PID, fd, fresh) != 0 || fresh.NetNS != w.s.Origin.Cookie {
			fresh.File = 0
		}
	}
}

// SetOften sets options of often on the socket fd, a bit each; on an AF_INET6 socket in the place
// of an AF_INET one their counterparts too.
func SetOften(fd, set int, inet6 bool) {
	for i, o := range often {
		if one := int32(1); set&(1<<i) != 0 {
			linux.Setsockopt(fd, o.level, o.name, unsafe.Pointer(&one), 4)
			if inet6 && o.level == unix.IPPROTO_IP {
				sockstate.MapOption(fd, o.name)
			}
		}
	}
}
