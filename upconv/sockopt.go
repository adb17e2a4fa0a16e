package upconv

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

// sockopt is one row of the table of what is copied onto a new socket.
type sockopt struct {
	level, name int
	label       string  // its name in socket(7), ip(7), ipv6(7) or tcp(7), for events
	size        uintptr // bytes of its value, at most maxSockopt; 0: an int
	domain      int     // only for sockets of this family; 0: all
	// always marks the options that programs set so often, or on connected sockets, that stopping
	// setsockopt(2) for them would cost more than to read them at every swap. See optionsUsed for
	// the others.
	always bool
	// blind marks those of them that programs hardly set on connections: where sockets cannot be
	// looked at in the kernel, every read counts, and setsockopt(2) is stopped for these too.
	blind bool
	// last marks options that setting another one changes too: they are looked at once more at the
	// end.
	last bool
	// mayFail marks options that cannot be set everywhere, or not by everybody.
	mayFail bool
	// carry is for options that cannot be copied by reading a value and setting it.
	carry func(row *sockopt, from, to int) (lost bool)
}

const maxSockopt = 16

// Options that golang.org/x/sys/unix does not name: asm-generic/socket.h, linux/in.h, linux/in6.h,
// linux/tcp.h.
const (
	soNoFCS           = 43
	soTxRehash        = 74
	soRcvPriority     = 82
	soInq             = 84
	ipLocalPortRange  = 51
	ipv6FlowInfo      = 11
	ipv6FlowInfoSend  = 33
	ipv6OrigDstAddr   = 74
	ipv6RecvFragSize  = 77
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
	soRcvTimeoNew     = 66
	soSndTimeoNew     = 67
)

