package receive

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
)

// Getsockopt handles a stopped getsockopt(2).
func (w *Worker) Getsockopt(c *session.Call) session.Outcome {
	fd, p, family := w.crossedFD(c)
	if p == nil {
		return session.CarryOn
	}
	level, name := int(int32(c.Args[1])), int(int32(c.Args[2]))
	asked := session.Needs{Inet6: family == unix.AF_INET6, Unix: family == unix.AF_UNIX}
	if family == unix.AF_INET6 && p.Differs(level, name) {
		return w.tellInt(c, fd, level, name)
	}
	if !asksFor(asked, level, name) || family == unix.AF_INET6 && p.Family == unix.AF_INET6 && level == unix.IPPROTO_IPV6 {
		return session.CarryOn
	}
	optval, optlen := c.Args[3], c.Args[4]
	var raw [4]byte
	if target.ReadMemory(c.TID, optlen, raw[:]) != 0 {
		return w.refusal(p, level, name)
	}
	room := int32(binary.NativeEndian.Uint32(raw[:]))

	switch {
	case level == unix.SOL_SOCKET && name == linux.SoPeerName:
		var full [linux.SizeofSockaddrIn6]byte
		length, connected := p.Name(fd, family, true, &full)
		switch {
		case !connected:
			return session.Answer(unix.ENOTCONN)
		case room < 0 || length < int(room):
			return session.Answer(unix.EINVAL)
		}
		return w.putOption(c, optval, optlen, full[:room], uint32(room))
	case level == unix.SOL_SOCKET && name == unix.SO_ATTACH_FILTER && family == unix.AF_UNIX: // SO_GET_FILTER
		return w.tellFilter(c, p, optval, optlen, room)
	case level == unix.SOL_SOCKET && name == unix.SO_LOCK_FILTER && family == unix.AF_UNIX:
		value := make([]byte, 4)
		if p.Locked {
			value[0] = 1
		}
		if room < 0 {
			return session.Answer(unix.EINVAL)
		}
		n := min(int(room), 4)
		return w.putOption(c, optval, optlen, value[:n], uint32(n))
	}

	// What the program thinks it has answers for itself.
	like, errno := w.like(p)
	if errno != 0 {
		return session.CarryOn
	}
	defer linux.Close(like)
	value := make([]byte, min(max(room, 0), 64<<10)+1)
	length := uint32(min(room, 64<<10))
	_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(like), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return session.Answer(errno)
	}
	value = value[:min(int(length), len(value))]
	if level == unix.IPPROTO_TCP && name == unix.TCP_INFO && len(value) > 0 {
		_, connected := p.Name(fd, family, true, new([linux.SizeofSockaddrIn6]byte))
		fillTCPInfo(value, connected)
	}
	return w.putOption(c, optval, optlen, value, length)
}

// ipv6HeaderMore is how much longer an IPv6 header is than an IPv4 one.
const ipv6HeaderMore = 20

// tellInt answers for an option that an AF_INET6 socket itself has, but not quite as IPv4 has it.
// Only the socket itself knows SO_ERROR, and no more once it has been read: so it is read when all
// else is in order.
func (w *Worker) tellInt(c *session.Call, fd, level, name int) session.Outcome {
	optval, optlen := c.Args[3], c.Args[4]
	var raw, value [4]byte
	if target.ReadMemory(c.TID, optlen, raw[:]) != 0 {
		return session.Answer(unix.EFAULT)
	}
	room := int32(binary.NativeEndian.Uint32(raw[:]))
	if room < 0 {
		return session.Answer(unix.EINVAL)
	}
	if errno := linux.Getsockopt(fd, level, name, unsafe.Pointer(&value), 4); errno != 0 {
		return session.Answer(errno)
	}
	n := binary.NativeEndian.Uint32(value[:])
	switch {
	case name == unix.SO_ERROR && level == unix.SOL_SOCKET:
		n = uint32(siit.InetErrno(unix.Errno(n)))
	case n > ipv6HeaderMore:
		n -= ipv6HeaderMore
	}
	binary.NativeEndian.PutUint32(value[:], n)
	length := min(room, 4)
	return w.putOption(c, optval, optlen, value[:length], uint32(length))
}

