package upconv

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/target"
)

// tcpClose is TCP_CLOSE (netinet/tcp.h): not connected, not connecting, not listening.
const tcpClose = 7

// socket is what a swap needs to know of the target's socket.
type socket struct {
	domain, proto int
	kind          int    // SOCK_STREAM, SOCK_DGRAM or SOCK_RAW
	netns         uint64 // SO_NETNS_COOKIE
	flags         int    // file status flags, F_GETFL
	// name is its struct sockaddr_in or sockaddr_in6, getsockname(2); bound is whether it has one.
	name    [linux.SizeofSockaddrIn6]byte
	nameLen uint32
	bound   bool
	// chosen is whether the kernel has chosen its port, and nobody has asked for it; see
	// worker.portChosen.
	chosen bool
	// connected is whether a datagram socket was when it was moved.
	connected bool
	// headers is whether it is a raw one that sends with IP headers of the program's making.
	headers bool
	// untouched is whether untouchedUDP says so, and often what else.
	untouched bool
	often     int
	// resets is whether the connection that it has is reset: see disconnectCall.
	resets bool
	// inode is of the file, from make on.
	inode inode
	// reads is what readTCP has read besides; nil: nothing.
	reads *reads
}

// inode is what fstat(2) tells of a socket: its owner, its mode, and the number that no other one has
// as long as there is a copy of it.
type inode struct {
	uid, gid int
	mode     uint32
	number   uint64
}

func inodeIn(stat *unix.Stat_t) inode {
	return inode{int(stat.Uid), int(stat.Gid), stat.Mode, stat.Ino}
}

// examine reads what a swap needs to know of a stream, with as few calls as will do. idle is false
// where it is not a TCP or MPTCP socket, or is one that is connected, connecting or listening.
func examine(fd int, s *socket) (idle bool) {
	return s.readStream(fd) && s.readIdle(fd) && s.readFlags(fd)
}

// readIdle reads netns, if it is not known. It is false for a stream that is connected, connecting
// or listening.
func (s *socket) readIdle(fd int) (idle bool) {
	if s.port() != 0 || s.proto == unix.IPPROTO_MPTCP { // only a socket with a port can be in another state
		var state uint8
		if linux.Getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&state), 1) != 0 || state != tcpClose {
			return false
		}
	}
	return s.netns != 0 || s.readNetns(fd)
}

// readStream reads what a TCP or MPTCP socket is, and its name. It is false for any other stream;
// whoever calls it knows that fd is one.
func (s *socket) readStream(fd int) bool {
	*s = socket{}
	var proto int32
	if linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4) != 0 ||
		proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_MPTCP {
		return false
	}
	s.proto, s.kind = int(proto), unix.SOCK_STREAM
	if !s.readName(fd) {
		return false
	}
	s.named()
	return true
}

// named derives domain and bound of a stream from name.
func (s *socket) named() {
	s.domain = int(binary.NativeEndian.Uint16(s.name[:]))
	s.bound = s.port() != 0 || !linux.AllZero(s.address())
}

// readName reads what getsockname(2) tells: name, and with it domain. It is false for what has no
// name of IPv4 or IPv6.
func (s *socket) readName(fd int) bool {
	s.nameLen = uint32(len(s.name))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.name)), uintptr(unsafe.Pointer(&s.nameLen)))
	if errno != 0 || s.nameLen < linux.SizeofSockaddrIn {
		return false
	}
	s.domain = int(binary.NativeEndian.Uint16(s.name[:]))
	return true
}

// readPlace reads netns and flags.
func (s *socket) readPlace(fd int) (ok bool) { return s.readNetns(fd) && s.readFlags(fd) }

// readNetns reads netns. It is false for what is not a socket.
func (s *socket) readNetns(fd int) (ok bool) {
	s.netns = linux.NetnsCookie(fd)
	return s.netns != 0
}

// readFlags reads flags.
func (s *socket) readFlags(fd int) (ok bool) {
	s.flags, ok = linux.FlagsOf(fd)
	return ok
}

func (s *socket) port() uint16 { return binary.BigEndian.Uint16(s.name[2:]) }

// address is the bytes of the IP address within name.
func (s *socket) address() []byte { return linux.AddressIn(s.domain, &s.name) }

// socket makes a non-blocking socket in the egress; the caller owns it.
func (w *worker) socket(e *netns.Egress, domain, kind, proto int) (int, unix.Errno) {
	fd, errno := w.trySocket(e, domain, kind, proto)
	if w.s.targets.MakeRoom(errno) {
		fd, errno = w.trySocket(e, domain, kind, proto)
	}
	return fd, errno
}

