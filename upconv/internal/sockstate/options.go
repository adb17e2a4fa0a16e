package sockstate

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
)

// Option is one row of the table of what is copied onto a new socket.
type Option struct {
	Level, Name int
	Label       string  // its name in socket(7), ip(7), ipv6(7) or tcp(7), for events
	Size        uintptr // bytes of its value, at most MaxSockopt; 0: an int
	domain      int     // only for sockets of this family; 0: all
	// Always marks the options that programs set so often, or on connected sockets, that stopping
	// setsockopt(2) for them would cost more than to read them at every swap. See OptionsUsed for
	// the others.
	Always bool
	// Blind marks those of them that programs hardly set on connections: where sockets cannot be
	// looked at in the kernel, every read counts, and setsockopt(2) is stopped for these too.
	Blind bool
	// last marks options that setting another one changes too: they are looked at once more at the
	// end.
	last bool
	// mayFail marks options that cannot be set everywhere, or not by everybody.
	mayFail bool
	// Carry is for options that cannot be copied by reading a value and setting it.
	Carry func(row *Option, from, to int) (lost bool)
}

// MaxSockopt is the longest value that there is.
const MaxSockopt = 16

// Options that golang.org/x/sys/unix does not name: asm-generic/socket.h, linux/in.h, linux/in6.h,
// linux/tcp.h.
const (
	soNoFCS           = 43
	soTxRehash        = 74
	soRcvPriority     = 82
	soInq             = 84
	ipLocalPortRange  = 51
	IPv6FlowInfo      = 11
	ipv6FlowInfoSend  = 33
	IPv6OrigDstAddr   = 74
	IPv6RecvFragSize  = 77
	udpCork           = 1
	udpNoCheck6TX     = 101
	udpNoCheck6RX     = 102
	icmpFilter        = 1
	tcpAOAddKey       = 38
	tcpAOInfo         = 40
	tcpRTOMaxMS       = 44
	tcpRTOMinUS       = 45
	tcpDelackMaxUS    = 46
	soTimestampNew    = 63
	soTimestampNSNew  = 64
	soTimestampingNew = 65
	SoRcvTimeoNew     = 66
	SoSndTimeoNew     = 67
)

