package sockstate

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// mappedOption is an IPv4 option that has a counterpart of IPv6, which is what then has an effect.
// An AF_INET6 socket takes the IPv4 one too, so that a program reads what it has set.
type mappedOption struct {
	Inet, Inet6 int
	row         int // of inet in sockopts
}

// MappedOptions are all of them.
var MappedOptions = []mappedOption{
	{Inet: unix.IP_TOS, Inet6: unix.IPV6_TCLASS},
	{Inet: unix.IP_TTL, Inet6: unix.IPV6_UNICAST_HOPS},
	{Inet: unix.IP_MTU_DISCOVER, Inet6: unix.IPV6_MTU_DISCOVER},
	{Inet: unix.IP_RECVERR, Inet6: unix.IPV6_RECVERR},
	{Inet: unix.IP_MINTTL, Inet6: unix.IPV6_MINHOPCOUNT},
	{Inet: unix.IP_UNICAST_IF, Inet6: unix.IPV6_UNICAST_IF},
	{Inet: unix.IP_RECVERR_RFC4884, Inet6: unix.IPV6_RECVERR_RFC4884},
	// What comes with datagrams: recv.go makes IPv4 control messages of it again.
	{Inet: unix.IP_PKTINFO, Inet6: unix.IPV6_RECVPKTINFO},
	{Inet: unix.IP_RECVTTL, Inet6: unix.IPV6_RECVHOPLIMIT},
	{Inet: unix.IP_RECVTOS, Inet6: unix.IPV6_RECVTCLASS},
	{Inet: unix.IP_RECVORIGDSTADDR, Inet6: IPv6OrigDstAddr},
	{Inet: unix.IP_RECVFRAGSIZE, Inet6: IPv6RecvFragSize},
}

// CopyMapped gives an AF_INET6 socket the counterparts of what has been set on an old AF_INET one,
// and differs from d.
func CopyMapped(d *Defaults, used *OptionsUsed, old, to int) {
	for _, m := range MappedOptions {
		var value [MaxSockopt]byte
		if !used.Has(m.row) || linux.Getsockopt(old, unix.IPPROTO_IP, m.Inet, unsafe.Pointer(&value), 4) != 0 ||
			[4]byte(value[:4]) == [4]byte(d.Values[m.row][:4]) {
			continue
		}
		linux.Setsockopt(to, unix.IPPROTO_IPV6, m.Inet6, unsafe.Pointer(&value), 4)
	}
}

// MapOption has an IPv4 option that has just been set on an AF_INET6 socket take effect.
func MapOption(fd, name int) {
	for _, m := range MappedOptions {
		var value int32
		if m.Inet == name && linux.Getsockopt(fd, unix.IPPROTO_IP, name, unsafe.Pointer(&value), 4) == 0 {
			linux.Setsockopt(fd, unix.IPPROTO_IPV6, m.Inet6, unsafe.Pointer(&value), 4)
		}
	}
}

// CopyOption copies an option that is an int.
func CopyOption(from, to, level, name int) {
	var value int32
	if linux.Getsockopt(from, level, name, unsafe.Pointer(&value), 4) == 0 {
		linux.Setsockopt(to, level, name, unsafe.Pointer(&value), 4)
	}
}
