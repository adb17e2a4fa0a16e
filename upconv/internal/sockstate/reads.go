package sockstate

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/volley"
)

// What has to be asked of a TCP socket that could not be seen, in one volley of system calls.

// Reads are those calls, and the memory that they write to. It is on the heap, so that this stays
// where it is.
type Reads struct {
	all     [maxReads + 1]volley.Call
	values  [maxReads][MaxSockopt]byte // by call
	lengths [maxReads]uint32
	sizes   [maxReads]uint32 // what lengths are before the calls
	name    [linux.SizeofSockaddrIn6]byte
	nameLen uint32
	stat    unix.Stat_t // of the file

	calls []volley.Call                   // those of all that there are
	used  [len(OptionsUsed{}.rows)]uint64 // what OptionsUsed said when they were listed
	rows  [len(Defaults{}.Values)]int8    // by row of sockopts: 1 + the index of its call; 0: none

	options  [maxReads + 1]int16 // by call: the row of sockopts that it is for; -1: none
	whole    bool                // whether every row that must be read of any TCP socket has a call
	protocol int                 // the index of the call for SO_PROTOCOL; 0: there is none
	needed   int                 // how many of the first calls must succeed
}

// maxReads is how many calls there can be besides fstat(2).
const maxReads = 24

// Indices of the first calls, all of which must succeed. The first fails on what is no TCP, MPTCP
// or SMC socket.
const (
	readNoDelay = iota
	readNetns
	readName
	neededReads
)

// IPProtoSMC is the protocol of SMC sockets that are not of linux.AFSMC: IPPROTO_SMC, linux/in.h.
// Both have the options of TCP ones.
const IPProtoSMC = 256

// newReads makes the list of calls: of the options, those that are read at every swap of a TCP
// socket. SO_PROTOCOL is read only if nothing else would tell MPTCP and SMC.
func newReads(used *OptionsUsed) *Reads {
	if r := listReads(used, used.Others.Load()); r.protocol > 0 {
		return r
	}
	used.probe.Do(func() {
		if !listReads(used, false).tellMPTCP() {
			used.Others.Store(true)
		}
	})
	return listReads(used, used.Others.Load())
}

// tellMPTCP reports whether some option that is read cannot be read of an MPTCP socket. It is false
// if there is none to try it with.
func (r *Reads) tellMPTCP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return false
	}
	defer linux.Close(fd)
	r.ask(r.calls, fd)
	return r.anyFailed()
}

// listReads is newReads. protocol is whether SO_PROTOCOL is read.
func listReads(used *OptionsUsed, protocol bool) *Reads {
	r := &Reads{used: used.snapshot(), needed: neededReads} // before the rows are looked at
	r.calls = r.all[:0]
	option := func(level, name int, size uintptr) {
		i := len(r.calls)
		r.sizes[i] = uint32(size)
		r.calls = append(r.calls, volley.Call{Number: unix.SYS_GETSOCKOPT, Args: [6]uintptr{0, uintptr(level), uintptr(name),
			uintptr(unsafe.Pointer(&r.values[i])), uintptr(unsafe.Pointer(&r.lengths[i]))}})
	}
	for i := range r.options {
		r.options[i] = -1
	}
	noDelay := RowOf(unix.IPPROTO_TCP, unix.TCP_NODELAY)
	option(unix.IPPROTO_TCP, unix.TCP_NODELAY, 4)
	r.rows[noDelay], r.options[readNoDelay] = 1+readNoDelay, int16(noDelay)
	option(unix.SOL_SOCKET, unix.SO_NETNS_COOKIE, 8)
	r.calls = append(r.calls, volley.Call{Number: unix.SYS_GETSOCKNAME, Args: [6]uintptr{0,
		uintptr(unsafe.Pointer(&r.name)), uintptr(unsafe.Pointer(&r.nameLen))}})
	if protocol {
		r.protocol = len(r.calls)
		option(unix.SOL_SOCKET, unix.SO_PROTOCOL, 4)
		r.needed++
	}
	r.whole = true
	for i := range Options {
		row := &Options[i]
		if i == noDelay || !row.Always || row.domain != 0 || !row.IsOf(&Socket{Kind: unix.SOCK_STREAM}) || !used.MustRead(i) {
			continue
		}
		if len(r.calls) == maxReads {
			r.whole = false
			break
		}
		r.rows[i], r.options[len(r.calls)] = int8(1+len(r.calls)), int16(i)
		if row.Name == unix.SO_SNDBUF && row.Level == unix.SOL_SOCKET {
			option(unix.SOL_SOCKET, unix.SO_BUF_LOCK, 4) // which says whether there is anything to copy
			continue
		}
		option(row.Level, row.Name, row.Size)
	}
	r.calls = append(r.calls, volley.Call{Number: unix.SYS_FSTAT, Args: [6]uintptr{0, uintptr(unsafe.Pointer(&r.stat))}})
	return r
}