// sockopts is every socket option that a program can set before connect(2) and that outlives it. A
// row is copied if its value differs from what a fresh socket of the origin has, in this order.
var sockopts = []sockopt{
	{level: unix.SOL_SOCKET, name: unix.SO_REUSEADDR, label: "SO_REUSEADDR", always: true, blind: true},
	{level: unix.SOL_SOCKET, name: unix.SO_KEEPALIVE, label: "SO_KEEPALIVE", always: true},
	{level: unix.SOL_SOCKET, name: unix.SO_LINGER, label: "SO_LINGER", size: unix.SizeofLinger, always: true},
	{level: unix.SOL_SOCKET, name: unix.SO_RCVTIMEO, label: "SO_RCVTIMEO", size: unsafe.Sizeof(unix.Timeval{}), always: true, blind: true},
	{level: unix.SOL_SOCKET, name: unix.SO_SNDTIMEO, label: "SO_SNDTIMEO", size: unsafe.Sizeof(unix.Timeval{}), always: true, blind: true},
	{level: unix.SOL_SOCKET, name: unix.SO_SNDBUF, label: "SO_SNDBUF or SO_RCVBUF", always: true, blind: true, carry: copyBuffers},
	{level: unix.SOL_SOCKET, name: unix.SO_RCVLOWAT, label: "SO_RCVLOWAT", always: true, blind: true},
	{level: unix.IPPROTO_TCP, name: unix.TCP_NODELAY, label: "TCP_NODELAY", always: true},
	{level: unix.IPPROTO_TCP, name: unix.TCP_CORK, label: "TCP_CORK", always: true},
	{level: unix.IPPROTO_TCP, name: unix.TCP_QUICKACK, label: "TCP_QUICKACK", always: true},
	{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPIDLE, label: "TCP_KEEPIDLE", always: true},
	{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPINTVL, label: "TCP_KEEPINTVL", always: true},
	{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPCNT, label: "TCP_KEEPCNT", always: true},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_V6ONLY, label: "IPV6_V6ONLY", domain: unix.AF_INET6, always: true},
	// The C library sets the first on every socket that it asks for names with, and Go the second
	// on every one for datagrams.
	{level: unix.IPPROTO_IP, name: unix.IP_RECVERR, label: "IP_RECVERR", always: true},
	{level: unix.SOL_SOCKET, name: unix.SO_BROADCAST, label: "SO_BROADCAST", always: true},
	// Name servers and QUIC set it on every socket that they ask a question with.
	{level: unix.IPPROTO_IP, name: unix.IP_MTU_DISCOVER, label: "IP_MTU_DISCOVER", always: true, blind: true},
	{level: unix.IPPROTO_UDP, name: udpCork, label: "UDP_CORK", always: true},
	{level: unix.IPPROTO_UDP, name: udpNoCheck6TX, label: "UDP_NO_CHECK6_TX", always: true},
	{level: unix.IPPROTO_UDP, name: udpNoCheck6RX, label: "UDP_NO_CHECK6_RX", always: true},
	{level: unix.IPPROTO_UDP, name: unix.UDP_SEGMENT, label: "UDP_SEGMENT", always: true},
	{level: unix.IPPROTO_UDP, name: unix.UDP_GRO, label: "UDP_GRO", always: true},
	{level: unix.SOL_RAW, name: icmpFilter, label: "ICMP_FILTER", always: true},

	{level: unix.SOL_SOCKET, name: unix.SO_DEBUG, label: "SO_DEBUG", mayFail: true},
	{level: unix.SOL_SOCKET, name: unix.SO_DONTROUTE, label: "SO_DONTROUTE"},
	{level: unix.SOL_SOCKET, name: unix.SO_OOBINLINE, label: "SO_OOBINLINE"},
	{level: unix.SOL_SOCKET, name: unix.SO_NO_CHECK, label: "SO_NO_CHECK"},
	{level: unix.SOL_SOCKET, name: unix.SO_REUSEPORT, label: "SO_REUSEPORT"},
	{level: unix.SOL_SOCKET, name: unix.SO_PASSCRED, label: "SO_PASSCRED"},
	{level: unix.SOL_SOCKET, name: unix.SO_PASSSEC, label: "SO_PASSSEC"},
	{level: unix.SOL_SOCKET, name: unix.SO_BINDTODEVICE, label: "SO_BINDTODEVICE", carry: losesInterface},
	{level: unix.SOL_SOCKET, name: unix.SO_BINDTOIFINDEX, label: "SO_BINDTOIFINDEX", carry: losesInterface},
	{level: unix.SOL_SOCKET, name: unix.SO_TIMESTAMP, label: "SO_TIMESTAMP"},
	{level: unix.SOL_SOCKET, name: unix.SO_TIMESTAMPNS, label: "SO_TIMESTAMPNS"},
	{level: unix.SOL_SOCKET, name: soTimestampNew, label: "SO_TIMESTAMP_NEW"},
	{level: unix.SOL_SOCKET, name: soTimestampNSNew, label: "SO_TIMESTAMPNS_NEW"},
	{level: unix.SOL_SOCKET, name: unix.SO_TIMESTAMPING, label: "SO_TIMESTAMPING", size: 8},
	{level: unix.SOL_SOCKET, name: soTimestampingNew, label: "SO_TIMESTAMPING_NEW", size: 8},
	{level: unix.SOL_SOCKET, name: unix.SO_MARK, label: "SO_MARK", mayFail: true},
	{level: unix.SOL_SOCKET, name: unix.SO_RXQ_OVFL, label: "SO_RXQ_OVFL"},
	{level: unix.SOL_SOCKET, name: unix.SO_WIFI_STATUS, label: "SO_WIFI_STATUS"},
	{level: unix.SOL_SOCKET, name: unix.SO_PEEK_OFF, label: "SO_PEEK_OFF"},
	{level: unix.SOL_SOCKET, name: soNoFCS, label: "SO_NOFCS"},
	{level: unix.SOL_SOCKET, name: unix.SO_SELECT_ERR_QUEUE, label: "SO_SELECT_ERR_QUEUE"},
	{level: unix.SOL_SOCKET, name: unix.SO_BUSY_POLL, label: "SO_BUSY_POLL", mayFail: true},
	{level: unix.SOL_SOCKET, name: unix.SO_PREFER_BUSY_POLL, label: "SO_PREFER_BUSY_POLL", mayFail: true},
	{level: unix.SOL_SOCKET, name: unix.SO_BUSY_POLL_BUDGET, label: "SO_BUSY_POLL_BUDGET", mayFail: true},
	{level: unix.SOL_SOCKET, name: unix.SO_MAX_PACING_RATE, label: "SO_MAX_PACING_RATE", size: 8},
	{level: unix.SOL_SOCKET, name: unix.SO_INCOMING_CPU, label: "SO_INCOMING_CPU", mayFail: true},
	{level: unix.SOL_SOCKET, name: unix.SO_ZEROCOPY, label: "SO_ZEROCOPY"},
	{level: unix.SOL_SOCKET, name: unix.SO_TXTIME, label: "SO_TXTIME", size: 8},
	{level: unix.SOL_SOCKET, name: unix.SO_RESERVE_MEM, label: "SO_RESERVE_MEM", mayFail: true},
	{level: unix.SOL_SOCKET, name: soTxRehash, label: "SO_TXREHASH"},
	{level: unix.SOL_SOCKET, name: unix.SO_RCVMARK, label: "SO_RCVMARK"},
	{level: unix.SOL_SOCKET, name: soRcvPriority, label: "SO_RCVPRIORITY"},
	{level: unix.SOL_SOCKET, name: soInq, label: "SO_INQ"},
	{level: unix.SOL_SOCKET, name: unix.SO_ATTACH_FILTER, label: "SO_ATTACH_FILTER", carry: copyFilter},
	{level: unix.SOL_SOCKET, name: unix.SO_ATTACH_BPF, label: "SO_ATTACH_BPF", carry: copyFilter},
	{level: unix.SOL_SOCKET, name: unix.SO_LOCK_FILTER, label: "SO_LOCK_FILTER"},

	{level: unix.IPPROTO_IP, name: unix.IP_TOS, label: "IP_TOS"},
	{level: unix.IPPROTO_IP, name: unix.IP_TTL, label: "IP_TTL"},
	{level: unix.IPPROTO_IP, name: unix.IP_OPTIONS, label: "IP_OPTIONS", carry: copyIPOptions},
	{level: unix.IPPROTO_IP, name: unix.IP_RECVOPTS, label: "IP_RECVOPTS"},
	{level: unix.IPPROTO_IP, name: unix.IP_RETOPTS, label: "IP_RETOPTS"},
	{level: unix.IPPROTO_IP, name: unix.IP_PKTINFO, label: "IP_PKTINFO"},
	{level: unix.IPPROTO_IP, name: unix.IP_RECVTTL, label: "IP_RECVTTL"},
	{level: unix.IPPROTO_IP, name: unix.IP_RECVTOS, label: "IP_RECVTOS"},
	{level: unix.IPPROTO_IP, name: unix.IP_FREEBIND, label: "IP_FREEBIND"},
	{level: unix.IPPROTO_IP, name: unix.IP_PASSSEC, label: "IP_PASSSEC"},
	{level: unix.IPPROTO_IP, name: unix.IP_TRANSPARENT, label: "IP_TRANSPARENT", mayFail: true},
	{level: unix.IPPROTO_IP, name: unix.IP_RECVORIGDSTADDR, label: "IP_RECVORIGDSTADDR"},
	{level: unix.IPPROTO_IP, name: unix.IP_MINTTL, label: "IP_MINTTL"},
	{level: unix.IPPROTO_IP, name: unix.IP_CHECKSUM, label: "IP_CHECKSUM"},
	{level: unix.IPPROTO_IP, name: unix.IP_BIND_ADDRESS_NO_PORT, label: "IP_BIND_ADDRESS_NO_PORT"},
	{level: unix.IPPROTO_IP, name: unix.IP_RECVFRAGSIZE, label: "IP_RECVFRAGSIZE"},
	{level: unix.IPPROTO_IP, name: unix.IP_RECVERR_RFC4884, label: "IP_RECVERR_RFC4884"},
	{level: unix.IPPROTO_IP, name: unix.IP_MULTICAST_IF, label: "IP_MULTICAST_IF", mayFail: true},
	{level: unix.IPPROTO_IP, name: unix.IP_MULTICAST_TTL, label: "IP_MULTICAST_TTL"},
	{level: unix.IPPROTO_IP, name: unix.IP_MULTICAST_LOOP, label: "IP_MULTICAST_LOOP"},
	{level: unix.IPPROTO_IP, name: unix.IP_MULTICAST_ALL, label: "IP_MULTICAST_ALL"},
	{level: unix.IPPROTO_IP, name: unix.IP_UNICAST_IF, label: "IP_UNICAST_IF", carry: losesInterface},
	{level: unix.IPPROTO_IP, name: ipLocalPortRange, label: "IP_LOCAL_PORT_RANGE"},

	{level: unix.IPPROTO_IPV6, name: unix.IPV6_TCLASS, label: "IPV6_TCLASS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_UNICAST_HOPS, label: "IPV6_UNICAST_HOPS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_MULTICAST_HOPS, label: "IPV6_MULTICAST_HOPS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_MULTICAST_LOOP, label: "IPV6_MULTICAST_LOOP", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_MULTICAST_ALL, label: "IPV6_MULTICAST_ALL", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_MTU_DISCOVER, label: "IPV6_MTU_DISCOVER", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVERR, label: "IPV6_RECVERR", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVERR_RFC4884, label: "IPV6_RECVERR_RFC4884", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_2292PKTINFO, label: "IPV6_2292PKTINFO", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_2292HOPOPTS, label: "IPV6_2292HOPOPTS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_2292DSTOPTS, label: "IPV6_2292DSTOPTS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_2292RTHDR, label: "IPV6_2292RTHDR", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_2292HOPLIMIT, label: "IPV6_2292HOPLIMIT", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: ipv6FlowInfo, label: "IPV6_FLOWINFO", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: ipv6FlowInfoSend, label: "IPV6_FLOWINFO_SEND", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_ROUTER_ALERT_ISOLATE, label: "IPV6_ROUTER_ALERT_ISOLATE", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVPKTINFO, label: "IPV6_RECVPKTINFO", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVHOPLIMIT, label: "IPV6_RECVHOPLIMIT", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVHOPOPTS, label: "IPV6_RECVHOPOPTS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVRTHDR, label: "IPV6_RECVRTHDR", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVDSTOPTS, label: "IPV6_RECVDSTOPTS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVPATHMTU, label: "IPV6_RECVPATHMTU", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RECVTCLASS, label: "IPV6_RECVTCLASS", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_HOPOPTS, label: "IPV6_HOPOPTS", domain: unix.AF_INET6, carry: copyVariable},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RTHDRDSTOPTS, label: "IPV6_RTHDRDSTOPTS", domain: unix.AF_INET6, carry: copyVariable},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_RTHDR, label: "IPV6_RTHDR", domain: unix.AF_INET6, carry: copyVariable},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_DSTOPTS, label: "IPV6_DSTOPTS", domain: unix.AF_INET6, carry: copyVariable},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_DONTFRAG, label: "IPV6_DONTFRAG", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_AUTOFLOWLABEL, label: "IPV6_AUTOFLOWLABEL", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_ADDR_PREFERENCES, label: "IPV6_ADDR_PREFERENCES", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_MINHOPCOUNT, label: "IPV6_MINHOPCOUNT", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: ipv6OrigDstAddr, label: "IPV6_RECVORIGDSTADDR", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_TRANSPARENT, label: "IPV6_TRANSPARENT", mayFail: true, domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_UNICAST_IF, label: "IPV6_UNICAST_IF", domain: unix.AF_INET6, carry: losesInterface},
	{level: unix.IPPROTO_IPV6, name: ipv6RecvFragSize, label: "IPV6_RECVFRAGSIZE", domain: unix.AF_INET6},
	{level: unix.IPPROTO_IPV6, name: unix.IPV6_FREEBIND, label: "IPV6_FREEBIND", domain: unix.AF_INET6},

	{level: unix.IPPROTO_TCP, name: unix.TCP_SYNCNT, label: "TCP_SYNCNT"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_LINGER2, label: "TCP_LINGER2"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_DEFER_ACCEPT, label: "TCP_DEFER_ACCEPT"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_WINDOW_CLAMP, label: "TCP_WINDOW_CLAMP"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_CONGESTION, label: "TCP_CONGESTION", size: 16},
	{level: unix.IPPROTO_TCP, name: unix.TCP_MD5SIG, label: "TCP_MD5SIG", carry: losesAlways},
	{level: unix.IPPROTO_TCP, name: unix.TCP_MD5SIG_EXT, label: "TCP_MD5SIG_EXT", carry: losesAlways},
	{level: unix.IPPROTO_TCP, name: tcpAOAddKey, label: "TCP_AO_ADD_KEY", carry: losesAlways},
	{level: unix.IPPROTO_TCP, name: tcpAOInfo, label: "TCP_AO_INFO", carry: losesAlways},
	{level: unix.IPPROTO_TCP, name: unix.TCP_THIN_LINEAR_TIMEOUTS, label: "TCP_THIN_LINEAR_TIMEOUTS"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_THIN_DUPACK, label: "TCP_THIN_DUPACK"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_USER_TIMEOUT, label: "TCP_USER_TIMEOUT"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_FASTOPEN, label: "TCP_FASTOPEN"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_NOTSENT_LOWAT, label: "TCP_NOTSENT_LOWAT"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_SAVE_SYN, label: "TCP_SAVE_SYN"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_FASTOPEN_CONNECT, label: "TCP_FASTOPEN_CONNECT"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_FASTOPEN_KEY, label: "TCP_FASTOPEN_KEY", carry: copyVariable},
	{level: unix.IPPROTO_TCP, name: unix.TCP_FASTOPEN_NO_COOKIE, label: "TCP_FASTOPEN_NO_COOKIE"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_INQ, label: "TCP_INQ"},
	{level: unix.IPPROTO_TCP, name: unix.TCP_TX_DELAY, label: "TCP_TX_DELAY"},
	{level: unix.IPPROTO_TCP, name: tcpRTOMaxMS, label: "TCP_RTO_MAX_MS"},
	{level: unix.IPPROTO_TCP, name: tcpRTOMinUS, label: "TCP_RTO_MIN_US"},
	{level: unix.IPPROTO_TCP, name: tcpDelackMaxUS, label: "TCP_DELACK_MAX_US"},

	{level: unix.IPPROTO_TCP, name: unix.TCP_REPAIR, label: "TCP_REPAIR"},

	{level: unix.SOL_SOCKET, name: unix.SO_BUF_LOCK, label: "SO_BUF_LOCK", carry: copyBufferLock},
	// IP_TOS and IPV6_TCLASS set it too.
	{level: unix.SOL_SOCKET, name: unix.SO_PRIORITY, label: "SO_PRIORITY", last: true},
	// IP options make it smaller.
	{level: unix.IPPROTO_TCP, name: unix.TCP_MAXSEG, label: "TCP_MAXSEG", last: true},
}

