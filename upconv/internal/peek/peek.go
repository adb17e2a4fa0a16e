// Package peek looks at a descriptor of another process, and at the socket behind it, in the kernel
// itself, with a BPF program. One call tells what otherwise takes some twenty, and some things that
// no other call does: how many references a file has, and whether it is in an epoll set. It takes
// CAP_BPF and CAP_PERFMON.
//
// The program is run by bpf(2) BPF_PROG_TEST_RUN, reads and changes nothing, and is attached to
// nothing. Another one, of a [Teller], is attached to a tracepoint and tells of signals.
package peek

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peeker is the loaded programs. Its methods may be called at the same time.
type Peeker struct {
	fd        int
	threads   int    // the program of LookAtThread
	tasks     tasks  // for the program of a Teller
	singleRef uint64 // what the counter of references says of one
	places    bool   // the kernel's types tell what is in a place
	// Where some fields are in the signature.
	family, state, kind, protocol, shutdown, locks int

	wanted atomic.Uint64 // the bit of a thread's flags that says that it is to leave its call; 0: not known
}

// Layout of the program's context: what it is asked, what it found, and the signature.
const (
	ctxTID     = 0
	ctxFD      = 4
	ctxFile    = 8  // struct file *; 0: no such descriptor
	ctxRefs    = 16 // its counter of references
	ctxEpoll   = 24 // file.f_ep
	ctxOwner   = 32 // file.f_owner
	ctxCookie  = 40 // net.net_cookie
	ctxCloexec = 48
	ctxFlags   = 56 // file.f_flags
	ctxMode    = 60 // inode.i_mode, two bytes
	ctxUID     = 64
	ctxGID     = 68
	ctxIno     = 72
	ctxTable   = 80 // files_struct.count
	ctxMax     = 96 // scratch: fdtable.max_fds
	ctxWord    = 104
	ctxSig     = 112
	ctxSocket  = 93 // socket.state, of which a byte is enough

	// MaxWatched is how far places in epoll sets are counted.
	MaxWatched = 4
	// MaxCommon, MaxStream and MaxDatagram are the most bytes that the parts of a signature have.
	MaxCommon   = 112
	MaxStream   = 32
	MaxDatagram = 16
	ctxStream   = ctxSig + MaxCommon
	ctxDatagram = ctxStream + MaxStream
	ctxPlaces   = ctxDatagram + MaxDatagram
	ctxSize     = ctxPlaces + MaxWatched*placeSize
)

// Layout of one place in an epoll set.
const (
	placeFile   = 0 // epitem.ffd: the file that is watched
	placeNumber = 8
	placeEvents = 12 // epitem.event
	placeData   = 16
	placeSet    = 24 // the file of the set
	placeSize   = 32
)

// Place is what an epoll set knows of one file under one number.
type Place struct {
	Set    uint64 // names the set's own open file, as Sight.File does
	Number int    // of the watched descriptor when it was added
	Events uint32
	Data   uint64
}

// Sight is what was seen.
type Sight struct {
	File        uint64 // names the open file as long as it is open; 0: there is no such descriptor
	Refs        int    // how many descriptors, calls and processes refer to the open file
	OwnTable    bool   // no other thread has the same table of descriptors
	Table       int    // how many threads have it, and calls that look at it
	Watched     int    // how many places in epoll sets it has; MaxWatched stands for that many or more
	Owned       bool   // F_SETOWN or F_SETSIG was used on it
	CloseOnExec bool
	Flags       int    // file status flags
	Mode        uint32 // of its inode, with the file type
	UID, GID    int    // of its inode, in the initial user namespace
	Ino         uint64
	NetNS       uint64 // SO_NETNS_COOKIE, if it is a socket
	// Of a socket:
	Family, Type, Protocol int
	State                  int   // TCP_CLOSE and so on
	Unconnected            bool  // SS_UNCONNECTED: no connect(2) is under way, or has failed without its result being fetched
	Shutdown               uint8 // RCV_SHUTDOWN 1, SEND_SHUTDOWN 2
	BoundPort              bool  // bind(2) was asked for the port that it has (SOCK_BINDPORT_LOCK)
	// The signature is all of a socket that socket options set and that a connect(2) starts from.
	// Two TCP sockets of one family with the same Common and Stream are in the same state, and so
	// are two UDP sockets with the same Common and Datagram. It is only for comparing.
	Common   [MaxCommon]byte
	Stream   [MaxStream]byte
	Datagram [MaxDatagram]byte

	places     [MaxWatched]Place
	placeCount int
}

