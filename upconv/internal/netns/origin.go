package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/upconv/internal/linux"
)

// Origin is the network namespace that the targets run in. upconv need not be able to enter it: it
// works through sockets that the command's own process made there before it became the command.
type Origin struct {
	Cookie    uint64 // SO_NETNS_COOKIE
	Inode     uint64
	Addresses atomic.Pointer[map[netip.Addr]struct{}]
	Own       atomic.Pointer[netip.Addr] // the one that programs are told where there is no other reason to choose
	Egress    *Egress                    // the same namespace as one to make sockets in; nil: it cannot be entered, or need not
	Closed    bool                       // it cannot be entered: see grow
	entered   *Egress                    // see enterable
	told      sync.Once
	netlink   *os.File
	fd        int // its number
	mu        sync.Mutex
	seeds     map[int]int // by address family: a socket each, to make others of; held with mu
	partners  map[int]int // and one that connects to it
}

// OriginSockets are made in the origin and owned by whoever holds the struct; -1 where the kernel
// has no such family.
type OriginSockets struct {
	Inet, Inet6, Netlink int
	Partner, Partner6    int // AF_INET and AF_INET6 once more, where the origin cannot be entered; else -1
}

// NewOrigin takes ownership of the sockets, also on error.
func NewOrigin(socks OriginSockets, inode uint64) (*Origin, error) {
	o := &Origin{Inode: inode, seeds: map[int]int{}, partners: map[int]int{}}
	for domain, fd := range map[int]int{unix.AF_INET: socks.Partner, unix.AF_INET6: socks.Partner6} {
		if fd >= 0 {
			unix.SetNonblock(fd, true)
			o.partners[domain] = fd
		}
	}
	for domain, fd := range map[int]int{unix.AF_INET: socks.Inet, unix.AF_INET6: socks.Inet6} {
		if fd < 0 {
			continue
		}
		if errno := linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, unsafe.Pointer(&o.Cookie), 8); errno != 0 {
			linux.Close(fd)
			o.closeSeeds()
			linux.Close(socks.Netlink)
			return nil, fmt.Errorf("SO_NETNS_COOKIE not supported (requires Linux >= 5.14): %w", errno)
		}
		unix.SetNonblock(fd, true)
		o.seeds[domain] = fd
	}
	if err := unix.SetNonblock(socks.Netlink, true); err != nil {
		o.closeSeeds()
		linux.Close(socks.Netlink)
		return nil, os.NewSyscallError("fcntl", err)
	}
	o.netlink, o.fd = os.NewFile(uintptr(socks.Netlink), "rtnetlink"), socks.Netlink
	if err := unix.Bind(socks.Netlink, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil { // gives it its port
		o.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	// Subscribe before the first look, so that no change falls between them.
	if err := unix.SetsockoptInt(socks.Netlink, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV4_IFADDR); err != nil {
		o.Close()
		return nil, os.NewSyscallError("setsockopt NETLINK_ADD_MEMBERSHIP", err)
	}
	if err := o.refresh(); err != nil {
		o.Close()
		return nil, fmt.Errorf("addresses of the origin: %w", err)
	}
	go o.follow()
	return o, nil
}

// Open opens the namespace of the process pid, which is the origin, for sockets of other families
// and those that are brought back to it. Where it cannot be entered, upconv does without: see
// socket.
func (o *Origin) Open(pid int) error {
	here, err := nsdial.OpenCurrent()
	if err != nil {
		return err
	}
	cookie, err := here.Cookie()
	switch {
	case err == nil && cookie == o.Cookie:
		o.Egress = &Egress{NS: here, Cookie: cookie}
	case linux.HasCapability(unix.CAP_SYS_ADMIN):
		here.Close()
		ns, err := nsdial.OpenPID(pid)
		if err != nil {
			return fmt.Errorf("the command's network namespace: %w", err)
		}
		o.Egress = &Egress{NS: ns, Cookie: o.Cookie}
	default:
		here.Close()
	}
	return nil
}

// Socket makes a non-blocking socket in the origin, where the thread tid was; the caller owns it.
func (o *Origin) Socket(tid, domain, kind, proto int) (fd int, errno unix.Errno) {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", tid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, linux.ErrnoOf(err)
	}
	defer unix.Close(ns)
	// On a thread of its own, which is not used for anything else afterwards.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		unix.RawSyscall(unix.SYS_SETNS, uintptr(ns), unix.CLONE_NEWNET, 0) // or it is there already
		if fd, errno = linux.NewSocket(domain, kind, proto); errno == 0 && linux.NetnsCookie(fd) != o.Cookie {
			linux.Close(fd)
			fd, errno = -1, unix.EPERM
		}
	}()
	<-done
	if errno == unix.EPERM && proto == unix.IPPROTO_TCP {
		return o.grow(domain)
	}
	return fd, errno
}

