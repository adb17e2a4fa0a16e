package receive

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// source returns what the program is told as the source of a datagram, whose own is the first
// length bytes of b.name. ipv4 is whether that is an IPv4 address for it, and mapped whether the
// datagram has really been one of IPv4.
func (r *reception) source(b *receiveBuffers, length int) (name []byte, ipv4, mapped bool) {
	p := &r.pass
	var from netip.AddrPort
	switch {
	case r.family == unix.AF_UNIX:
		from = p.Peer
	case length < linux.SizeofSockaddrIn6:
		return nil, p.Family == unix.AF_INET, false // none, as with what is not an error in the error queue
	default:
		real := linux.Inet6Destination(b.name[:])
		mapped = real.Addr().Is4In6()
		v4, ok := r.s.OriginalAddr(real.Addr(), p)
		switch {
		case ok:
		case p.Family == unix.AF_INET6: // it may also hear from those that have no IPv4 address
			return b.name[:linux.SizeofSockaddrIn6], false, false
		case linux.IsConnected(r.fd):
			v4 = p.Peer.Addr()
		default:
			v4 = crossing.DummyAddr
		}
		from = netip.AddrPortFrom(v4, real.Port())
	}
	return b.told[:p.Sockaddr(from, &b.told)], true, mapped
}

// translate makes of the control messages that have come with a datagram those of the socket that
// the program thinks it has.
func (r *reception) translate(to *siit.Controls, came *arrival) {
	from := came.control
	asIPv6 := r.pass.Family == unix.AF_INET6 && (came.mapped || !came.ipv4)
	for {
		m, rest, ok, _ := siit.TakeControl(from, false)
		if !ok {
			return
		}
		from = rest
		switch {
		case r.family == unix.AF_UNIX:
			if m.Level == unix.SOL_SOCKET && !ofUnix(m.Name) {
				to.Put(m.Level, m.Name, m.Data) // a timestamp
			}
		case m.Level != unix.IPPROTO_IPV6 || asIPv6:
			to.Put(m.Level, m.Name, m.Data)
		case m.Name == unix.IPV6_RECVERR:
			r.putError(to, m.Data, came.mapped)
		case came.mapped: // then the kernel has given the IPv4 ones too
		case r.pass.Family == unix.AF_INET6:
			r.putMapped(to, m)
		default:
			r.putIPv4(to, m, m.Data)
		}
	}
}

// scmPidfd is SCM_PIDFD, linux/socket.h.
const scmPidfd = 4

// ofUnix reports whether a control message of SOL_SOCKET is one that only Unix sockets give:
// descriptors and credentials.
func ofUnix(name int) bool {
	switch name {
	case unix.SCM_RIGHTS, unix.SCM_CREDENTIALS, unix.SCM_SECURITY, scmPidfd:
		return true
	}
	return false
}

// dropDescriptors closes what has come with a datagram, since the program knows nothing of
// descriptors in datagrams.
func dropDescriptors(from []byte) {
	for {
		m, rest, ok, _ := siit.TakeControl(from, false)
		if !ok {
			return
		}
		from = rest
		if m.Level == unix.SOL_SOCKET && (m.Name == unix.SCM_RIGHTS || m.Name == scmPidfd) {
			for ; len(m.Data) >= 4; m.Data = m.Data[4:] {
				if fd := int32(binary.NativeEndian.Uint32(m.Data)); fd >= 0 {
					linux.Close(int(fd))
				}
			}
		}
	}
}

// putIPv4 gives the program the IPv4 control message that one of IPv6 stands for, if there is one.
// data is its content.
func (r *reception) putIPv4(to *siit.Controls, m siit.Control, data []byte) {
	switch m.Name {
	case unix.IPV6_PKTINFO:
		if len(data) >= siit.SizeofIn6Pktinfo {
			info := siit.PktinfoTo4(data, r.pass.Local)
			if r.flags&unix.MSG_ERRQUEUE != 0 {
				clear(info[4:8]) // nobody has looked up ipi_spec_dst
			}
			to.Put(unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
		}
	case unix.IPV6_HOPLIMIT:
		to.Put(unix.IPPROTO_IP, unix.IP_TTL, data)
	case unix.IPV6_TCLASS:
		if len(data) >= 4 {
			to.Put(unix.IPPROTO_IP, unix.IP_TOS, []byte{byte(binary.NativeEndian.Uint32(data))})
		}
	case sockstate.IPv6OrigDstAddr:
		if len(data) >= 4 {
			var name [linux.SizeofSockaddrIn6]byte
			own := passport.Passport{Family: unix.AF_INET}
			own.Sockaddr(netip.AddrPortFrom(r.pass.Local, binary.BigEndian.Uint16(data[2:])), &name)
			to.Put(unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, name[:linux.SizeofSockaddrIn])
		}
	case sockstate.IPv6RecvFragSize:
		to.Put(unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, data)
	}
}

// putMapped is putIPv4 for a program that has an AF_INET6 socket, on which IPv4 datagrams come with
// the control messages of IPv4 that it has asked for, and with IPV6_PKTINFO.
func (r *reception) putMapped(to *siit.Controls, m siit.Control) {
	var option int
	switch m.Name {
	case unix.IPV6_PKTINFO:
		if len(m.Data) < siit.SizeofIn6Pktinfo {
			return
		}
		var info [siit.SizeofIn6Pktinfo]byte
		addr := netip.AddrFrom16(r.pass.Local.As16()).As16()
		copy(info[:], addr[:])
		copy(info[16:], m.Data[16:])
		to.Put(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
		option = unix.IP_PKTINFO
	case unix.IPV6_HOPLIMIT:
		option = unix.IP_RECVTTL
	case unix.IPV6_TCLASS:
		option = unix.IP_RECVTOS
	case sockstate.IPv6OrigDstAddr:
		option = unix.IP_RECVORIGDSTADDR
	case sockstate.IPv6RecvFragSize:
		option = unix.IP_RECVFRAGSIZE
	default:
		return
	}
	var on int32
	if linux.Getsockopt(r.fd, unix.IPPROTO_IP, option, unsafe.Pointer(&on), 4) == 0 && on != 0 {
		r.putIPv4(to, m, m.Data)
	}
}

// putError gives the program an error of the error queue: ip_recv_error in net/ipv4/ip_sockglue.c
// and ipv6_recv_error in net/ipv6/datagram.c.
func (r *reception) putError(to *siit.Controls, data []byte, mapped bool) {
	if len(data) < siit.SizeofExtendedErr+linux.SizeofSockaddrIn6 {
		return
	}
	var value [siit.SizeofExtendedErr + linux.SizeofSockaddrIn6]byte
	ee := [siit.SizeofExtendedErr]byte(data)
	if !mapped {
		ee = siit.ErrorTo4(ee)
	}
	copy(value[:], ee[:])
	if offender := data[siit.SizeofExtendedErr:]; binary.NativeEndian.Uint16(offender) == unix.AF_INET6 {
		addr := r.s.Original(linux.Inet6Destination(offender), &r.pass)
		var name [linux.SizeofSockaddrIn6]byte
		r.pass.Sockaddr(addr, &name)
		copy(value[siit.SizeofExtendedErr:], name[:])
	}
	if r.pass.Family == unix.AF_INET6 {
		to.Put(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value[:])
	} else {
		to.Put(unix.IPPROTO_IP, unix.IP_RECVERR, value[:siit.SizeofExtendedErr+linux.SizeofSockaddrIn])
	}
}