// Options is every socket option that a program can set before connect(2) and that outlives it. A
// row is copied if its value differs from what a fresh socket of the origin has, in this order.
var Options = []Option{
	{Level: unix.SOL_SOCKET, Name: unix.SO_REUSEADDR, Label: "SO_REUSEADDR", Always: true, Blind: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_KEEPALIVE, Label: "SO_KEEPALIVE", Always: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_LINGER, Label: "SO_LINGER", Size: unix.SizeofLinger, Always: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_RCVTIMEO, Label: "SO_RCVTIMEO", Size: unsafe.Sizeof(unix.Timeval{}), Always: true, Blind: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_SNDTIMEO, Label: "SO_SNDTIMEO", Size: unsafe.Sizeof(unix.Timeval{}), Always: true, Blind: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_SNDBUF, Label: "SO_SNDBUF or SO_RCVBUF", Always: true, Blind: true, Carry: CopyBuffers},
	{Level: unix.SOL_SOCKET, Name: unix.SO_RCVLOWAT, Label: "SO_RCVLOWAT", Always: true, Blind: true},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_NODELAY, Label: "TCP_NODELAY", Always: true},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_CORK, Label: "TCP_CORK", Always: true},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_QUICKACK, Label: "TCP_QUICKACK", Always: true},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_KEEPIDLE, Label: "TCP_KEEPIDLE", Always: true},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_KEEPINTVL, Label: "TCP_KEEPINTVL", Always: true},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_KEEPCNT, Label: "TCP_KEEPCNT", Always: true},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_V6ONLY, Label: "IPV6_V6ONLY", domain: unix.AF_INET6, Always: true},
	// The C library sets the first on every socket that it asks for names with, and Go the second
	// on every one for datagrams.
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVERR, Label: "IP_RECVERR", Always: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_BROADCAST, Label: "SO_BROADCAST", Always: true},
	// Name servers and QUIC set it on every socket that they ask a question with.
	{Level: unix.IPPROTO_IP, Name: unix.IP_MTU_DISCOVER, Label: "IP_MTU_DISCOVER", Always: true, Blind: true},
	{Level: unix.IPPROTO_UDP, Name: udpCork, Label: "UDP_CORK", Always: true},
	{Level: unix.IPPROTO_UDP, Name: udpNoCheck6TX, Label: "UDP_NO_CHECK6_TX", Always: true},
	{Level: unix.IPPROTO_UDP, Name: udpNoCheck6RX, Label: "UDP_NO_CHECK6_RX", Always: true},
	{Level: unix.IPPROTO_UDP, Name: unix.UDP_SEGMENT, Label: "UDP_SEGMENT", Always: true},
	{Level: unix.IPPROTO_UDP, Name: unix.UDP_GRO, Label: "UDP_GRO", Always: true},
	{Level: unix.SOL_RAW, Name: icmpFilter, Label: "ICMP_FILTER", Always: true},

	{Level: unix.SOL_SOCKET, Name: unix.SO_DEBUG, Label: "SO_DEBUG", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_DONTROUTE, Label: "SO_DONTROUTE"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_OOBINLINE, Label: "SO_OOBINLINE"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_NO_CHECK, Label: "SO_NO_CHECK"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_REUSEPORT, Label: "SO_REUSEPORT"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_PASSCRED, Label: "SO_PASSCRED"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_PASSSEC, Label: "SO_PASSSEC"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_BINDTODEVICE, Label: "SO_BINDTODEVICE", Carry: losesInterface},
	{Level: unix.SOL_SOCKET, Name: unix.SO_BINDTOIFINDEX, Label: "SO_BINDTOIFINDEX", Carry: losesInterface},
	{Level: unix.SOL_SOCKET, Name: unix.SO_TIMESTAMP, Label: "SO_TIMESTAMP"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_TIMESTAMPNS, Label: "SO_TIMESTAMPNS"},
	{Level: unix.SOL_SOCKET, Name: soTimestampNew, Label: "SO_TIMESTAMP_NEW"},
	{Level: unix.SOL_SOCKET, Name: soTimestampNSNew, Label: "SO_TIMESTAMPNS_NEW"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_TIMESTAMPING, Label: "SO_TIMESTAMPING", Size: 8},
	{Level: unix.SOL_SOCKET, Name: soTimestampingNew, Label: "SO_TIMESTAMPING_NEW", Size: 8},
	{Level: unix.SOL_SOCKET, Name: unix.SO_MARK, Label: "SO_MARK", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_RXQ_OVFL, Label: "SO_RXQ_OVFL"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_WIFI_STATUS, Label: "SO_WIFI_STATUS"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_PEEK_OFF, Label: "SO_PEEK_OFF"},
	{Level: unix.SOL_SOCKET, Name: soNoFCS, Label: "SO_NOFCS"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_SELECT_ERR_QUEUE, Label: "SO_SELECT_ERR_QUEUE"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_BUSY_POLL, Label: "SO_BUSY_POLL", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_PREFER_BUSY_POLL, Label: "SO_PREFER_BUSY_POLL", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_BUSY_POLL_BUDGET, Label: "SO_BUSY_POLL_BUDGET", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_MAX_PACING_RATE, Label: "SO_MAX_PACING_RATE", Size: 8},
	{Level: unix.SOL_SOCKET, Name: unix.SO_INCOMING_CPU, Label: "SO_INCOMING_CPU", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: unix.SO_ZEROCOPY, Label: "SO_ZEROCOPY"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_TXTIME, Label: "SO_TXTIME", Size: 8},
	{Level: unix.SOL_SOCKET, Name: unix.SO_RESERVE_MEM, Label: "SO_RESERVE_MEM", mayFail: true},
	{Level: unix.SOL_SOCKET, Name: soTxRehash, Label: "SO_TXREHASH"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_RCVMARK, Label: "SO_RCVMARK"},
	{Level: unix.SOL_SOCKET, Name: soRcvPriority, Label: "SO_RCVPRIORITY"},
	{Level: unix.SOL_SOCKET, Name: soInq, Label: "SO_INQ"},
	{Level: unix.SOL_SOCKET, Name: unix.SO_ATTACH_FILTER, Label: "SO_ATTACH_FILTER", Carry: copyFilter},
	{Level: unix.SOL_SOCKET, Name: unix.SO_ATTACH_BPF, Label: "SO_ATTACH_BPF", Carry: copyFilter},
	{Level: unix.SOL_SOCKET, Name: unix.SO_LOCK_FILTER, Label: "SO_LOCK_FILTER"},

	{Level: unix.IPPROTO_IP, Name: unix.IP_TOS, Label: "IP_TOS"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_TTL, Label: "IP_TTL"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_OPTIONS, Label: "IP_OPTIONS", Carry: copyIPOptions},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVOPTS, Label: "IP_RECVOPTS"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RETOPTS, Label: "IP_RETOPTS"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_PKTINFO, Label: "IP_PKTINFO"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVTTL, Label: "IP_RECVTTL"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVTOS, Label: "IP_RECVTOS"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_FREEBIND, Label: "IP_FREEBIND"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_PASSSEC, Label: "IP_PASSSEC"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_TRANSPARENT, Label: "IP_TRANSPARENT", mayFail: true},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVORIGDSTADDR, Label: "IP_RECVORIGDSTADDR"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_MINTTL, Label: "IP_MINTTL"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_CHECKSUM, Label: "IP_CHECKSUM"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_BIND_ADDRESS_NO_PORT, Label: "IP_BIND_ADDRESS_NO_PORT"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVFRAGSIZE, Label: "IP_RECVFRAGSIZE"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_RECVERR_RFC4884, Label: "IP_RECVERR_RFC4884"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_MULTICAST_IF, Label: "IP_MULTICAST_IF", mayFail: true},
	{Level: unix.IPPROTO_IP, Name: unix.IP_MULTICAST_TTL, Label: "IP_MULTICAST_TTL"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_MULTICAST_LOOP, Label: "IP_MULTICAST_LOOP"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_MULTICAST_ALL, Label: "IP_MULTICAST_ALL"},
	{Level: unix.IPPROTO_IP, Name: unix.IP_UNICAST_IF, Label: "IP_UNICAST_IF", Carry: losesInterface},
	{Level: unix.IPPROTO_IP, Name: ipLocalPortRange, Label: "IP_LOCAL_PORT_RANGE"},

	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_TCLASS, Label: "IPV6_TCLASS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_UNICAST_HOPS, Label: "IPV6_UNICAST_HOPS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_MULTICAST_HOPS, Label: "IPV6_MULTICAST_HOPS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_MULTICAST_LOOP, Label: "IPV6_MULTICAST_LOOP", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_MULTICAST_ALL, Label: "IPV6_MULTICAST_ALL", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_MTU_DISCOVER, Label: "IPV6_MTU_DISCOVER", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVERR, Label: "IPV6_RECVERR", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVERR_RFC4884, Label: "IPV6_RECVERR_RFC4884", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_2292PKTINFO, Label: "IPV6_2292PKTINFO", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_2292HOPOPTS, Label: "IPV6_2292HOPOPTS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_2292DSTOPTS, Label: "IPV6_2292DSTOPTS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_2292RTHDR, Label: "IPV6_2292RTHDR", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_2292HOPLIMIT, Label: "IPV6_2292HOPLIMIT", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: IPv6FlowInfo, Label: "IPV6_FLOWINFO", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: ipv6FlowInfoSend, Label: "IPV6_FLOWINFO_SEND", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_ROUTER_ALERT_ISOLATE, Label: "IPV6_ROUTER_ALERT_ISOLATE", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVPKTINFO, Label: "IPV6_RECVPKTINFO", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVHOPLIMIT, Label: "IPV6_RECVHOPLIMIT", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVHOPOPTS, Label: "IPV6_RECVHOPOPTS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVRTHDR, Label: "IPV6_RECVRTHDR", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVDSTOPTS, Label: "IPV6_RECVDSTOPTS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVPATHMTU, Label: "IPV6_RECVPATHMTU", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RECVTCLASS, Label: "IPV6_RECVTCLASS", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_HOPOPTS, Label: "IPV6_HOPOPTS", domain: unix.AF_INET6, Carry: copyVariable},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RTHDRDSTOPTS, Label: "IPV6_RTHDRDSTOPTS", domain: unix.AF_INET6, Carry: copyVariable},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_RTHDR, Label: "IPV6_RTHDR", domain: unix.AF_INET6, Carry: copyVariable},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_DSTOPTS, Label: "IPV6_DSTOPTS", domain: unix.AF_INET6, Carry: copyVariable},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_DONTFRAG, Label: "IPV6_DONTFRAG", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_AUTOFLOWLABEL, Label: "IPV6_AUTOFLOWLABEL", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_ADDR_PREFERENCES, Label: "IPV6_ADDR_PREFERENCES", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_MINHOPCOUNT, Label: "IPV6_MINHOPCOUNT", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: IPv6OrigDstAddr, Label: "IPV6_RECVORIGDSTADDR", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_TRANSPARENT, Label: "IPV6_TRANSPARENT", mayFail: true, domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_UNICAST_IF, Label: "IPV6_UNICAST_IF", domain: unix.AF_INET6, Carry: losesInterface},
	{Level: unix.IPPROTO_IPV6, Name: IPv6RecvFragSize, Label: "IPV6_RECVFRAGSIZE", domain: unix.AF_INET6},
	{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_FREEBIND, Label: "IPV6_FREEBIND", domain: unix.AF_INET6},

	{Level: unix.IPPROTO_TCP, Name: unix.TCP_SYNCNT, Label: "TCP_SYNCNT"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_LINGER2, Label: "TCP_LINGER2"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_DEFER_ACCEPT, Label: "TCP_DEFER_ACCEPT"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_WINDOW_CLAMP, Label: "TCP_WINDOW_CLAMP"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_CONGESTION, Label: "TCP_CONGESTION", Size: 16},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_MD5SIG, Label: "TCP_MD5SIG", Carry: losesAlways},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_MD5SIG_EXT, Label: "TCP_MD5SIG_EXT", Carry: losesAlways},
	{Level: unix.IPPROTO_TCP, Name: tcpAOAddKey, Label: "TCP_AO_ADD_KEY", Carry: losesAlways},
	{Level: unix.IPPROTO_TCP, Name: tcpAOInfo, Label: "TCP_AO_INFO", Carry: losesAlways},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_THIN_LINEAR_TIMEOUTS, Label: "TCP_THIN_LINEAR_TIMEOUTS"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_THIN_DUPACK, Label: "TCP_THIN_DUPACK"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_USER_TIMEOUT, Label: "TCP_USER_TIMEOUT"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_FASTOPEN, Label: "TCP_FASTOPEN"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_NOTSENT_LOWAT, Label: "TCP_NOTSENT_LOWAT"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_SAVE_SYN, Label: "TCP_SAVE_SYN"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_FASTOPEN_CONNECT, Label: "TCP_FASTOPEN_CONNECT"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_FASTOPEN_KEY, Label: "TCP_FASTOPEN_KEY", Carry: copyVariable},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_FASTOPEN_NO_COOKIE, Label: "TCP_FASTOPEN_NO_COOKIE"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_INQ, Label: "TCP_INQ"},
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_TX_DELAY, Label: "TCP_TX_DELAY"},
	{Level: unix.IPPROTO_TCP, Name: tcpRTOMaxMS, Label: "TCP_RTO_MAX_MS"},
	{Level: unix.IPPROTO_TCP, Name: tcpRTOMinUS, Label: "TCP_RTO_MIN_US"},
	{Level: unix.IPPROTO_TCP, Name: tcpDelackMaxUS, Label: "TCP_DELACK_MAX_US"},

	{Level: unix.IPPROTO_TCP, Name: unix.TCP_REPAIR, Label: "TCP_REPAIR"},

	{Level: unix.SOL_SOCKET, Name: unix.SO_BUF_LOCK, Label: "SO_BUF_LOCK", Carry: copyBufferLock},
	// IP_TOS and IPV6_TCLASS set it too.
	{Level: unix.SOL_SOCKET, Name: unix.SO_PRIORITY, Label: "SO_PRIORITY", last: true},
	// IP options make it smaller.
	{Level: unix.IPPROTO_TCP, Name: unix.TCP_MAXSEG, Label: "TCP_MAXSEG", last: true},
}