// Enterable returns the origin as one to make sockets in, as one of its own tells to whoever has
// CAP_NET_ADMIN there; nil where nobody has.
func (o *Origin) Enterable() *Egress {
	o.told.Do(func() {
		seed, ok := o.Seed(unix.AF_INET)
		if !ok {
			return
		}
		fd, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(seed), unix.SIOCGSKNS, 0)
		if errno != 0 {
			return
		}
		ns, err := nsdial.OpenFD(int(fd))
		if err != nil {
			linux.Close(int(fd))
			return
		}
		o.entered = &Egress{ns, o.Cookie}
	})
	return o.entered
}

// grow makes a TCP socket in the origin without entering it, which takes a privilege: a socket that
// is accepted is one of the namespace of the listening one. A partner connects to the seed over
// loopback, and both are disconnected again (connect(2) with AF_UNSPEC), as is what was accepted.
func (o *Origin) grow(domain int) (int, unix.Errno) {
	o.mu.Lock()
	defer o.mu.Unlock()
	listener, ok := o.seeds[domain]
	client, ok2 := o.partners[domain]
	if !ok || !ok2 {
		return -1, unix.EAFNOSUPPORT
	}
	if err := unix.Listen(listener, 1); err != nil {
		return -1, linux.ErrnoOf(err)
	}
	defer linux.Disconnect(listener)
	to, err := unix.Getsockname(listener)
	if err != nil {
		return -1, linux.ErrnoOf(err)
	}
	// Of its own family: an AF_INET6 socket that has been connected to an IPv4 address can never be
	// to an IPv6 one again.
	switch to := to.(type) {
	case *unix.SockaddrInet4:
		to.Addr = [4]byte{127, 0, 0, 1}
	case *unix.SockaddrInet6:
		to.Addr = netip.IPv6Loopback().As16()
	}
	if err := unix.Connect(client, to); err != nil && err != unix.EINPROGRESS {
		return -1, linux.ErrnoOf(err)
	}
	defer linux.Disconnect(client)
	for range 100 {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == nil {
			linux.Disconnect(fd)
			forgetConnection(fd, listener)
			return fd, 0
		}
		if err != unix.EAGAIN {
			return -1, linux.ErrnoOf(err)
		}
		unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, 10) // loopback, so hardly ever
	}
	return -1, unix.ETIMEDOUT
}

// forgetConnection removes what disconnect leaves on a socket: the error that ended the connection,
// a port that getsockname(2) tells though it is not taken any more, and a buffer that has grown,
// unlike that of fresh.
func forgetConnection(fd, fresh int) {
	var value, none int32
	one := int32(1)
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_ERROR, unsafe.Pointer(&value), 4) // and so forgets it
	// With this option bind(2) takes no port, but puts down that there is none: __inet_bind in
	// net/ipv4/af_inet.c.
	if name := AnyName(fd); linux.Setsockopt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, unsafe.Pointer(&one), 4) == 0 {
		linux.Bind(fd, name)
		linux.Setsockopt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, unsafe.Pointer(&none), 4)
	}
	if linux.CopyBuffer(fresh, fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE) {
		linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, unsafe.Pointer(&none), 4) // for the kernel to tune
	}
}