// Places returns the file's places in epoll sets, the latest first, if [Peeker.KnowsPlaces]. One
// that another thread is removing just now may be left out. The slice is valid until the next Look
// into s.
func (s *Sight) Places() []Place { return s.places[:s.placeCount] }

// Closed reports whether this is of a socket that was being closed in that moment: its file has no
// struct sock any more.
func (s *Sight) Closed() bool { return s.Mode&unix.S_IFMT == unix.S_IFSOCK && s.Family == 0 }

// field is a member of a struct, and how many bytes of it belong to the signature.
type field struct {
	of, path string
	size     int
	optional bool               // not in every kernel
	keep     func(*Peeker) *int // where to note its place
}

// What is compared. All of it is at a fixed place in struct tcp_sock or struct udp_sock, which
// begin with the others.
var common = []field{
	{of: "sock", path: "__sk_common.skc_family", size: 2, keep: func(p *Peeker) *int { return &p.family }},
	{of: "sock", path: "__sk_common.skc_state", size: 1, keep: func(p *Peeker) *int { return &p.state }},
	{of: "sock", path: "__sk_common.skc_reuse", size: 1}, // and skc_reuseport, skc_ipv6only
	{of: "sock", path: "__sk_common.skc_bound_dev_if", size: 4},
	{of: "sock", path: "__sk_common.skc_num", size: 2},
	{of: "sock", path: "__sk_common.skc_rcv_saddr", size: 4},
	{of: "sock", path: "__sk_common.skc_v6_rcv_saddr", size: 16, optional: true},
	{of: "sock", path: "sk_protocol", size: 2, keep: func(p *Peeker) *int { return &p.protocol }},
	{of: "sock", path: "sk_type", size: 2, keep: func(p *Peeker) *int { return &p.kind }},
	{of: "sock", path: "sk_shutdown", size: 1, keep: func(p *Peeker) *int { return &p.shutdown }},
	{of: "sock", path: "sk_userlocks", size: 1, keep: func(p *Peeker) *int { return &p.locks }},
	{of: "sock", path: "sk_err", size: 4},
	{of: "sock", path: "__sk_common.skc_flags", size: 8},
	{of: "sock", path: "sk_lingertime", size: 8},
	{of: "sock", path: "sk_rcvtimeo", size: 8},
	{of: "sock", path: "sk_sndtimeo", size: 8},
	{of: "sock", path: "sk_rcvlowat", size: 4},
	{of: "sock", path: "sk_sndbuf", size: 4},
	{of: "sock", path: "sk_rcvbuf", size: 4},
	{of: "sock", path: "sk_priority", size: 4},
	{of: "sock", path: "sk_mark", size: 4},
	{of: "sock", path: "sk_filter", size: 8},
	{of: "inet_sock", path: "tos", size: 1},
	{of: "inet_sock", path: "uc_ttl", size: 2},
	{of: "inet_sock", path: "pmtudisc", size: 1},
	{of: "inet_sock", path: "inet_flags", size: 8},
}

var stream = []field{
	{of: "inet_connection_sock", path: "icsk_ack.pingpong", size: 1},
	{of: "inet_connection_sock", path: "icsk_user_timeout", size: 4},
	{of: "inet_connection_sock", path: "icsk_ca_ops", size: 8},
	{of: "inet_connection_sock", path: "icsk_syn_retries", size: 1},
	{of: "tcp_sock", path: "nonagle", size: 1}, // and its neighbours
	{of: "tcp_sock", path: "repair", size: 1},
	{of: "tcp_sock", path: "keepalive_time", size: 4},
	{of: "tcp_sock", path: "keepalive_intvl", size: 4},
	{of: "tcp_sock", path: "keepalive_probes", size: 1},
}

var datagram = []field{
	{of: "udp_sock", path: "udp_flags", size: 8}, // UDP_CORK, UDP_GRO and so on
	{of: "udp_sock", path: "encap_type", size: 1},
	{of: "udp_sock", path: "gso_size", size: 2}, // UDP_SEGMENT
}