// refusal is for a getsockopt(2) whose length cannot be read: EFAULT, unless something else is
// wrong with it first.
func (w *Worker) refusal(p *passport.Passport, level, name int) session.Outcome {
	like, errno := w.like(p)
	if errno != 0 {
		return session.Answer(unix.EFAULT)
	}
	defer linux.Close(like)
	_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(like), uintptr(level), uintptr(name), 0, 0, 0)
	return session.Answer(errno)
}

// askedOption is a socket option that tells of the family of a socket when it is read.
type askedOption struct{ Level, Name int }

// AnyOption stands for all options of a level.
const AnyOption = -1

var (
	askedOfInet6 = []askedOption{
		{unix.SOL_SOCKET, unix.SO_DOMAIN}, {unix.SOL_SOCKET, unix.SO_PROTOCOL}, {unix.SOL_SOCKET, linux.SoPeerName},
		{unix.IPPROTO_IP, unix.IP_OPTIONS}, {unix.IPPROTO_IPV6, AnyOption}, {unix.SOL_SOCKET, unix.SO_ERROR}, {unix.IPPROTO_IP, unix.IP_MTU},
	}
	askedOfUnix = []askedOption{
		{unix.SOL_SOCKET, unix.SO_DOMAIN}, {unix.SOL_SOCKET, unix.SO_PROTOCOL}, {unix.SOL_SOCKET, linux.SoPeerName},
		{unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, {unix.SOL_SOCKET, unix.SO_LOCK_FILTER}, // the first is SO_GET_FILTER too
		{unix.SOL_SOCKET, unix.SO_PEERCRED}, {unix.SOL_SOCKET, unix.SO_PEERSEC}, {unix.SOL_SOCKET, unix.SO_PEERGROUPS}, {unix.SOL_SOCKET, linux.SoPeerPidfd},
		{unix.IPPROTO_TCP, AnyOption}, {unix.IPPROTO_UDP, AnyOption}, {unix.IPPROTO_IP, AnyOption}, {unix.IPPROTO_IPV6, AnyOption},
	}
)

// AskedOptions returns the options whose getsockopt(2) is stopped.
func AskedOptions(n session.Needs) (list []askedOption) {
	if n.Inet6 {
		list = append(list, askedOfInet6...)
	}
	if n.Unix {
		list = append(list, askedOfUnix...)
	}
	return list
}

// asksFor reports whether an option is one of AskedOptions.
func asksFor(n session.Needs, level, name int) bool {
	return slices.ContainsFunc(AskedOptions(n), func(o askedOption) bool {
		return o.Level == level && (o.Name == name || o.Name == AnyOption)
	})
}

// putOption gives the target the value of an option, and its length.
func (w *Worker) putOption(c *session.Call, optval, optlen uint64, value []byte, length uint32) session.Outcome {
	if len(value) > 0 && target.WriteMemory(c.TID, optval, value) != 0 {
		return session.Answer(unix.EFAULT)
	}
	var raw [4]byte
	binary.NativeEndian.PutUint32(raw[:], length)
	if target.WriteMemory(c.TID, optlen, raw[:]) != 0 {
		return session.Answer(unix.EFAULT)
	}
	return session.Answer(0)
}

// like makes a socket of the kind that the program thinks it has, with the options that it has set;
// the caller owns it.
func (w *Worker) like(p *passport.Passport) (int, unix.Errno) {
	fd, errno := linux.NewSocket(p.Family, linux.KindOf(p.Proto), p.Proto)
	if errno != 0 {
		return -1, errno
	}
	for i := range p.Options {
		o := &p.Options[i]
		set(fd, o.Level, o.Name, o.Value)
	}
	return fd, 0
}

// set sets an option of the socket fd, to a value that may be empty.
func set(fd, level, name int, value []byte) unix.Errno {
	var at unsafe.Pointer
	if len(value) > 0 {
		at = unsafe.Pointer(&value[0])
	}
	return linux.Setsockopt(fd, level, name, at, uintptr(len(value)))
}

// fillTCPInfo makes a struct tcp_info, which is of a socket that is not connected, plausible for a
// connection within the host: linux/tcp.h.
func fillTCPInfo(info []byte, connected bool) {
	if !connected {
		return
	}
	const established = 1 // TCP_ESTABLISHED
	info[0] = established
	for _, field := range []struct {
		at    int
		value uint32
	}{
		{8, 200000},             // tcpi_rto, us
		{16, 1448},              // tcpi_snd_mss
		{20, 1448},              // tcpi_rcv_mss
		{60, 1500},              // tcpi_pmtu
		{64, 65535},             // tcpi_rcv_ssthresh
		{68, 50},                // tcpi_rtt, us
		{72, 25},                // tcpi_rttvar
		{76, 1<<31 - 1},         // tcpi_snd_ssthresh
		{80, 10},                // tcpi_snd_cwnd
		{84, 1448},              // tcpi_advmss
		{96, uint32(1448 * 10)}, // tcpi_rcv_space
	} {
		if field.at+4 <= len(info) {
			binary.NativeEndian.PutUint32(info[field.at:], field.value)
		}
	}
}

// tellFilter answers SO_GET_FILTER: sk_get_filter in net/core/filter.c.
func (w *Worker) tellFilter(c *session.Call, p *passport.Passport, optval, optlen uint64, room int32) session.Outcome {
	count := len(p.Filter)
	switch {
	case room < 0:
		return session.Answer(unix.EINVAL)
	case room == 0 || count == 0:
		return w.putOption(c, optval, optlen, nil, uint32(count))
	case int(room) < count:
		return session.Answer(unix.EINVAL)
	}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&p.Filter[0])), count*int(unsafe.Sizeof(p.Filter[0])))
	return w.putOption(c, optval, optlen, bytes, uint32(count))
}

