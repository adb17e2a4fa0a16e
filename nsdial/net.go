//go:build linux

package nsdial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Control puts a socket of the namespace in the place of the one that package
// net has just made wherever it was, under the same descriptor, before that is
// bound or connected. It is for the Control field of a [net.Dialer] or
// [net.ListenConfig] that needs more than DialContext, Listen and ListenPacket
// give (a local address, keep-alive, multipath TCP):
//
//	d := net.Dialer{Timeout: time.Second, Control: ns.Control, Resolver: ns.Resolver()}
//
// Everything that the dialer does, on however many goroutines, then happens in
// the namespace. Options set on the socket before are lost, save for the few
// that package net sets itself: a Control function of one's own calls this one
// first. The network and address are not looked at. Errors are those of Socket.
func (n *Namespace) Control(network, address string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = n.replace(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// carried are the options that package net sets on a new socket before it calls
// Control (sockopt_linux.go).
var carried = [...]struct {
	family      int // 0: every one
	level, name int
}{
	{0, unix.SOL_SOCKET, unix.SO_BROADCAST},
	{0, unix.SOL_SOCKET, unix.SO_REUSEADDR},
	{unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
}

// replace puts under the descriptor old an equal socket made in the namespace.
func (n *Namespace) replace(old int) error {
	if want, err := n.Cookie(); err == nil {
		if c, err := cookieOf(old); err == nil && c == want {
			return nil // made in the right place already
		}
	}
	get := func(name int) (v int, err error) {
		v, err = unix.GetsockoptInt(old, unix.SOL_SOCKET, name)
		return v, os.NewSyscallError("getsockopt", err)
	}
	family, err := get(unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	typ, err := get(unix.SO_TYPE)
	if err != nil {
		return err
	}
	proto, err := get(unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	fd, err := n.Socket(family, typ|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		if errno, ok := err.(unix.Errno); ok {
			err = os.NewSyscallError("socket", errno)
		}
		return err
	}
	defer unix.Close(fd)
	for _, o := range carried {
		if o.family != 0 && o.family != family {
			continue
		}
		// A socket that does not know an option was not given it either.
		if v, err := unix.GetsockoptInt(old, o.level, o.name); err == nil {
			if err := unix.SetsockoptInt(fd, o.level, o.name, v); err != nil && v != 0 {
				return os.NewSyscallError("setsockopt", err)
			}
		}
	}
	// Package net registers the descriptor with its poller when it connects or
	// listens, after this: epoll would not notice the exchange.
	return os.NewSyscallError("dup3", unix.Dup3(fd, old, unix.O_CLOEXEC))
}

// Resolver resolves names with the Go resolver over the network of the namespace.
// It is what DialContext, Listen and ListenPacket use. The files it reads
// (/etc/resolv.conf, /etc/hosts) are the process's own, and so is the order
// of the addresses, for which the routes of the process are consulted (RFC 6724);
// no packet is sent there. A name server such as 127.0.0.53 is looked for on the
// namespace's loopback: where that is not it, use a net.Dialer with Control and
// another resolver.
func (n *Namespace) Resolver() *net.Resolver { return n.dialer.Resolver }

// DialContext connects to address in the namespace. The networks, the form of
// the address, the several addresses of a name (RFC 6555, "Happy Eyeballs"), the
// part of ctx and the errors (*net.OpError) are those of [net.Dialer.DialContext],
// and it may be used wherever that may, as in an http.Transport. Abstract Unix
// sockets belong to a network namespace too; those in the file system do not.
//
// Names are resolved as Resolver says. An interface in a literal address
// (fe80::1%eth0) is one of the namespace's. There is no timeout but that of ctx.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	// Asked first, because the resolver's errors hide the ones of its connections.
	if err := n.ready(); err != nil {
		return fail(err)
	}
	address, err := n.withIndex(network, address)
	if err != nil {
		return fail(err)
	}
	return n.dialer.DialContext(ctx, network, address)
}

// Listen listens on address in the namespace, with the networks, the form of the
// address and the errors of [net.ListenConfig.Listen]. A name in place of the
// address is resolved as Resolver says, and an interface (fe80::1%eth0) is one of
// the namespace's. For "tcp" and no address, whether IPv6 is listened on as well
// is decided by whether the process had it where net first asked: say "tcp4" or
// "[::]" where that may not be so in the namespace.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	address, err := n.listenAddress(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	lc := net.ListenConfig{Control: n.Control}
	return lc.Listen(ctx, network, address)
}

// ListenPacket is to [net.ListenConfig.ListenPacket] what Listen is to
// net.ListenConfig.Listen.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	address, err := n.listenAddress(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	lc := net.ListenConfig{Control: n.Control}
	return lc.ListenPacket(ctx, network, address)
}

// listenAddress does in the namespace what a net.ListenConfig, which cannot be
// given a resolver, would do where the process is.
func (n *Namespace) listenAddress(ctx context.Context, network, address string) (string, error) {
	if err := n.ready(); err != nil {
		return "", err
	}
	host, join, ok := splitHost(network, address)
	if !ok || host == "" {
		return address, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return n.withIndex(network, address)
	}
	family, _, _ := strings.Cut(network, ":")
	family = "ip" + strings.TrimLeft(family, "tcpudi")
	addrs, err := n.Resolver().LookupNetIP(ctx, family, host)
	if err != nil {
		return "", err
	}
	// There can be but one address to listen on, and net prefers IPv4.
	pick := addrs[0].Unmap()
	for _, a := range addrs {
		if a.Unmap().Is4() {
			pick = a.Unmap()
			break
		}
	}
	return join(pick.String()), nil
}

// splitHost finds the host in an address of those networks that have one.
func splitHost(network, address string) (host string, join func(host string) string, ok bool) {
	switch base, _, _ := strings.Cut(network, ":"); base {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		host, port, err := net.SplitHostPort(address)
		return host, func(h string) string { return net.JoinHostPort(h, port) }, err == nil
	case "ip", "ip4", "ip6":
		return address, func(h string) string { return h }, true
	}
	return "", nil, false
}

// withIndex replaces the interface in a literal address by its index, which
// package net takes as well, but would look up where the process is.
func (n *Namespace) withIndex(network, address string) (string, error) {
	host, join, ok := splitHost(network, address)
	if !ok {
		return address, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() == "" {
		return address, nil
	}
	if _, err := strconv.ParseUint(ip.Zone(), 10, 32); err == nil {
		return address, nil
	}
	fail := func(err error) (string, error) {
		return "", &net.AddrError{Err: fmt.Sprintf("%s: interface %s: %v", n, ip.Zone(), err), Addr: address}
	}
	ifr, err := unix.NewIfreq(ip.Zone())
	if err != nil {
		return fail(err)
	}
	fd, err := n.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	// netdevice(7): any socket will do, and answers for its own namespace.
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return fail(err)
	}
	return join(ip.WithZone(strconv.FormatUint(uint64(ifr.Uint32()), 10)).String()), nil
}