// OtherNames returns the options of SOL_SOCKET that set what the row is read for, too.
func (row *Option) OtherNames() []int {
	if row.Level != unix.SOL_SOCKET {
		return nil
	}
	switch row.Name {
	case unix.SO_SNDBUF:
		return []int{unix.SO_RCVBUF, unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE}
	case unix.SO_RCVTIMEO:
		return []int{SoRcvTimeoNew}
	case unix.SO_SNDTIMEO:
		return []int{SoSndTimeoNew}
	}
	return nil
}

// Levels are the levels whose options a TCP socket can have.
var Levels = []int{unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_IPV6, unix.IPPROTO_TCP}

// IsOf reports whether a socket can have the option.
func (row *Option) IsOf(s *Socket) bool {
	if row.domain != 0 && row.domain != s.Domain {
		return false
	}
	switch row.Level {
	case unix.IPPROTO_TCP:
		return s.Kind == unix.SOCK_STREAM
	case unix.IPPROTO_UDP:
		return s.Kind == unix.SOCK_DGRAM
	case unix.SOL_RAW:
		return s.Kind == unix.SOCK_RAW
	}
	return true
}

// RowOf returns the index of an option in sockopts, or -1.
func RowOf(level, name int) int {
	for i := range Options {
		if Options[i].Level == level && Options[i].Name == name {
			return i
		}
	}
	return -1
}

