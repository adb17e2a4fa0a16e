// Package passport keeps what a program is told of a socket of its own that has been replaced by
// one of another address family: on that socket itself.
package passport

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// Passport is what a program is told of a socket of its own that has been replaced by one of
// another address family. It is on the socket itself, so that it comes along with dup, fork and
// SCM_RIGHTS, is there for a supervisor that has been started anew, and is gone with the socket.
//
// An AF_INET6 socket has it in its IP_OPTIONS: every such socket can have IPv4 options, which do
// nothing as long as the peer is an IPv6 one, and setting them takes no privilege. It is a "record
// route" option that is full, whose contents the kernel does not look at. A Unix socket has it in a
// classic filter that starts with loading constants, takes everything, and is never run.
type Passport struct {
	Family int // the address family of the program's socket: AF_INET, or AF_INET6 and the peer is IPv4-mapped
	Proto  int // its protocol: IPPROTO_TCP or IPPROTO_MPTCP
	Peer   netip.AddrPort
	Local  netip.Addr

	// Of AF_INET6 sockets only:
	Connected bool // it has been, and is a datagram socket

	// Of Unix sockets only:
	LocalPort uint16
	Options   []remembered      // what the program has set, in this order
	Filter    []unix.SockFilter // the program's own
	Locked    bool              // it has set SO_LOCK_FILTER
}

// remembered is a socket option that a Unix socket does not have.
type remembered struct {
	Level, Name int
	Value       []byte
}

const (
	passportMagic   = 0x75706376 // "upcv"
	passportVersion = 1
	ipoptRR         = 7  // IPOPT_RR, linux/ip.h
	passport6Size   = 24 // a multiple of 4: what is missing the kernel fills up

	passportLocked = 1 // flags of a Unix socket's
	passportFilter = 2

	passportConnected = 1 // flag of an AF_INET6 socket's
)

// encode6 writes the passport as IPv4 options.
func (p *Passport) encode6(to *[passport6Size]byte) {
	*to = [passport6Size]byte{ipoptRR, passport6Size, passport6Size + 1} // the pointer is behind the end: full
	binary.BigEndian.PutUint32(to[3:], passportMagic)
	to[7], to[8] = passportVersion, byte(p.Family)
	binary.BigEndian.PutUint16(to[9:], uint16(p.Proto))
	peer, local := p.Peer.Addr().As4(), p.Local.As4()
	copy(to[11:], peer[:])
	binary.BigEndian.PutUint16(to[15:], p.Peer.Port())
	copy(to[17:], local[:])
	if p.Connected {
		to[21] = passportConnected
	}
}

// decode6 is the reverse. It is false for other options.
func (p *Passport) decode6(from []byte) bool {
	if len(from) != passport6Size || from[0] != ipoptRR || binary.BigEndian.Uint32(from[3:]) != passportMagic || from[7] != passportVersion {
		return false
	}
	p.Family, p.Proto = int(from[8]), int(binary.BigEndian.Uint16(from[9:]))
	p.Peer = netip.AddrPortFrom(netip.AddrFrom4([4]byte(from[11:15])), binary.BigEndian.Uint16(from[15:]))
	p.Local, p.Connected = netip.AddrFrom4([4]byte(from[17:21])), from[21]&passportConnected != 0
	return true
}

// PutOn6 gives the passport to an AF_INET6 socket.
func (p *Passport) PutOn6(fd int) unix.Errno {
	var options [passport6Size]byte
	p.encode6(&options)
	return linux.Setsockopt(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, unsafe.Pointer(&options), passport6Size)
}

// ReadFrom6 reads the passport of an AF_INET6 socket. It is false if that has none.
func (p *Passport) ReadFrom6(fd int) bool {
	var options [40]byte
	length := uint32(len(options))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, unix.IP_OPTIONS,
		uintptr(unsafe.Pointer(&options)), uintptr(unsafe.Pointer(&length)), 0)
	return errno == 0 && p.decode6(options[:length])
}

// The instructions of a passport: linux/filter.h.
const (
	bpfLoad  = unix.BPF_LD | unix.BPF_IMM
	bpfLoadX = unix.BPF_LDX | unix.BPF_IMM
	bpfRet   = unix.BPF_RET | unix.BPF_K

	passportTail    = 2 // instructions that clear A and X again
	MaxInstructions = 4096
)