func (w *worker) trySocket(e *netns.Egress, domain, kind, proto int) (int, unix.Errno) {
	if e == w.home {
		if fd, ok := w.spares.take(domain, proto); ok {
			return fd, 0
		}
		return linux.NewSocket(domain, kind, proto)
	}
	if w.lost != nil {
		return -1, unix.EIO
	}
	// Going there and back costs a tenth of handing the work to a thread that lives there.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(e.NS.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		return -1, errno
	}
	fd, errno := linux.NewSocket(domain, kind, proto)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(w.home.NS.FD()), unix.CLONE_NEWNET, 0); errno != 0 {
		// This thread's next sockets would be made in the wrong namespace. Better none.
		w.lost = fmt.Errorf("return to %s: %w", w.home.NS, errno)
		w.s.fail(w.lost)
		linux.Close(fd)
		return -1, unix.EIO
	}
	return fd, errno
}

// maxSpares is how many sockets are made in advance at a time: so most of the time the worker is
// back in RECV soon, and until it is a signal can interrupt a call that natively none does.
const maxSpares = 4

// spares are sockets of home that are ready for use, of the kinds that are used most.
type spares [4]struct {
	fds  []int
	used bool // one was wanted since they were last refilled
}

// spareKinds is what they are. Their protocols and families tell them apart.
var spareKinds = [len(spares{})]struct{ domain, kind, proto int }{
	{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
}

// take returns one that is the caller's then. ok is false where there is none.
func (s *spares) take(domain, proto int) (fd int, ok bool) {
	for i := range s {
		if k := &spareKinds[i]; k.proto != proto || k.domain != domain {
			continue
		}
		s[i].used = true
		last := len(s[i].fds) - 1
		if last < 0 {
			return -1, false
		}
		fd, s[i].fds = s[i].fds[last], s[i].fds[:last]
		return fd, true
	}
	return -1, false
}

// refill makes more of the kinds that have run out. The thread must live in home.
func (s *spares) refill() {
	for i := range s {
		if !s[i].used {
			continue
		}
		s[i].used = false
		if len(s[i].fds) > 0 {
			continue
		}
		for range maxSpares {
			fd, errno := linux.NewSocket(spareKinds[i].domain, spareKinds[i].kind, spareKinds[i].proto)
			if errno != 0 {
				break
			}
			s[i].fds = append(s[i].fds, fd)
		}
	}
}

// close closes all of them.
func (s *spares) close() {
	for i := range s {
		for _, fd := range s[i].fds {
			linux.Close(fd)
		}
	}
}

// tidy does what need not be done while the target waits: it closes the sockets of the last swap
// and makes the next ones.
func (w *worker) tidy() {
	for _, fd := range w.done {
		linux.Close(fd)
	}
	w.done = w.done[:0]
	w.unpin()
	w.spares.refill()
	if w.usedUnix {
		w.unixSpares.refill(w, &w.crossing.pass)
		w.usedUnix = false
	}
}

// closeNow closes one of the descriptors that tidy would close.
func (w *worker) closeNow(fd int) {
	for i, other := range w.done {
		if other == fd {
			w.done = append(w.done[:i], w.done[i+1:]...)
		}
	}
	linux.Close(fd)
}

// disown has tidy leave a descriptor alone.
func (w *worker) disown(fd int) {
	w.done = slices.DeleteFunc(w.done, func(other int) bool { return other == fd })
}

// install puts fd under a number of the target.
//
// The target itself does it, while this thread waits.
func (w *worker) install(c *call, number, fd int, cloexec bool) unix.Errno {
	_, err := w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, Target: number, SetTarget: true, CloseOnExec: cloexec})
	errno := linux.ErrnoOf(err)
	if errno == unix.EBADF && target.RaiseLimit(c.tid, number, func() {
		_, err = w.s.listener.AddFD(c.id, seccompx.AddFD{Source: fd, Target: number, SetTarget: true, CloseOnExec: cloexec})
	}) {
		errno = linux.ErrnoOf(err)
	}
	return errno
}

// stayPinned is for how many swaps of one thread in a row the processor is not looked up again.
const stayPinned = 32

// pin keeps this thread on the processor that it is on, until the target has its answer. While a
// descriptor is installed the kernel would move it to an idle processor, away from the target that
// it is in the middle of a conversation with; waking up there costs more than all the rest. A
// thread that connects again and again mostly stays where it is, and so may this one.
func (w *worker) pin(tid uint32) {
	if !w.mayPin || w.settled {
		return
	}
	if w.pinned && w.pinnedFor == tid && w.pinnedYet > 0 {
		w.pinnedYet--
		return
	}
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return
	}
	var here unix.CPUSet
	here.Set(int(cpu))
	if linux.SetAffinity(&here) == 0 {
		w.pinned, w.pinnedYet = true, 0
		if w.pinnedFor == tid {
			w.pinnedYet = stayPinned
		}
		w.pinnedFor = tid
	}
}

// unpin lets this thread go where it wants, unless it is likely to be held again at once.
func (w *worker) unpin() {
	if w.pinned && w.pinnedYet == 0 {
		linux.SetAffinity(&w.cpus)
		w.pinned = false
	}
}
