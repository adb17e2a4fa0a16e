package upconv

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// mappedOption is an IPv4 option that has a counterpart of IPv6, which is what then has an effect.
// An AF_INET6 socket takes the IPv4 one too, so that a program reads what it has set.
type mappedOption struct {
	inet, inet6 int
	row         int // of inet in sockopts
}

var mappedOptions = []mappedOption{
	{inet: unix.IP_TOS, inet6: unix.IPV6_TCLASS},
	{inet: unix.IP_TTL, inet6: unix.IPV6_UNICAST_HOPS},
	{inet: unix.IP_MTU_DISCOVER, inet6: unix.IPV6_MTU_DISCOVER},
	{inet: unix.IP_RECVERR, inet6: unix.IPV6_RECVERR},
	{inet: unix.IP_MINTTL, inet6: unix.IPV6_MINHOPCOUNT},
	{inet: unix.IP_UNICAST_IF, inet6: unix.IPV6_UNICAST_IF},
	{inet: unix.IP_RECVERR_RFC4884, inet6: unix.IPV6_RECVERR_RFC4884},
	// What comes with datagrams: recv.go makes IPv4 control messages of it again.
	{inet: unix.IP_PKTINFO, inet6: unix.IPV6_RECVPKTINFO},
	{inet: unix.IP_RECVTTL, inet6: unix.IPV6_RECVHOPLIMIT},
	{inet: unix.IP_RECVTOS, inet6: unix.IPV6_RECVTCLASS},
	{inet: unix.IP_RECVORIGDSTADDR, inet6: ipv6OrigDstAddr},
	{inet: unix.IP_RECVFRAGSIZE, inet6: ipv6RecvFragSize},
}

// copyMapped gives an AF_INET6 socket the counterparts of what has been set on an old AF_INET one, and
// differs from d.
func copyMapped(d *defaults, used *optionsUsed, old, to int) {
	for _, m := range mappedOptions {
		var value [maxSockopt]byte
		if !used.has(m.row) || linux.Getsockopt(old, unix.IPPROTO_IP, m.inet, unsafe.Pointer(&value), 4) != 0 ||
			[4]byte(value[:4]) == [4]byte(d.values[m.row][:4]) {
			continue
		}
		linux.Setsockopt(to, unix.IPPROTO_IPV6, m.inet6, unsafe.Pointer(&value), 4)
	}
}

// mapOption has an IPv4 option that has just been set on an AF_INET6 socket take effect.
func mapOption(fd, name int) {
	for _, m := range mappedOptions {
		var value int32
		if m.inet == name && linux.Getsockopt(fd, unix.IPPROTO_IP, name, unsafe.Pointer(&value), 4) == 0 {
			linux.Setsockopt(fd, unix.IPPROTO_IPV6, m.inet6, unsafe.Pointer(&value), 4)
		}
	}
}

// copyOption copies an option that is an int.
func copyOption(from, to, level, name int) {
	var value int32
	if linux.Getsockopt(from, level, name, unsafe.Pointer(&value), 4) == 0 {
		linux.Setsockopt(to, level, name, unsafe.Pointer(&value), 4)
	}
}
