package companion

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// handOn hands on what comes for companions, for ever.
func (k *Set) handOn() {
	events := make([]unix.EpollEvent, 16)
	packet := make([]byte, handedOn+linux.MaxPacket)
	for {
		n, err := k.inbox.Wait(events)
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			k.mu.Lock()
			if g := k.kept[e.Fd]; g != nil {
				k.drain(g, int(e.Fd), packet)
			}
			k.mu.Unlock()
		}
	}
}

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
	handedOn   = ipv6Header + udpHeader // what is in front of a datagram that is handed on
)

// drain hands on what has come for a companion to the socket in use. packet has room for handedOn
// and a datagram.
func (k *Set) drain(g *group, fd int, packet []byte) {
	raw, ok := k.raw[g.netns]
	if !ok || raw.v4 < 0 || g.name.Port() == 0 {
		return
	}
	for i := range g.kept {
		if reader := g.kept[i].Reader; g.kept[i].FD == fd && reader != nil {
			reader.wake(k, fd)
			return
		}
		for n := 0; g.kept[i].FD == fd && n < 64; n++ { // at a time
			length, from, err := unix.Recvfrom(fd, packet[handedOn:], unix.MSG_DONTWAIT)
			switch err {
			case nil: // of an error of the socket nobody is told
				raw.send(packet[:handedOn+length], g.kept[i].sender(from), g.name)
			case unix.EAGAIN:
				return // nothing more
			}
		}
	}
	k.watch(unix.EPOLL_CTL_MOD, fd) // there may be more
}

// sender returns who a datagram is from.
func (was *Companion) sender(from unix.Sockaddr) netip.AddrPort {
	if was.Source != nil {
		return was.Source(from)
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
	}
	return netip.AddrPort{}
}

// OpenOutlet sees that there is something to hand on through in a namespace, if that can be: open
// makes a raw socket of an address family there, for IPPROTO_RAW. The errno says why there is
// nothing, the first time.
func (k *Set) OpenOutlet(netns uint64, open func(domain int) (fd int, errno unix.Errno)) (ok bool, errno unix.Errno) {
	k.mu.Lock()
	raw, known := k.raw[netns]
	k.mu.Unlock()
	if known {
		return raw.v4 >= 0, 0
	}
	raw = outlet{-1, -1}
	if raw.v4, errno = open(unix.AF_INET); errno == 0 {
		if raw.v6, errno = open(unix.AF_INET6); errno == unix.EAFNOSUPPORT { // a kernel may have no IPv6
			errno = 0
		}
	}
	if errno != 0 {
		raw.close()
		raw = outlet{-1, -1}
		if errno != unix.EPERM { // and may be possible the next time
			return false, errno
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	other, fast := k.raw[netns] // somebody else was faster
	if fast || k.groups == nil && !k.open() {
		raw.close()
		return fast && other.v4 >= 0, errno
	}
	k.raw[netns] = raw
	return raw.v4 >= 0, errno
}
