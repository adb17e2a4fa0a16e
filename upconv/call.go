package upconv

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// call is one stopped system call, decoded. Handlers read it and do not change it.
type call struct {
	id  uint64 // of the notification
	tid int    // the thread that is stopped, in upconv's pid namespace
	fd  int    // the first argument: the socket
	// addr and addrLen are the pointer and length of the socket address, in the target's memory.
	addr    uint64
	addrLen uint32
}

// outcome is what a handler wants the target to see. The zero value lets the kernel run the call as
// it stands (SECCOMP_USER_NOTIF_FLAG_CONTINUE).
type outcome struct {
	answered bool       // the call returns: with errno, or with 0
	errno    unix.Errno // 0 for success
	wait     *wait      // not yet: the wait answers later, on a goroutine of its own
}

var carryOn = outcome{}

func answer(errno unix.Errno) outcome { return outcome{answered: true, errno: errno} }

// decode reads the arguments of connect(2), or of socketcall(2) with SYS_CONNECT, whose own
// arguments are in memory (i386 only). ok is false where there is nothing for upconv to decide.
//
// The kernel takes int arguments from the low half of the register, so the high half is dropped.
func (w *worker) decode(n *seccompx.Notification, c *call) (ok bool) {
	args := &n.Data.Args
	*c = call{id: n.ID, tid: int(n.PID), fd: int(int32(args[0])), addr: args[1], addrLen: uint32(args[2])}
	if n.PID == 0 {
		return false // a thread outside our pid namespace: cannot be named, cannot be served
	}
	for _, known := range w.epollCreate {
		if n.Data.Arch == known.arch && n.Data.Nr == known.nr {
			w.s.epolls.create(threadGroup(c.tid))
			return false
		}
	}
	if n.Data.Arch == seccompx.I386 && n.Data.Nr == w.socketcall {
		var raw [12]byte
		if errno := readMemory(c.tid, uint64(uint32(args[1])), raw[:]); errno != 0 {
			return false // the kernel will say EFAULT
		}
		c.fd = int(int32(binary.LittleEndian.Uint32(raw[0:])))
		c.addr = uint64(binary.LittleEndian.Uint32(raw[4:]))
		c.addrLen = binary.LittleEndian.Uint32(raw[8:])
	}
	return sizeofSockaddrIn <= c.addrLen && c.addrLen <= sizeofSockaddrStorage
}

// syscallNumber is a system call of an architecture.
type syscallNumber struct {
	arch seccompx.Arch
	nr   int32
}

// learnNumbers looks up the calls that are not connect(2).
func (w *worker) learnNumbers() {
	if nr, ok := seccompx.I386.Syscall("socketcall"); ok {
		w.socketcall = int32(nr)
	}
	for _, arch := range seccompx.NativeArches() {
		for _, name := range epollCreateCalls {
			if nr, ok := arch.Syscall(name); ok {
				w.epollCreate = append(w.epollCreate, syscallNumber{arch, int32(nr)})
			}
		}
	}
}

// Lengths of socket addresses: what connect(2) demands at least, and the most it takes.
const (
	sizeofSockaddrIn      = 16  // struct sockaddr_in
	sizeofSockaddrIn6Min  = 24  // SIN6_LEN_RFC2133, net/ipv6.h: without sin6_scope_id
	sizeofSockaddrIn6     = 28  // struct sockaddr_in6
	sizeofSockaddrStorage = 128 // struct sockaddr_storage
)

// destination returns the IPv4 destination in a socket address: that of an AF_INET address or the
// IPv4-mapped one of an AF_INET6 address (RFC 4291 section 2.5.5.2). ok is false for all others.
func destination(sa []byte) (family int, dst netip.AddrPort, ok bool) {
	if len(sa) < sizeofSockaddrIn {
		return 0, dst, false
	}
	family = int(binary.NativeEndian.Uint16(sa))
	port := binary.BigEndian.Uint16(sa[2:])
	switch {
	case family == unix.AF_INET:
		return family, netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), port), true
	case family == unix.AF_INET6 && len(sa) >= sizeofSockaddrIn6Min:
		addr := netip.AddrFrom16([16]byte(sa[8:24]))
		if addr.Is4In6() {
			return family, netip.AddrPortFrom(addr.Unmap(), port), true
		}
	}
	return family, dst, false
}