// Allowed reports whether bpf(2) reaches the kernel: filters of containers refuse it. It takes no
// time.
func Allowed() bool {
	var attr [16]byte // a map of type 0, which there is not
	_, errno := bpf(bpfMapCreate, &attr)
	return errno == unix.EINVAL
}

// Open loads the program for this kernel. Without the capabilities the error is EPERM.
func Open() (*Peeker, error) {
	names := []string{
		"task_struct", "files_struct", "fdtable", "file", "inode", "socket", "sock", "net", "inet_sock",
		"inet_connection_sock", "tcp_sock", "udp_sock", "signal_struct", "epitem", "eventpoll", "epoll_event",
		"bpf_task_from_vpid", "bpf_task_release",
	}
	p := &Peeker{}
	var code, threads []byte
	if err := withKernelTypes(names, func(t *types) (err error) {
		if code, err = p.program(t); err == nil {
			threads, err = threadProgram(t)
		}
		p.tasks = tasksOf(t)
		return err
	}); err != nil {
		return nil, err
	}
	var err error
	if p.fd, err = load("upconv_peek", bpfProgTypeSyscal, bpfSleepable, code); err != nil {
		return nil, err
	}
	if p.threads, err = load("upconv_thread", bpfProgTypeSyscal, bpfSleepable, threads); err != nil {
		unix.Close(p.fd)
		return nil, err
	}
	return p, nil
}

// Close gives the programs back.
func (p *Peeker) Close() {
	unix.Close(p.fd)
	unix.Close(p.threads)
}

// KnowsPlaces reports whether Look tells what a file's places in epoll sets are, and not only how
// many it has.
func (p *Peeker) KnowsPlaces() bool { return p.places }

// Look looks at descriptor fd of the thread tid, in this process's pid namespace. s.File is 0 where
// there is none.
func (p *Peeker) Look(tid, fd int, s *Sight) unix.Errno {
	var ctx [ctxSize]byte
	order := binary.NativeEndian
	order.PutUint32(ctx[ctxTID:], uint32(tid))
	order.PutUint32(ctx[ctxFD:], uint32(fd))
	if errno := testRun(p.fd, ctx[:]); errno != 0 {
		return errno
	}
	s.File = order.Uint64(ctx[ctxFile:])
	s.Refs = int(order.Uint64(ctx[ctxRefs:])-p.singleRef) + 1
	s.Table = int(order.Uint32(ctx[ctxTable:]))
	s.OwnTable = s.Table == 1
	s.Watched = int(ctx[ctxEpoll])
	s.Unconnected = ctx[ctxSocket] == 1
	s.Owned = order.Uint64(ctx[ctxOwner:]) != 0
	s.CloseOnExec = ctx[ctxCloexec] != 0
	s.Flags = int(order.Uint32(ctx[ctxFlags:]))
	s.Mode = uint32(order.Uint16(ctx[ctxMode:]))
	s.UID, s.GID = int(order.Uint32(ctx[ctxUID:])), int(order.Uint32(ctx[ctxGID:]))
	s.Ino = order.Uint64(ctx[ctxIno:])
	s.NetNS = order.Uint64(ctx[ctxCookie:])
	sig := ctx[ctxSig:]
	s.Family, s.State = int(order.Uint16(sig[p.family:])), int(sig[p.state])
	s.Type, s.Protocol = int(order.Uint16(sig[p.kind:])), int(order.Uint16(sig[p.protocol:]))
	s.Shutdown = sig[p.shutdown]
	s.BoundPort = sig[p.locks]&8 != 0
	copy(s.Common[:], ctx[ctxSig:])
	copy(s.Stream[:], ctx[ctxStream:])
	copy(s.Datagram[:], ctx[ctxDatagram:])
	s.placeCount = 0
	for n := range s.Watched {
		place := ctx[ctxPlaces+n*placeSize:]
		set := order.Uint64(place[placeSet:])
		if set == 0 || order.Uint64(place[placeFile:]) != s.File {
			continue // nothing keeps a place from being removed while it is read
		}
		s.places[s.placeCount] = Place{
			Set: set, Number: int(int32(order.Uint32(place[placeNumber:]))),
			Events: order.Uint32(place[placeEvents:]), Data: order.Uint64(place[placeData:]),
		}
		s.placeCount++
	}
	return 0
}

func bpf[T any](command int, attr *T) (int, unix.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	return int(fd), errno
}