// Current returns r, which may be nil, or another one if r does not read what is to be read by now.
func (r *Reads) Current(used *OptionsUsed) *Reads {
	if r == nil || r.used != used.snapshot() || r.protocol == 0 && used.Others.Load() {
		return newReads(used)
	}
	return r
}

// Into reads what a swap needs to know of a TCP or MPTCP socket, of which fd is a copy, but for its
// state and its flags; of the file only where that is not known. It is false for anything else.
func (r *Reads) Into(s *Socket, fd int, known bool) (ok bool) {
	calls := r.calls
	if known {
		calls = calls[:len(calls)-1]
	}
	*s = Socket{}
	if !r.ask(calls, fd) || r.nameLen < linux.SizeofSockaddrIn {
		return false
	}
	s.Proto = r.protocolOf(fd)
	if s.Proto != unix.IPPROTO_TCP && s.Proto != unix.IPPROTO_MPTCP {
		return false
	}
	s.Kind, s.Netns, s.Reads = unix.SOCK_STREAM, binary.NativeEndian.Uint64(r.values[readNetns][:]), r
	s.Name, s.nameLen = r.name, r.nameLen
	s.named()
	if s.Domain != unix.AF_INET && s.Domain != unix.AF_INET6 {
		return false
	}
	if !known {
		s.Inode = InodeIn(&r.stat)
	}
	return true
}

// ask makes calls, the first of r's or all of them, about a socket. It is false if one fails that
// must not.
func (r *Reads) ask(calls []volley.Call, fd int) (ok bool) {
	r.nameLen, r.lengths = uint32(len(r.name)), r.sizes
	for i := range calls {
		calls[i].Args[0] = uintptr(fd)
	}
	return volley.Make(calls, r.needed)
}

// protocolOf returns the protocol of the socket fd, which has been asked.
func (r *Reads) protocolOf(fd int) int {
	if r.protocol > 0 {
		return int(binary.NativeEndian.Uint32(r.values[r.protocol][:]))
	}
	proto := int32(unix.IPPROTO_TCP)
	if r.anyFailed() {
		linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&proto), 4)
	}
	return int(proto)
}

// anyFailed reports whether the socket that was asked does not have one of the options.
func (r *Reads) anyFailed() bool {
	for i := range r.calls {
		if r.options[i] >= 0 && r.calls[i].Errno() != 0 {
			return true
		}
	}
	return false
}

// option reads the option of a row of sockopts from the socket fd, unless r, which may be nil,
// tells what it is.
func (r *Reads) option(fd, row int, value *[MaxSockopt]byte) unix.Errno {
	if r != nil && r.rows[row] > 0 {
		i := r.rows[row] - 1
		*value = r.values[i]
		return r.calls[i].Errno()
	}
	return linux.Getsockopt(fd, Options[row].Level, Options[row].Name, unsafe.Pointer(value), Options[row].Size)
}

// equalDefaults reports whether all options of an AF_INET TCP socket, of which nothing rare was
// ever set, are as d has them. It is false if r, which may be nil, does not tell.
func (r *Reads) equalDefaults(d *Defaults) bool {
	if r == nil || !r.whole || !d.Known.Load() {
		return false
	}
	for i := range r.calls {
		if row := r.options[i]; row >= 0 && (r.calls[i].Errno() != 0 || r.values[i] != d.Values[row]) {
			return false
		}
	}
	return true
}

// tunesBuffers reports whether r, which may be nil, tells that the kernel chooses the sizes of both
// buffers.
func (r *Reads) tunesBuffers(row int) bool {
	if r == nil || r.rows[row] == 0 {
		return false
	}
	i := r.rows[row] - 1
	return r.calls[i].Errno() == 0 && linux.AllZero(r.values[i][:4])
}