// otherNames returns the options of SOL_SOCKET that set what the row is read for, too.
func (row *sockopt) otherNames() []int {
	if row.level != unix.SOL_SOCKET {
		return nil
	}
	switch row.name {
	case unix.SO_SNDBUF:
		return []int{unix.SO_RCVBUF, unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE}
	case unix.SO_RCVTIMEO:
		return []int{soRcvTimeoNew}
	case unix.SO_SNDTIMEO:
		return []int{soSndTimeoNew}
	}
	return nil
}

// sockoptLevels are the levels whose options a TCP socket can have.
var sockoptLevels = []int{unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_IPV6, unix.IPPROTO_TCP}

// isOf reports whether a socket can have the option.
func (row *sockopt) isOf(s *socket) bool {
	if row.domain != 0 && row.domain != s.domain {
		return false
	}
	switch row.level {
	case unix.IPPROTO_TCP:
		return s.kind == unix.SOCK_STREAM
	case unix.IPPROTO_UDP:
		return s.kind == unix.SOCK_DGRAM
	case unix.SOL_RAW:
		return s.kind == unix.SOCK_RAW
	}
	return true
}

// rowOf returns the index of an option in sockopts, or -1.
func rowOf(level, name int) int {
	for i := range sockopts {
		if sockopts[i].level == level && sockopts[i].name == name {
			return i
		}
	}
	return -1
}