// SetCrossed handles a stopped setsockopt(2): it makes it, if the socket has been replaced by one
// of another family.
func (w *Worker) SetCrossed(c *session.Call) session.Outcome {
	if !w.s.Needs.Crosses() {
		return session.CarryOn
	}
	fd, p, family := w.crossedFD(c)
	if p == nil {
		return session.CarryOn
	}
	level, name := int(int32(c.Args[1])), int(int32(c.Args[2]))
	if level == unix.SOL_SOCKET {
		if family == unix.AF_UNIX {
			return w.setUnixFilter(c, p, fd, name)
		}
		return session.CarryOn
	}
	if family == unix.AF_INET6 && (p.Family == unix.AF_INET6 || level != unix.IPPROTO_IP && level != unix.IPPROTO_IPV6) {
		return session.CarryOn
	}
	length := int32(c.Args[4])
	if length < 0 {
		return session.Answer(unix.EINVAL)
	}
	value := make([]byte, min(length, 4096))
	if len(value) > 0 && target.ReadMemory(c.TID, c.Args[3], value) != 0 {
		return w.setNowhere(p, level, name, len(value))
	}
	if family == unix.AF_INET6 && level == unix.IPPROTO_IP && name != unix.IP_OPTIONS {
		errno := set(fd, level, name, value)
		if errno == 0 {
			sockstate.MapOption(fd, name)
		}
		return session.Answer(errno)
	}
	// As the socket takes it that the program thinks it has; that is all there is to it if it is an
	// IPv6 one now.
	like, errno := w.like(p)
	if errno != 0 {
		return session.CarryOn
	}
	defer linux.Close(like)
	if errno := set(like, level, name, value); errno != 0 || family == unix.AF_INET6 {
		return session.Answer(errno)
	}
	if level == unix.IPPROTO_IP && name == unix.IP_TOS { // which sets this too
		sockstate.CopyOption(like, fd, unix.SOL_SOCKET, unix.SO_PRIORITY)
	}
	if !p.Remember(level, name, value) || p.PutOnUnix(fd) != 0 {
		w.s.Log.Debug("a socket option of a Unix socket is not remembered", "level", level, "option", name)
	}
	return session.Answer(0)
}

