package upconv

import (
	"bytes"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockopt is one row of the table of what is copied onto a new socket.
type sockopt struct {
	level, name int
	size        uintptr // bytes of its value, at most maxSockopt
	domain      int     // only for sockets of this family; 0: all
	// optional is true where the new socket may do without it: the option needs a privilege that the
	// target had and upconv has not, or is not known to this kernel.
	optional bool
}

const maxSockopt = 16

// sockopts is every socket option that a program can set before connect(2) and that is copied, if it
// differs from what a fresh socket of the origin has. Buffer sizes have rules of their own: copyBuffers.
var sockopts = []sockopt{
	{level: unix.SOL_SOCKET, name: unix.SO_KEEPALIVE, size: 4},
	{level: unix.SOL_SOCKET, name: unix.SO_LINGER, size: unix.SizeofLinger},
	{level: unix.SOL_SOCKET, name: unix.SO_REUSEADDR, size: 4},
	{level: unix.SOL_SOCKET, name: unix.SO_REUSEPORT, size: 4},
	{level: unix.SOL_SOCKET, name: unix.SO_RCVTIMEO, size: unsafe.Sizeof(unix.Timeval{})},
	{level: unix.SOL_SOCKET, name: unix.SO_SNDTIMEO, size: unsafe.Sizeof(unix.Timeval{})},
	{level: unix.SOL_SOCKET, name: unix.SO_RCVLOWAT, size: 4},
	{level: unix.SOL_SOCKET, name: unix.SO_OOBINLINE, size: 4},
	{level: unix.SOL_SOCKET, name: unix.SO_PRIORITY, size: 4, optional: true},
	{level: unix.SOL_SOCKET, name: unix.SO_MARK, size: 4, optional: true},
	{level: unix.IPPROTO_IP, name: unix.IP_TOS, size: 4},
	{level: unix.IPPROTO_IP, name: unix.IP_TTL, size: 4},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_V6ONLY, size: 4, domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_TCLASS, size: 4, domain: unix.AF_INET6},
	{level: unix.IPPROTO_TCP, name: unix.TCP_NODELAY, size: 4},
	{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPIDLE, size: 4},
	{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPINTVL, size: 4},
	{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPCNT, size: 4},
	{level: unix.IPPROTO_TCP, name: unix.TCP_SYNCNT, size: 4},
	{level: unix.IPPROTO_TCP, name: unix.TCP_USER_TIMEOUT, size: 4},
	{level: unix.IPPROTO_TCP, name: unix.TCP_FASTOPEN_CONNECT, size: 4, optional: true},
}

// defaults is what a fresh socket of the origin answers to each row of sockopts, by family and MPTCP or
// not. A program that has set nothing costs no setsockopt(2).
type defaults struct {
	known  atomic.Bool
	values [32][maxSockopt]byte // by row; len(sockopts) is checked at start
}

func init() {
	if len(sockopts) > len(defaults{}.values) {
		panic("upconv: more sockopts than defaults has room for")
	}
}

// learn reads the defaults off a socket that nobody has touched.
func (d *defaults) learn(fresh, domain int) {
	for i := range sockopts {
		if row := &sockopts[i]; row.domain == 0 || row.domain == domain {
			getsockopt(fresh, row.level, row.name, unsafe.Pointer(&d.values[i]), row.size)
		}
	}
	d.known.Store(true)
}

// copyOptions gives the socket to all the options that the socket from has and that differ from d.
func (d *defaults) copyOptions(from, to, domain int) unix.Errno {
	var value [maxSockopt]byte
	for i := range sockopts {
		row := &sockopts[i]
		if row.domain != 0 && row.domain != domain {
			continue
		}
		if getsockopt(from, row.level, row.name, unsafe.Pointer(&value), row.size) != 0 {
			continue // not an option of this protocol or kernel: the program cannot have set it
		}
		if d.known.Load() && bytes.Equal(value[:row.size], d.values[i][:row.size]) {
			continue
		}
		if errno := setsockopt(to, row.level, row.name, unsafe.Pointer(&value), row.size); errno != 0 && !row.optional {
			return errno
		}
	}
	return copyBuffers(from, to)
}

// SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK of SO_BUF_LOCK, linux/socket.h (Linux 5.15).
const (
	sndbufLock = 1
	rcvbufLock = 2
)

// copyBuffers copies the buffer sizes that the program has set itself: setting one that it has
// not would switch the kernel's autotuning off.
func copyBuffers(from, to int) unix.Errno {
	var lock int32
	if getsockopt(from, unix.SOL_SOCKET, unix.SO_BUF_LOCK, unsafe.Pointer(&lock), 4) != 0 || lock == 0 {
		return 0
	}
	for _, buffer := range [...]struct {
		lock             int32
		name, privileged int
	}{
		{sndbufLock, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE},
		{rcvbufLock, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE},
	} {
		var size int32
		if lock&buffer.lock == 0 || getsockopt(from, unix.SOL_SOCKET, buffer.name, unsafe.Pointer(&size), 4) != 0 {
			continue
		}
		size /= 2 // socket(7): the kernel doubles what is set
		// A size above rmem_max was set with a privilege; without it, as much as is allowed.
		if setsockopt(to, unix.SOL_SOCKET, buffer.privileged, unsafe.Pointer(&size), 4) != 0 {
			if errno := setsockopt(to, unix.SOL_SOCKET, buffer.name, unsafe.Pointer(&size), 4); errno != 0 {
				return errno
			}
		}
	}
	return 0
}
