package siit

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	IPProtocol       = 52 // IP_PROTOCOL, linux/in.h
	SizeofInPktinfo  = 12 // struct in_pktinfo
	SizeofIn6Pktinfo = 20 // struct in6_pktinfo
)

// appendControl6 appends what a control message of a socket of the program's, which is of the
// family from, is on an AF_INET6 one in its place. What is wrong with it is what ip_cmsg_send in
// net/ipv4/ip_sockglue.c says.
func appendControl6(out []byte, m Control, from int) ([]byte, unix.Errno) {
	var value [SizeofIn6Pktinfo]byte
	integer := func(low, high int32, bytes int) unix.Errno {
		var v int32
		switch {
		case len(m.Data) == 4:
			v = int32(binary.NativeEndian.Uint32(m.Data))
		case len(m.Data) == bytes:
			v = int32(m.Data[0])
		default:
			return unix.EINVAL
		}
		if v < low || v > high {
			return unix.EINVAL
		}
		binary.NativeEndian.PutUint32(value[:], uint32(v))
		return 0
	}
	switch m.Level {
	case unix.IPPROTO_IPV6:
		if m.Name == unix.IPV6_PKTINFO && from == unix.AF_INET6 {
			if len(m.Data) < SizeofIn6Pktinfo || !netip.AddrFrom16([16]byte(m.Data[:16])).Is4In6() {
				return out, unix.EINVAL
			}
			copy(value[16:], m.Data[16:20])
			out = AppendControl(out, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, value[:])
		}
		return out, 0 // the others are not looked at, and on an AF_INET socket none is
	case unix.IPPROTO_IP:
	default:
		return AppendControl(out, m.Level, m.Name, m.Data), 0
	}
	switch m.Name {
	case unix.IP_RETOPTS: // there are no such options in IPv6
	case unix.IP_PKTINFO:
		if len(m.Data) != SizeofInPktinfo {
			return out, unix.EINVAL
		}
		// The interface holds; the address is one of IPv4, in whose place is whatever the kernel
		// chooses.
		copy(value[16:], m.Data[:4])
		out = AppendControl(out, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, value[:])
	case unix.IP_TTL:
		if errno := integer(1, 255, 4); errno != 0 {
			return out, errno
		}
		out = AppendControl(out, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, value[:4])
	case unix.IP_TOS:
		if errno := integer(0, 255, 1); errno != 0 {
			return out, errno
		}
		out = AppendControl(out, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, value[:4])
	case IPProtocol: // of raw sockets
		if errno := integer(1, 255, 4); errno != 0 {
			return out, errno
		}
	default:
		return out, unix.EINVAL
	}
	return out, 0
}

// RefusedControl is a message of IPv6 that the kernel refuses with EINVAL if it has no data, as it
// does a wrong one of IPv4: ip6_datagram_send_ctl in net/ipv6/datagram.c.
const RefusedControl = unix.IPV6_TCLASS

// PktinfoTo4 makes a struct in_pktinfo of a struct in6_pktinfo: the interface holds, and the
// address is local.
func PktinfoTo4(info []byte, local netip.Addr) (to [SizeofInPktinfo]byte) {
	copy(to[:4], info[16:SizeofIn6Pktinfo])
	addr := local.As4()
	copy(to[4:], addr[:]) // ipi_spec_dst
	copy(to[8:], addr[:]) // ipi_addr
	return to
}

// Origins of an error: linux/errqueue.h.
const (
	SizeofExtendedErr = 16 // struct sock_extended_err
	originLocal       = 1  // SO_EE_ORIGIN_LOCAL
	originICMP        = 2
	originICMP6       = 3

	// The header of IPv6 is so much longer than that of IPv4, and so much shorter is an IPv4 packet
	// than what becomes of it.
	headerGrowth = 20
	minMTU       = 68 // RFC 791
)