// rowSetBy returns the index of the row that setting an option concerns, or -1.
func rowSetBy(level, name int) int {
	if row := rowOf(level, name); row >= 0 || level != unix.SOL_SOCKET {
		return row
	}
	return slices.IndexFunc(sockopts, func(row sockopt) bool { return slices.Contains(row.otherNames(), name) })
}

// optionsUsed says which of the options that are not read at every swap any target has ever set: a
// hundred calls at every connect would be too many, and hardly any program sets even one of them.
// The filter stops setsockopt(2) for those, only to note it here; so it belongs to no socket or
// process, and what happens to sockets by dup, fork or SCM_RIGHTS does not matter.
type optionsUsed struct {
	rows [3]atomic.Uint64 // a bit a row
	// noted are the rows that setsockopt(2) is stopped for although they are marked always: these
	// need not be read before anybody has set them. It does not change once the filter is made.
	noted [3]uint64
	any   atomic.Bool // whether any row is set that is not always read
	// owner is whether anybody has set who gets a socket's signals (F_SETOWN, F_SETSIG).
	owner atomic.Bool
	// others is whether SO_PROTOCOL alone may tell what a socket is that has the options of TCP:
	// somebody has made one of SMC, or has sockets of which nothing is known.
	others atomic.Bool
	probe  sync.Once // has others be set if that is so of MPTCP, see newReads
}