// encodeUnix writes the passport as a filter, in front of the program's own. ok is false where that
// is too long.
func (p *Passport) encodeUnix() (program []unix.SockFilter, ok bool) {
	load := func(k uint32) { program = append(program, unix.SockFilter{Code: bpfLoad, K: k}) }
	peer, local := p.Peer.Addr().As4(), p.Local.As4()
	load(passportMagic)
	load(0) // how many words, when that is known
	flags := uint32(0)
	if p.Locked {
		flags |= passportLocked
	}
	if len(p.Filter) > 0 {
		flags |= passportFilter
	}
	load(passportVersion<<24 | flags<<16 | uint32(p.Family)<<8)
	load(uint32(p.Proto))
	load(binary.BigEndian.Uint32(peer[:]))
	load(binary.BigEndian.Uint32(local[:]))
	load(uint32(p.Peer.Port())<<16 | uint32(p.LocalPort))
	for _, o := range p.Options {
		load(uint32(o.Level)<<24 | uint32(o.Name&0xffff)<<8 | uint32(len(o.Value)))
		for value := o.Value; len(value) > 0; {
			var word [4]byte
			value = value[copy(word[:], value):]
			load(binary.BigEndian.Uint32(word[:]))
		}
	}
	program[1].K = uint32(len(program))
	// What a program starts with: nothing in either register.
	program = append(program, unix.SockFilter{Code: bpfLoad}, unix.SockFilter{Code: bpfLoadX})
	if len(p.Filter) > 0 {
		program = append(program, p.Filter...)
	} else {
		program = append(program, unix.SockFilter{Code: bpfRet, K: ^uint32(0)})
	}
	return program, len(program) <= MaxInstructions
}

// decodeUnix is the reverse. It is false for other filters. What it returns refers to none of
// program's memory.
func (p *Passport) decodeUnix(program []unix.SockFilter) bool {
	const header = 7
	if len(program) < header+passportTail+1 || program[0] != (unix.SockFilter{Code: bpfLoad, K: passportMagic}) {
		return false
	}
	count := int(program[1].K)
	if count < header || count+passportTail >= len(program) {
		return false
	}
	words := make([]uint32, count)
	for i := range words {
		if program[i].Code != bpfLoad {
			return false
		}
		words[i] = program[i].K
	}
	if words[2]>>24 != passportVersion {
		return false
	}
	var peer, local [4]byte
	flags := words[2] >> 16
	p.Locked, p.Family, p.Proto = flags&passportLocked != 0, int(words[2]>>8&0xff), int(words[3])
	binary.BigEndian.PutUint32(peer[:], words[4])
	binary.BigEndian.PutUint32(local[:], words[5])
	p.Peer, p.Local = netip.AddrPortFrom(netip.AddrFrom4(peer), uint16(words[6]>>16)), netip.AddrFrom4(local)
	p.LocalPort, p.Connected = uint16(words[6]), false
	p.Options = nil
	for rest := words[header:]; len(rest) > 0; {
		o := remembered{Level: int(rest[0] >> 24), Name: int(rest[0] >> 8 & 0xffff), Value: make([]byte, rest[0]&0xff)}
		rest = rest[1:]
		for at := 0; at < len(o.Value); at += 4 {
			if len(rest) == 0 {
				return false
			}
			var word [4]byte
			binary.BigEndian.PutUint32(word[:], rest[0])
			copy(o.Value[at:], word[:])
			rest = rest[1:]
		}
		p.Options = append(p.Options, o)
	}
	p.Filter = nil
	if flags&passportFilter != 0 {
		p.Filter = slices.Clone(program[count+passportTail:])
	}
	return true
}

// Remember adds an option, or replaces it. It is false where the value is too long.
func (p *Passport) Remember(level, name int, value []byte) bool {
	if len(value) > 0xff || name != name&0xffff || level != level&0xff {
		return false
	}
	for i := range p.Options {
		if o := &p.Options[i]; o.Level == level && o.Name == name {
			o.Value = bytes.Clone(value)
			return true
		}
	}
	p.Options = append(p.Options, remembered{level, name, bytes.Clone(value)})
	return true
}

// PutOnUnix gives the passport to a Unix socket, in the place of an older one.
func (p *Passport) PutOnUnix(fd int) unix.Errno {
	program, ok := p.encodeUnix()
	if !ok {
		return unix.ENOMEM
	}
	return AttachFilter(fd, program)
}