// rowSetBy returns the index of the row that setting an option concerns, or -1.
func rowSetBy(level, name int) int {
	if row := RowOf(level, name); row >= 0 || level != unix.SOL_SOCKET {
		return row
	}
	return slices.IndexFunc(Options, func(row Option) bool { return slices.Contains(row.OtherNames(), name) })
}

// OptionsUsed says which of the options that are not read at every swap any target has ever set: a
// hundred calls at every connect would be too many, and hardly any program sets even one of them.
// The filter stops setsockopt(2) for those, only to note it here; so it belongs to no socket or
// process, and what happens to sockets by dup, fork or SCM_RIGHTS does not matter.
type OptionsUsed struct {
	rows [3]atomic.Uint64 // a bit a row
	// noted are the rows that setsockopt(2) is stopped for although they are marked always: these
	// need not be read before anybody has set them. It does not change once the filter is made.
	noted [3]uint64
	Any   atomic.Bool // whether any row is set that is not always read
	// Owner is whether anybody has set who gets a socket's signals (F_SETOWN, F_SETSIG).
	Owner atomic.Bool
	// Others is whether SO_PROTOCOL alone may tell what a socket is that has the options of TCP:
	// somebody has made one of SMC, or has sockets of which nothing is known.
	Others atomic.Bool
	probe  sync.Once // has others be set if that is so of MPTCP, see newReads
}