// setNowhere is for a setsockopt(2) whose value cannot be read: EFAULT, unless something else is
// wrong with it first.
func (w *Worker) setNowhere(p *passport.Passport, level, name, length int) session.Outcome {
	like, errno := w.like(p)
	if errno != 0 {
		return session.Answer(unix.EFAULT)
	}
	defer linux.Close(like)
	const nowhere = 8
	_, _, errno = unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(like), uintptr(level), uintptr(name), nowhere, uintptr(length), 0)
	return session.Answer(errno)
}

// setUnixFilter handles what the program does to the filter of a socket that is a Unix one now,
// where it is never run: the passport must survive it.
func (w *Worker) setUnixFilter(c *session.Call, p *passport.Passport, fd, name int) session.Outcome {
	switch name {
	case unix.SO_ATTACH_FILTER, unix.SO_ATTACH_BPF, unix.SO_DETACH_FILTER, unix.SO_LOCK_FILTER,
		unix.SO_ATTACH_REUSEPORT_CBPF, unix.SO_ATTACH_REUSEPORT_EBPF:
	case unix.SO_PASSCRED, unix.SO_PASSSEC:
		return session.Answer(0)
	default:
		return session.CarryOn
	}
	length := int32(c.Args[4])
	var value [16]byte
	room := int(min(max(length, 0), int32(len(value))))
	read := func(n int) unix.Errno {
		if room < n {
			return unix.EINVAL
		}
		if target.ReadMemory(c.TID, c.Args[3], value[:n]) != 0 {
			return unix.EFAULT
		}
		return 0
	}
	if p.Locked && name != unix.SO_LOCK_FILTER {
		return session.Answer(unix.EPERM)
	}
	switch name {
	case unix.SO_LOCK_FILTER:
		if errno := read(4); errno != 0 {
			return session.Answer(errno)
		}
		on := binary.NativeEndian.Uint32(value[:]) != 0
		if p.Locked && !on {
			return session.Answer(unix.EPERM)
		}
		p.Locked = on
	case unix.SO_DETACH_FILTER:
		if len(p.Filter) == 0 {
			return session.Answer(unix.ENOENT)
		}
		p.Filter = nil
	case unix.SO_ATTACH_FILTER:
		fprog, at := 16, 8 // struct sock_fprog: a count, a pointer
		if c.Compat {
			fprog, at = 8, 4
		}
		if int(length) != fprog {
			return session.Answer(unix.EINVAL)
		}
		if errno := read(fprog); errno != 0 {
			return session.Answer(errno)
		}
		count := int(binary.NativeEndian.Uint16(value[:]))
		from := uint64(binary.NativeEndian.Uint32(value[at:]))
		if !c.Compat {
			from = binary.NativeEndian.Uint64(value[at:])
		}
		if count == 0 || count > passport.MaxInstructions {
			return session.Answer(unix.EINVAL)
		}
		filter := make([]unix.SockFilter, count)
		if target.ReadMemory(c.TID, from, unsafe.Slice((*byte)(unsafe.Pointer(&filter[0])), count*int(unsafe.Sizeof(filter[0])))) != 0 {
			return session.Answer(unix.EFAULT)
		}
		p.Filter = filter
	default:
		// eBPF: it would have no effect, and cannot be put behind the passport.
		return session.Answer(unix.EPERM)
	}
	return session.Answer(p.PutOnUnix(fd))
}