func (u *optionsUsed) set(row int) {
	if !sockopts[row].always {
		u.any.Store(true)
	}
	u.rows[row/64].Or(1 << (row % 64))
}

func (u *optionsUsed) has(row int) bool { return u.rows[row/64].Load()&(1<<(row%64)) != 0 }

// noteSetting notes that somebody sets an option. It is false for one that has no row.
func (u *optionsUsed) noteSetting(level, name int) (known bool) {
	row := rowSetBy(level, name)
	if row >= 0 {
		u.set(row)
	}
	return row >= 0
}

// snapshot returns what rows say.
func (u *optionsUsed) snapshot() (rows [len(optionsUsed{}.rows)]uint64) {
	for i := range u.rows {
		rows[i] = u.rows[i].Load()
	}
	return rows
}

// note has the rows be told by the filter that it stops setsockopt(2) for. passes reports for which
// it does not.
func (u *optionsUsed) note(passes func(row *sockopt) bool) {
	for i := range sockopts {
		if row := &sockopts[i]; row.always && slices.Contains(sockoptLevels, row.level) && !passes(row) {
			u.noted[i/64] |= 1 << (i % 64)
		}
	}
}

// mustRead reports whether a row may have been set. One that is changed by others may always have
// been.
func (u *optionsUsed) mustRead(row int) bool {
	r := &sockopts[row]
	return r.last || r.always && u.noted[row/64]&(1<<(row%64)) == 0 || u.has(row)
}