// ErrorTo4 makes a struct sock_extended_err of ICMPv6 one of ICMP: RFC 7915 section 5.2, and for
// errno and info what icmp_err_convert in net/ipv4/icmp.c has.
func ErrorTo4(from [SizeofExtendedErr]byte) [SizeofExtendedErr]byte {
	errno, info := unix.Errno(binary.NativeEndian.Uint32(from[:])), binary.NativeEndian.Uint32(from[8:])
	origin, kind, code := from[4], from[5], from[6]
	to := from
	set := func(kind, code byte, errno unix.Errno, info uint32) {
		binary.NativeEndian.PutUint32(to[:], uint32(errno))
		to[4], to[5], to[6] = originICMP, kind, code
		binary.NativeEndian.PutUint32(to[8:], info)
	}
	narrower := func() uint32 { return max(info, minMTU+headerGrowth) - headerGrowth }
	const unreachable, timeExceeded, parameterProblem = 3, 11, 12 // RFC 792
	switch {
	case origin == originLocal && errno == unix.EMSGSIZE:
		binary.NativeEndian.PutUint32(to[8:], narrower())
	case origin != originICMP6:
	case kind == 1 && code == 4: // port unreachable
		set(unreachable, 3, unix.ECONNREFUSED, 0)
	case kind == 1 && (code == 1 || code == 5 || code == 6): // administratively prohibited
		set(unreachable, 10, unix.EHOSTUNREACH, 0)
	case kind == 1:
		set(unreachable, 1, unix.EHOSTUNREACH, 0)
	case kind == 2: // packet too big
		set(unreachable, 4, unix.EMSGSIZE, narrower())
	case kind == 3:
		set(timeExceeded, code, unix.EHOSTUNREACH, 0)
	case kind == 4 && code == 1: // unrecognized next header
		set(unreachable, 2, unix.ENOPROTOOPT, 0)
	case kind == 4:
		set(parameterProblem, 0, unix.EPROTO, pointerTo4(info))
	default:
		set(unreachable, 1, errno, 0)
	}
	return to
}

// pointerTo4 returns where in an IPv4 header is what is at pointer in an IPv6 one: RFC 7915 section
// 5.2, figure 6.
func pointerTo4(pointer uint32) uint32 {
	switch {
	case pointer <= 1:
		return pointer // version and traffic class
	case pointer == 4, pointer == 5:
		return 2 // the length
	case pointer == 6:
		return 9 // the protocol
	case pointer == 7:
		return 8 // the hop limit
	case pointer >= 8 && pointer <= 23:
		return 12 // the source
	case pointer >= 24 && pointer <= 39:
		return 16 // the destination
	}
	return 0
}

// ControlBuffer is where control messages are put together. It is used again and again.
type ControlBuffer struct{ bytes []byte }

// ToSend makes of the control messages that a program sends, in its layout, those to send on its
// socket. Where that is an AF_INET6 one in the place of another, and sends to an IPv4
// destination, from is the family of the program's; else 0. Where there is nothing to change the
// result is raw. Else it is valid until the next call. The errno is what sendmsg(2) says to such
// messages; if there are messages all the same, the kernel says it to one of them, unless something
// else comes first.
func (b *ControlBuffer) ToSend(raw []byte, compat bool, from int) ([]byte, unix.Errno) {
	if len(raw) == 0 || !compat && !(from != 0 && mentionsIP(raw)) {
		return raw, 0
	}
	out, errno := controlToSend(b.bytes[:0], raw, compat, from)
	if out != nil {
		b.bytes = out
	}
	return out, errno
}

// controlToSend is toSend, and appends to out.
func controlToSend(out, raw []byte, compat bool, from int) ([]byte, unix.Errno) {
	if header, _ := ControlLayout(compat); compat && len(raw) < header {
		return nil, unix.EINVAL // cmsghdr_from_user_compat_to_kern in net/compat.c; natively it is as good as none
	}
	var wrong unix.Errno
	for {
		m, rest, ok, errno := TakeControl(raw, compat)
		switch {
		case errno != 0:
			return nil, errno // udp_cmsg_send in net/ipv4/udp.c looks at all lengths first
		case !ok:
			return out, wrong
		case from != 0:
			out, errno = appendControl6(out, m, from)
		default:
			out = AppendControl(out, m.Level, m.Name, m.Data)
		}
		if errno != 0 {
			wrong = errno
			out = AppendControl(out, unix.IPPROTO_IPV6, RefusedControl, nil)
		}
		raw = rest
	}
}

// mentionsIP reports whether a control message of IPv4 or IPv6 is among some.
func mentionsIP(raw []byte) bool {
	for {
		m, rest, ok, _ := TakeControl(raw, false)
		if !ok {
			return false
		}
		if m.Level == unix.IPPROTO_IP || m.Level == unix.IPPROTO_IPV6 {
			return true
		}
		raw = rest
	}
}
