package stream

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// sock_diag(7): the kernel tells of a connection that is known by its addresses, in any state, and
// of sockets that are bound only.

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
	boundInactive    = 13 // TCP_BOUND_INACTIVE, net/tcp_states.h (Linux 6.8): a stream with a port that is not connected
)

// diagRequest is a struct inet_diag_req_v2 behind its header, linux/inet_diag.h.
type diagRequest struct {
	unix.NlMsghdr
	family, protocol, ext, _ uint8
	states                   uint32
	localPort, peerPort      [2]byte
	local, peer              [16]byte
	device                   uint32
	cookie                   [2]uint32
}

// Where a struct inet_diag_msg, behind its header, has its idiag_state and idiag_cookie.
const (
	diagState  = unix.SizeofNlMsghdr + 1
	diagCookie = unix.SizeofNlMsghdr + 44
	diagSize   = unix.SizeofNlMsghdr + 72
)

// isConnectedYet asks whether the connection of a departure is there yet. Where that cannot be
// found out, it is: a program that is told so wrongly tries the next port.
func (w *Worker) isConnectedYet(c *session.Call, port uint16, d *departure) (is bool) {
	request := d.request(port)
	request.states = ^uint32(0)
	answered := w.askDiag(c, d.to, &request, func(message []byte) {
		is = message[diagState] != linux.TCPListen // a server at the port, which is found where there is no connection
	})
	return is || !answered
}

// isBoundYet asks whether the stream of a departure, which is not connected, has its port yet.
// Where that cannot be found out, it has.
func (w *Worker) isBoundYet(c *session.Call, port uint16, d *departure) (is bool) {
	request := diagRequest{family: unix.AF_INET, states: 1 << boundInactive}
	if d.inet6 {
		request.family = unix.AF_INET6
	}
	request.NlMsghdr.Flags = unix.NLM_F_DUMP
	binary.BigEndian.PutUint16(request.localPort[:], port)
	answered := w.askDiag(c, d.to, &request, func(message []byte) {
		is = is || binary.NativeEndian.Uint64(message[diagCookie:]) == d.cookie
	})
	return is || !answered
}

// request asks for the connection.
func (d *departure) request(port uint16) (r diagRequest) {
	r.family = unix.AF_INET6
	binary.BigEndian.PutUint16(r.localPort[:], port)
	binary.BigEndian.PutUint16(r.peerPort[:], d.peerPort)
	r.local, r.peer, r.device = d.local, d.peer, d.zone
	if local, peer := netip.AddrFrom16(d.local), netip.AddrFrom16(d.peer); local.Is4In6() && peer.Is4In6() {
		r.family, r.local, r.peer = unix.AF_INET, [16]byte{}, [16]byte{}
		copy(r.local[:], d.local[12:])
		copy(r.peer[:], d.peer[12:])
	}
	return r
}

// askDiag asks in a place for streams, and calls tell for each struct inet_diag_msg that comes,
// with the header that it has. It reports whether there was an answer, be it that there are none.
func (w *Worker) askDiag(c *session.Call, at companion.Place, request *diagRequest, tell func(message []byte)) (answered bool) {
	p := &w.s.ports
	p.diagMu.Lock()
	defer p.diagMu.Unlock()
	fd, ok := p.diag[at]
	if !ok {
		var errno unix.Errno
		if fd, errno = w.openDiag(c, at); errno != 0 {
			w.s.Log.Debug("a port that has left the origin is taken for used, as there is no sock_diag(7)", "error", errno)
			return false
		}
		if p.diag == nil {
			p.diag = map[companion.Place]int{}
		}
		p.diag[at] = fd
	}
	return p.exchange(fd, request, tell)
}

// exchange is askDiag through a socket; the caller holds diagMu.
func (p *ports) exchange(fd int, request *diagRequest, tell func(message []byte)) (answered bool) {
	size := unsafe.Sizeof(*request)
	request.protocol, request.cookie = unix.IPPROTO_TCP, [2]uint32{^uint32(0), ^uint32(0)} // INET_DIAG_NOCOOKIE
	request.Len, request.Type = uint32(size), sockDiagByFamily
	request.NlMsghdr.Flags |= unix.NLM_F_REQUEST
	p.sequence++
	request.Seq = p.sequence
	if _, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(request)), size, 0, 0, 0); errno != 0 {
		return false
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p.reply)), uintptr(len(p.reply)), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			return answered
		}
		told, more := eachMessage(p.reply[:n], p.sequence, tell)
		answered = answered || told
		if !more || request.NlMsghdr.Flags&unix.NLM_F_DUMP == 0 {
			return answered
		}
	}
}

// eachMessage calls tell for each answer to a request in what has come from sock_diag(7). told is
// whether that is an answer at all, and more is false behind the last one.
func eachMessage(came []byte, sequence uint32, tell func(message []byte)) (told, more bool) {
	for len(came) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(came))
		if length < unix.SizeofNlMsghdr || length > len(came) {
			return told, false
		}
		switch kind := binary.NativeEndian.Uint16(came[4:]); {
		case binary.NativeEndian.Uint32(came[8:]) != sequence:
		case kind == sockDiagByFamily && length >= diagSize:
			told = true
			tell(came[:length])
		case kind == unix.NLMSG_DONE, kind == unix.NLMSG_ERROR:
			code := unix.Errno(0) // an int behind the header in both
			if length >= unix.SizeofNlMsghdr+4 {
				code = unix.Errno(-int32(binary.NativeEndian.Uint32(came[unix.SizeofNlMsghdr:])))
			}
			return told || code == 0 || kind == unix.NLMSG_ERROR && code == unix.ENOENT, false
		}
		came = came[min(len(came), (length+3)&^3):]
	}
	return told, true
}

// openDiag opens what to ask through in a place. A kernel without INET_TCP_DIAG says ENOENT of
// every connection, but does not list even those in no state.
func (w *Worker) openDiag(c *session.Call, at companion.Place) (fd int, errno unix.Errno) {
	if at == companion.OnInet6 {
		fd, errno = w.InOrigin(c.TID, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	} else if e := w.s.egressAt(at); e != nil {
		fd, errno = w.Socket(e, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	} else {
		errno = unix.ENOENT
	}
	if errno != 0 {
		return -1, errno
	}
	request := diagRequest{family: unix.AF_INET}
	request.NlMsghdr.Flags = unix.NLM_F_DUMP
	if !w.s.ports.exchange(fd, &request, func([]byte) {}) {
		linux.Close(fd)
		return -1, unix.EOPNOTSUPP
	}
	return fd, 0
}