// setAll is for when there is no telling: sockets that the program was given.
func (u *optionsUsed) setAll() {
	for i := range u.rows {
		u.rows[i].Store(^uint64(0))
	}
	u.any.Store(true)
	u.owner.Store(true)
	u.others.Store(true)
}

// defaults is what a fresh socket of the origin answers to each row of sockopts, by family. A
// program that has set nothing costs no setsockopt(2).
type defaults struct {
	known  atomic.Bool
	values [192][maxSockopt]byte // by row; len(sockopts) is checked at start
}

func init() {
	if len(sockopts) > len(defaults{}.values) || len(sockopts) > 64*len(optionsUsed{}.rows) {
		panic("upconv: more sockopts than there is room for")
	}
	for i := range sockopts {
		if sockopts[i].size == 0 {
			sockopts[i].size = 4
		}
	}
	for i := range mappedOptions {
		mappedOptions[i].row = rowOf(unix.IPPROTO_IP, mappedOptions[i].inet)
	}
}

// learn reads the defaults off a socket that nobody has touched.
func (d *defaults) learn(fresh, domain int) {
	for i := range sockopts {
		if row := &sockopts[i]; (row.domain == 0 || row.domain == domain) && row.carry == nil {
			linux.Getsockopt(fresh, row.level, row.name, unsafe.Pointer(&d.values[i]), row.size)
		}
	}
	d.known.Store(true)
}