// Set notes that a row has been set.
func (u *OptionsUsed) Set(row int) {
	if !Options[row].Always {
		u.Any.Store(true)
	}
	u.rows[row/64].Or(1 << (row % 64))
}

// Has reports whether a row has been set.
func (u *OptionsUsed) Has(row int) bool { return u.rows[row/64].Load()&(1<<(row%64)) != 0 }

// NoteSetting notes that somebody sets an option. It is false for one that has no row.
func (u *OptionsUsed) NoteSetting(level, name int) (known bool) {
	row := rowSetBy(level, name)
	if row >= 0 {
		u.Set(row)
	}
	return row >= 0
}

// snapshot returns what rows say.
func (u *OptionsUsed) snapshot() (rows [len(OptionsUsed{}.rows)]uint64) {
	for i := range u.rows {
		rows[i] = u.rows[i].Load()
	}
	return rows
}

// Note has the rows be told by the filter that it stops setsockopt(2) for. passes reports for which
// it does not.
func (u *OptionsUsed) Note(passes func(row *Option) bool) {
	for i := range Options {
		if row := &Options[i]; row.Always && slices.Contains(Levels, row.Level) && !passes(row) {
			u.noted[i/64] |= 1 << (i % 64)
		}
	}
}

// MustRead reports whether a row may have been set. One that is changed by others may always have
// been.
func (u *OptionsUsed) MustRead(row int) bool {
	r := &Options[row]
	return r.last || r.Always && u.noted[row/64]&(1<<(row%64)) == 0 || u.Has(row)
}

