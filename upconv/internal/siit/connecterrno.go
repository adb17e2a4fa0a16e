package siit

import "golang.org/x/sys/unix"

// InetErrno returns what an IPv4 program expects to be told of a connection, given what the kernel
// says of one over IPv6. ICMPv6 knows "no route" and "prohibited", which are ENETUNREACH and
// EACCES, where a translator makes "host unreachable" and "host prohibited" of them (RFC 7915
// section 5.2): both are EHOSTUNREACH. It is not for what the origin's own routing table says: that
// would say the same of IPv4.
func InetErrno(errno unix.Errno) unix.Errno {
	if errno == unix.ENETUNREACH || errno == unix.EACCES {
		return unix.EHOSTUNREACH
	}
	return errno
}
