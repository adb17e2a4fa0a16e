// Package peek looks at a descriptor of another process, and at the socket behind it, in the kernel
// itself, with a BPF program. One call tells what otherwise takes some twenty, and some things that
// no other call does: how many references a file has, and whether it is in an epoll set. It takes
// CAP_BPF and CAP_PERFMON.
//
// The program is run by bpf(2) BPF_PROG_TEST_RUN, reads and changes nothing, and is attached to
// nothing. Another one, of a [Teller], is attached to a tracepoint and tells of signals.
package peek

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
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

// program writes the program for a kernel with these types.
func (p *Peeker) program(t *types) ([]byte, error) {
	var failed error
	at := func(of, path string) uint32 {
		offset, err := t.field(of, path)
		if err != nil && failed == nil {
			failed = err
		}
		return offset
	}
	fromPID, err := t.function("bpf_task_from_vpid")
	if err != nil {
		return nil, err
	}
	release, err := t.function("bpf_task_release")
	if err != nil {
		return nil, err
	}
	a := &assembler{labels: map[string]int{}, jumps: map[int]string{}}

	a.move(r6, r1)
	a.clear()
	a.load32(r1, r6, ctxTID)
	a.callKernel(fromPID)
	a.ifZero(r0, "gone")
	a.move(r7, r0)

	// The descriptor table.
	a.follow(r8, r7, at("task_struct", "files"), "done")
	a.readTo(ctxTable, 4, r8, at("files_struct", "count"))
	a.follow(r8, r8, at("files_struct", "fdt"), "done")
	a.readTo(ctxMax, 4, r8, at("fdtable", "max_fds"))
	a.load32(r9, r6, ctxFD)
	a.load32(r1, r10, slot(ctxMax))
	a.ifNotBelow(r9, r1, "done")
	// The word of close_on_exec, and the bit in it.
	a.follow(r2, r8, at("fdtable", "close_on_exec"), "done")
	a.move(r3, r9)
	a.shiftRight(r3, 6)
	a.shiftLeft(r3, 3)
	a.add(r3, r2)
	a.readTo(ctxWord, 8, r3, 0)
	a.load(r1, r10, slot(ctxWord))
	a.move(r2, r9)
	a.and(r2, 63)
	a.shiftRightBy(r1, r2)
	a.and(r1, 1)
	a.store(r10, r1, slot(ctxCloexec))
	// The file.
	a.follow(r1, r8, at("fdtable", "fd"), "done")
	a.shiftLeft(r9, 3)
	a.add(r1, r9)
	a.follow(r8, r1, 0, "done")
	a.store(r10, r8, slot(ctxFile))
	p.singleRef = 0 // FILE_REF_ONEREF
	refs := "f_ref"
	if !t.has("file", refs) {
		refs, p.singleRef = "f_count", 1 // before Linux 6.13
	}
	a.readTo(ctxRefs, 8, r8, at("file", refs))
	// Its places in epoll sets are a list: struct hlist_head, then struct hlist_node.
	p.places = knowsPlaces(t)
	a.follow(r9, r8, at("file", "f_ep"), "unwatched")
	for n := range MaxWatched {
		a.follow(r9, r9, 0, "unwatched")
		a.moveImm(r1, int32(n+1))
		a.store(r10, r1, slot(ctxEpoll))
		if p.places {
			a.readPlace(ctxPlaces+n*placeSize, r9, at)
		}
	}
	a.label("unwatched")
	a.readTo(ctxFlags, 4, r8, at("file", "f_flags"))
	owner := "f_owner" // a pointer since Linux 6.12
	if t.has("file", "f_owner.pid") {
		owner = "f_owner.pid"
	}
	a.readTo(ctxOwner, 8, r8, at("file", owner))
	a.follow(r9, r8, at("file", "f_inode"), "done")
	a.readTo(ctxMode, 2, r9, at("inode", "i_mode"))
	a.readTo(ctxUID, 4, r9, at("inode", "i_uid"))
	a.readTo(ctxGID, 4, r9, at("inode", "i_gid"))
	a.readTo(ctxIno, 8, r9, at("inode", "i_ino"))
	// Only a socket has the rest; the caller sees by the mode whether it is one. Reading is
	// harmless if not.
	a.follow(r8, r8, at("file", "private_data"), "done")
	a.readTo(ctxSocket, 1, r8, at("socket", "state"))
	a.follow(r8, r8, at("socket", "sk"), "done")
	a.follow(r9, r8, at("sock", "__sk_common.skc_net.net"), "done")
	a.readTo(ctxCookie, 8, r9, at("net", "net_cookie"))
	for _, part := range []struct {
		at, size int
		fields   []field
	}{{ctxSig, MaxCommon, common}, {ctxStream, MaxStream, stream}, {ctxDatagram, MaxDatagram, datagram}} {
		// In the order of the struct, so that what is next to each other can be read at once.
		type place struct {
			offset uint32
			field
		}
		var places []place
		for _, f := range part.fields {
			if !f.optional || t.has(f.of, f.path) {
				places = append(places, place{at(f.of, f.path), f})
			}
		}
		slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.offset, b.offset) })
		length := 0
		for i := 0; i < len(places); {
			first, size := places[i], 0
			for ; i < len(places) && places[i].offset == first.offset+uint32(size); i++ {
				if length+size+places[i].size > part.size {
					return nil, fmt.Errorf("a signature of more than %d bytes", part.size)
				}
				if places[i].keep != nil {
					*places[i].keep(p) = length + size
				}
				size += places[i].size
			}
			a.readTo(part.at+length, size, r8, first.offset)
			length += size
		}
	}

	a.label("done")
	a.move(r1, r7)
	a.callKernel(release)
	a.label("gone")
	a.give(r6, ctxFile)
	a.moveImm(r0, 0)
	a.exit()
	if failed != nil {
		return nil, failed
	}
	return a.bytes()
}

// placeFields are what is read of a place in an epoll set.
var placeFields = []struct{ of, path string }{
	{"epitem", "fllink"}, {"epitem", "ffd.file"}, {"epitem", "ffd.fd"}, {"epitem", "event"}, {"epitem", "ep"},
	{"epoll_event", "events"}, {"epoll_event", "data"}, {"eventpoll", "file"},
}

// knowsPlaces reports whether the kernel's types tell all that is read of a place in an epoll set.
func knowsPlaces(t *types) bool {
	return !slices.ContainsFunc(placeFields, func(f struct{ of, path string }) bool { return !t.has(f.of, f.path) })
}

// readPlace reads a place in an epoll set. node is a register with the address of its
// epitem.fllink.
func (a *assembler) readPlace(context int, node uint8, at func(of, path string) uint32) {
	link, event := at("epitem", "fllink"), at("epitem", "event")
	a.readTo(context+placeFile, 8, node, at("epitem", "ffd.file")-link)
	a.readTo(context+placeNumber, 4, node, at("epitem", "ffd.fd")-link)
	a.readTo(context+placeEvents, 4, node, event+at("epoll_event", "events")-link)
	a.readTo(context+placeData, 8, node, event+at("epoll_event", "data")-link)
	a.follow(r1, node, at("epitem", "ep")-link, "unwatched")
	a.readTo(context+placeSet, 8, r1, at("eventpoll", "file"))
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