// SetAll is for when there is no telling: sockets that the program was given.
func (u *OptionsUsed) SetAll() {
	for i := range u.rows {
		u.rows[i].Store(^uint64(0))
	}
	u.Any.Store(true)
	u.Owner.Store(true)
	u.Others.Store(true)
}

// Defaults is what a fresh socket of the origin answers to each row of sockopts, by family. A
// program that has set nothing costs no setsockopt(2).
type Defaults struct {
	Known  atomic.Bool
	Values [192][MaxSockopt]byte // by row; len(sockopts) is checked at start
}

func init() {
	if len(Options) > len(Defaults{}.Values) || len(Options) > 64*len(OptionsUsed{}.rows) {
		panic("upconv: more sockopts than there is room for")
	}
	for i := range Options {
		if Options[i].Size == 0 {
			Options[i].Size = 4
		}
	}
	for i := range MappedOptions {
		MappedOptions[i].row = RowOf(unix.IPPROTO_IP, MappedOptions[i].Inet)
	}
}

// learn reads the defaults off a socket that nobody has touched.
func (d *Defaults) learn(fresh, domain int) {
	for i := range Options {
		if row := &Options[i]; (row.domain == 0 || row.domain == domain) && row.Carry == nil {
			linux.Getsockopt(fresh, row.Level, row.Name, unsafe.Pointer(&d.Values[i]), row.Size)
		}
	}
	d.Known.Store(true)
}

// CopyOptions gives the socket to the options that the socket from has and that differ from d. lost
// names those that could not be copied: they need a privilege that the target had and upconv has
// not, or mean nothing elsewhere. A connection without them is better than none. kept is whether to
// has been in use before: the program may have set options back since.
func (d *Defaults) CopyOptions(used *OptionsUsed, from, to int, sock *Socket, kept bool) (lost string) {
	rare := used.Any.Load()
	if sock.Domain == unix.AF_INET && !rare && !kept && sock.Reads.equalDefaults(d) {
		return ""
	}
	var value, now [MaxSockopt]byte
	var without []string
	for i := range Options {
		row := &Options[i]
		if !row.Always && !rare {
			break // these come behind those that are always read
		}
		if !row.IsOf(sock) || !used.MustRead(i) {
			continue
		}
		if row.Carry != nil {
			if !sock.Reads.tunesBuffers(i) && row.Carry(row, from, to) {
				without = append(without, row.Label)
			}
			continue
		}
		if sock.Reads.option(from, i, &value) != 0 {
			continue // not an option of this protocol or kernel: the program cannot have set it
		}
		isDefault := d.Known.Load() && bytes.Equal(value[:row.Size], d.Values[i][:row.Size])
		if row.last || kept {
			if linux.Getsockopt(to, row.Level, row.Name, unsafe.Pointer(&now), row.Size) == 0 && bytes.Equal(value[:row.Size], now[:row.Size]) {
				continue
			}
			if row.mayFail && isDefault {
				if linux.Setsockopt(from, row.Level, row.Name, unsafe.Pointer(&now), row.Size) != 0 {
					continue // it was lost on the way there, and nobody has set it back
				}
				linux.Setsockopt(from, row.Level, row.Name, unsafe.Pointer(&value), row.Size)
			}
		} else if isDefault {
			continue
		}
		if linux.Setsockopt(to, row.Level, row.Name, unsafe.Pointer(&value), row.Size) != 0 {
			without = append(without, row.Label)
		}
	}
	return strings.Join(without, ", ")
}

// SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK of SO_BUF_LOCK, linux/socket.h (Linux 5.15).
const (
	sndbufLock = 1
	rcvbufLock = 2
)