// copyOptions gives the socket to the options that the socket from has and that differ from d. lost
// names those that could not be copied: they need a privilege that the target had and upconv has
// not, or mean nothing elsewhere. A connection without them is better than none. kept is whether to
// has been in use before: the program may have set options back since.
func (d *defaults) copyOptions(used *optionsUsed, from, to int, sock *socket, kept bool) (lost string) {
	rare := used.any.Load()
	if sock.domain == unix.AF_INET && !rare && !kept && sock.reads.equalDefaults(d) {
		return ""
	}
	var value, now [maxSockopt]byte
	var without []string
	for i := range sockopts {
		row := &sockopts[i]
		if !row.always && !rare {
			break // these come behind those that are always read
		}
		if !row.isOf(sock) || !used.mustRead(i) {
			continue
		}
		if row.carry != nil {
			if !sock.reads.tunesBuffers(i) && row.carry(row, from, to) {
				without = append(without, row.label)
			}
			continue
		}
		if sock.reads.option(from, i, &value) != 0 {
			continue // not an option of this protocol or kernel: the program cannot have set it
		}
		isDefault := d.known.Load() && bytes.Equal(value[:row.size], d.values[i][:row.size])
		if row.last || kept {
			if linux.Getsockopt(to, row.level, row.name, unsafe.Pointer(&now), row.size) == 0 && bytes.Equal(value[:row.size], now[:row.size]) {
				continue
			}
			if row.mayFail && isDefault {
				if linux.Setsockopt(from, row.level, row.name, unsafe.Pointer(&now), row.size) != 0 {
					continue // it was lost on the way there, and nobody has set it back
				}
				linux.Setsockopt(from, row.level, row.name, unsafe.Pointer(&value), row.size)
			}
		} else if isDefault {
			continue
		}
		if linux.Setsockopt(to, row.level, row.name, unsafe.Pointer(&value), row.size) != 0 {
			without = append(without, row.label)
		}
	}
	return strings.Join(without, ", ")
}

// SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK of SO_BUF_LOCK, linux/socket.h (Linux 5.15).
const (
	sndbufLock = 1
	rcvbufLock = 2
)

// copyBuffers copies the buffer sizes that the program has set itself: setting one that it has
// not would switch the kernel's autotuning off.
func copyBuffers(_ *sockopt, from, to int) (lost bool) {
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
func copyBufferLock(_ *sockopt, from, to int) (lost bool) {
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
func copyVariable(row *sockopt, from, to int) (lost bool) {
	var value [2048]byte // the most that IPv6 extension headers can be, RFC 8200
	length := uint32(len(value))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(from), uintptr(row.level), uintptr(row.name),
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&length)), 0); errno != 0 || length == 0 {
		return false
	}
	return linux.Setsockopt(to, row.level, row.name, unsafe.Pointer(&value), uintptr(length)) != 0
}

// copyFilter copies an attached classic filter. An eBPF one cannot be read back.
func copyFilter(_ *sockopt, from, to int) (lost bool) {
	program, errno := passport.AttachedFilter(from)
	if errno != 0 || len(program) == 0 {
		return errno == unix.EACCES
	}
	return passport.AttachFilter(to, program) != 0
}

// losesInterface is for options that name a network interface, by name or by index: elsewhere that
// is another one or none. The socket does without it, as the routes of the egress decide.
func losesInterface(row *sockopt, from, to int) (lost bool) {
	if linux.SameNetns(from, to) {
		return copyVariable(row, from, to)
	}
	var name [unix.IFNAMSIZ]byte
	length := uint32(len(name))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(from), uintptr(row.level), uintptr(row.name),
		uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&length)), 0)
	return errno == 0 && !linux.AllZero(name[:length])
}

// losesAlways is for keys that the kernel does not give out again. Which socket they were for is
// not known.
func losesAlways(*sockopt, int, int) (lost bool) { return true }

// copyIPOptions copies the program's IPv4 options, which a passport is not.
func copyIPOptions(row *sockopt, from, to int) (lost bool) {
	var p passport.Passport
	return !p.ReadFrom6(from) && copyVariable(row, from, to)
}