// AnyName is the address of no host and no port, of the family of a socket.
func AnyName(fd int) []byte {
	var name [linux.SizeofSockaddrIn6]byte
	domain := linux.DomainOf(fd)
	binary.NativeEndian.PutUint16(name[:], uint16(domain))
	if domain == unix.AF_INET {
		return name[:linux.SizeofSockaddrIn]
	}
	return name[:]
}

// Close gives up what the origin has, but for Egress.
func (o *Origin) Close() {
	o.netlink.Close()
	o.closeSeeds()
	if o.entered != nil {
		o.entered.NS.Close()
	}
}

// Seed returns a socket of the origin that nobody has touched; it stays the origin's.
func (o *Origin) Seed(domain int) (fd int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fd, ok = o.seeds[domain]
	return fd, ok
}

func (o *Origin) closeSeeds() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, sockets := range []map[int]int{o.seeds, o.partners} {
		for _, fd := range sockets {
			linux.Close(fd)
		}
		clear(sockets)
	}
}

// Assigned reports whether an IPv4 address is one of the origin's own.
func (o *Origin) Assigned(addr netip.Addr) bool {
	_, ok := (*o.Addresses.Load())[addr]
	return ok
}

// firstOwn returns the least address that is not of this host or link only; nil if there is none.
func firstOwn(addresses map[netip.Addr]struct{}) *netip.Addr {
	var first *netip.Addr
	for a := range addresses {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && (first == nil || a.Less(*first)) {
			first = &a
		}
	}
	return first
}

// follow looks again whenever an address comes or goes, until close.
func (o *Origin) follow() {
	buf := make([]byte, 64<<10)
	for {
		// ENOBUFS says that messages were lost: a look at everything makes up for it.
		if _, err := o.netlink.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		if o.refresh() != nil {
			return
		}
	}
}

// refresh reads all IPv4 addresses: RTM_GETADDR, rtnetlink(7). Notifications that arrive meanwhile
// are read over; should one have come too late for the dump, it is left for follow to see.
func (o *Origin) refresh() error {
	var request struct {
		unix.NlMsghdr
		unix.IfAddrmsg
	}
	request.Len = uint32(unsafe.Sizeof(request))
	request.Type = unix.RTM_GETADDR
	request.NlMsghdr.Flags = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	request.Seq = 1
	self, err := unix.Getsockname(o.fd)
	if err != nil {
		return err
	}
	port := self.(*unix.SockaddrNetlink).Pid
	request.Family = unix.AF_INET
again:
	if _, err := o.netlink.Write(unsafe.Slice((*byte)(unsafe.Pointer(&request)), request.Len)); err != nil {
		return err
	}
	found := map[netip.Addr]struct{}{}
	buf := make([]byte, 64<<10)
	for {
		n, err := o.netlink.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("rtnetlink: %w", err)
		}
		changed := false
		for _, m := range messages {
			switch {
			case m.Header.Seq != request.Seq || m.Header.Pid != port || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0:
				changed = true // a notification; or the dump says of itself that it missed something
			case m.Header.Type == unix.NLMSG_DONE:
				o.Addresses.Store(&found)
				o.Own.Store(firstOwn(found))
				return nil
			case m.Header.Type == unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
				}
				return unix.EIO
			case m.Header.Type == unix.RTM_NEWADDR:
				attrs, err := syscall.ParseNetlinkRouteAttr(&m)
				if err != nil {
					return fmt.Errorf("rtnetlink: %w", err)
				}
				for _, a := range attrs {
					if a.Attr.Type == unix.IFA_LOCAL && len(a.Value) == 4 {
						found[netip.AddrFrom4([4]byte(a.Value))] = struct{}{}
					}
				}
			}
		}
		if changed {
			request.Seq++ // the dump may be from before the change: begin anew
			goto again
		}
	}
}