// CopyBuffers copies the buffer sizes that the program has set itself: setting one that it has
// not would switch the kernel's autotuning off.
func CopyBuffers(_ *Option, from, to int) (lost bool) {
	var lock int32
	if linux.Getsockopt(from, unix.SOL_SOCKET, unix.SO_BUF_LOCK, unsafe.Pointer(&lock), 4) != 0 || lock == 0 {
		return false
	}
	for _, buffer := range buffers {
		if lock&buffer.lock != 0 && !linux.CopyBuffer(from, to, buffer.name, buffer.privileged) {
			lost = true
		}
	}
	return lost
}

// copyBufferLock is for sockets whose sizes may have been set and released again for the kernel to
// tune.
func copyBufferLock(_ *Option, from, to int) (lost bool) {
	var lock int32
	if linux.Getsockopt(from, unix.SOL_SOCKET, unix.SO_BUF_LOCK, unsafe.Pointer(&lock), 4) != 0 {
		return false
	}
	for _, buffer := range buffers {
		var before, now int32
		linux.Getsockopt(from, unix.SOL_SOCKET, buffer.name, unsafe.Pointer(&before), 4)
		linux.Getsockopt(to, unix.SOL_SOCKET, buffer.name, unsafe.Pointer(&now), 4)
		if before != now && !linux.CopyBuffer(from, to, buffer.name, buffer.privileged) {
			lost = true
		}
	}
	return linux.Setsockopt(to, unix.SOL_SOCKET, unix.SO_BUF_LOCK, unsafe.Pointer(&lock), 4) != 0 || lost
}

var buffers = [...]struct {
	lock             int32
	name, privileged int
}{
	{sndbufLock, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE},
	{rcvbufLock, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE},
}

// copyVariable copies an option whose length varies and which is empty on a fresh socket.
func copyVariable(row *Option, from, to int) (lost bool) {
	var value [2048]byte // the most that IPv6 extension headers can be, RFC 8200
	length := uint32(len(value))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(from), uintptr(row.Level), uintptr(row.Name),
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&length)), 0); errno != 0 || length == 0 {
		return false
	}
	return linux.Setsockopt(to, row.Level, row.Name, unsafe.Pointer(&value), uintptr(length)) != 0
}

// copyFilter copies an attached classic filter. An eBPF one cannot be read back.
func copyFilter(_ *Option, from, to int) (lost bool) {
	program, errno := passport.AttachedFilter(from)
	if errno != 0 || len(program) == 0 {
		return errno == unix.EACCES
	}
	return passport.AttachFilter(to, program) != 0
}

// losesInterface is for options that name a network interface, by name or by index: elsewhere that
// is another one or none. The socket does without it, as the routes of the egress decide.
func losesInterface(row *Option, from, to int) (lost bool) {
	if linux.SameNetns(from, to) {
		return copyVariable(row, from, to)
	}
	var name [unix.IFNAMSIZ]byte
	length := uint32(len(name))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(from), uintptr(row.Level), uintptr(row.Name),
		uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&length)), 0)
	return errno == 0 && !linux.AllZero(name[:length])
}

// losesAlways is for keys that the kernel does not give out again. Which socket they were for is
// not known.
func losesAlways(*Option, int, int) (lost bool) { return true }

// copyIPOptions copies the program's IPv4 options, which a passport is not.
func copyIPOptions(row *Option, from, to int) (lost bool) {
	var p passport.Passport
	return !p.ReadFrom6(from) && copyVariable(row, from, to)
}

// EachSet calls do for each option of a socket that differs from what a fresh one has, and that can
// be read.
func (d *Defaults) EachSet(used *OptionsUsed, fd int, sock *Socket, do func(row *Option, value []byte)) {
	rare := used.Any.Load()
	for i := range Options {
		row := &Options[i]
		if !row.Always && !rare {
			break
		}
		if !row.IsOf(sock) || !used.MustRead(i) || row.Carry != nil {
			continue
		}
		var value [MaxSockopt]byte
		if linux.Getsockopt(fd, row.Level, row.Name, unsafe.Pointer(&value), row.Size) == 0 && !(d.Known.Load() && [MaxSockopt]byte(value) == d.Values[i]) {
			do(row, value[:row.Size])
		}
	}
}