// ReadFrom reads the passport of a socket, of any family. It is false if that has none.
func (p *Passport) ReadFrom(fd, family int) bool {
	switch family {
	case unix.AF_INET6:
		return p.ReadFrom6(fd)
	case unix.AF_UNIX:
		return p.ReadFromUnix(fd)
	}
	return false
}

// ReadFromUnix reads the passport of a Unix socket. It is false if that has none.
func (p *Passport) ReadFromUnix(fd int) bool {
	program, errno := AttachedFilter(fd)
	return errno == 0 && p.decodeUnix(program)
}

func AttachFilter(fd int, program []unix.SockFilter) unix.Errno {
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, unsafe.Pointer(&fprog), unsafe.Sizeof(fprog))
}

// AttachedFilter returns the classic filter of a socket.
func AttachedFilter(fd int) ([]unix.SockFilter, unix.Errno) {
	var length uint32                       // in instructions, both ways; 0 asks how many there are
	const getFilter = unix.SO_ATTACH_FILTER // SO_GET_FILTER is the same number
	get := func(at unsafe.Pointer) unix.Errno {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, getFilter, uintptr(at), uintptr(unsafe.Pointer(&length)), 0)
		return errno
	}
	if errno := get(nil); errno != 0 || length == 0 {
		return nil, errno
	}
	program := make([]unix.SockFilter, length)
	if errno := get(unsafe.Pointer(&program[0])); errno != 0 || int(length) > len(program) {
		return nil, errno
	}
	return program[:length], 0
}

// Sockaddr writes an IPv4 address as one of the program's family.
func (p *Passport) Sockaddr(addr netip.AddrPort, to *[linux.SizeofSockaddrIn6]byte) (length int) {
	*to = [linux.SizeofSockaddrIn6]byte{}
	binary.NativeEndian.PutUint16(to[:], uint16(p.Family))
	binary.BigEndian.PutUint16(to[2:], addr.Port())
	v4 := addr.Addr().As4()
	if p.Family == unix.AF_INET {
		copy(to[4:], v4[:])
		return linux.SizeofSockaddrIn
	}
	if !addr.Addr().IsUnspecified() {
		to[18], to[19] = 0xff, 0xff
		copy(to[20:], v4[:])
	}
	return linux.SizeofSockaddrIn6
}

// Deaf reports whether the AF_INET6 socket fd is one that connect(2) with AF_UNSPEC has
// disconnected. IPv4 forgets the address of the peer then, but IPv6 goes on receiving from that one
// alone: nothing clears sk_v6_daddr, which compute_score in net/ipv6/udp.c looks at.
func (p *Passport) Deaf(fd int) bool { return p.Connected && !linux.IsConnected(fd) }

// Differs reports whether an option is an int that an AF_INET6 socket itself has, but not quite the
// one of IPv4.
func (p *Passport) Differs(level, name int) bool {
	switch level {
	case unix.SOL_SOCKET:
		return name == unix.SO_ERROR
	case unix.IPPROTO_IP:
		return name == unix.IP_MTU
	case unix.IPPROTO_IPV6:
		return name == unix.IPV6_MTU && p.Family == unix.AF_INET6
	}
	return false
}

// Name writes the name of the socket fd, or of its peer, as the program is told it. ok is false if
// it has no peer.
func (p *Passport) Name(fd, family int, peer bool, to *[linux.SizeofSockaddrIn6]byte) (length int, ok bool) {
	var real [linux.SizeofSockaddrStorage]byte
	if !linux.SocketName(fd, peer, &real) {
		return 0, false
	}
	addr := p.Peer
	if !peer {
		port := p.LocalPort
		local := p.Local
		if family == unix.AF_UNIX && linux.KindOf(p.Proto) == unix.SOCK_DGRAM && !linux.IsConnected(fd) {
			local = netip.IPv4Unspecified()
		}
		if family == unix.AF_INET6 {
			port = binary.BigEndian.Uint16(real[2:])
			if linux.AllZero(real[8:24]) { // not connected
				local = netip.IPv4Unspecified()
			}
		}
		addr = netip.AddrPortFrom(local, port)
	}
	return p.Sockaddr(addr, to), true
}

// Resembles reports whether two passports of sockets that nothing has been done to are the same but
// for that port.
func (p *Passport) Resembles(other *Passport) bool {
	return p.Family == other.Family && p.Proto == other.Proto && p.Peer == other.Peer && p.Local == other.Local
}
