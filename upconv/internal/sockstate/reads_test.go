package sockstate

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// TestReadTCP holds that one volley tells of a socket what single calls do, and of nothing but TCP
// and MPTCP, whether SO_PROTOCOL is in it or not.
func TestReadTCP(t *testing.T) {
	for _, others := range []bool{false, true} {
		var r reader
		r.used.Others.Store(others)
		t.Run(fmt.Sprintf("others %v", others), func(t *testing.T) { testReadTCP(t, &r) })
		if mptcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP); err == nil {
			unix.Close(mptcp)
			if is := r.reads.protocol > 0; is != others {
				t.Errorf("others: %v, and SO_PROTOCOL is read: %v", others, is)
			}
		}
	}
}

// reader reads sockets as a worker does.
type reader struct {
	used  OptionsUsed
	reads *Reads
}

func (r *reader) read(fd int, sock *Socket) bool {
	r.reads = r.reads.Current(&r.used)
	return r.reads.Into(sock, fd, false)
}

func testReadTCP(t *testing.T, r *reader) {
	for _, test := range []struct {
		domain, kind, proto int
		port                uint16
		is                  bool
	}{
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0, true},
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, freePort(t), true},
		{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP, 0, true},
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, 0, true},
		{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP, 0, false},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP, 0, false}, // root's
		{unix.AF_UNIX, unix.SOCK_STREAM, 0, 0, false},
		{unix.AF_NETLINK, unix.SOCK_RAW, unix.IPPROTO_TCP, 0, false}, // which is NETLINK_XFRM there
	} {
		name := fmt.Sprintf("domain %d type %d protocol %d", test.domain, test.kind, test.proto)
		fd, err := unix.Socket(test.domain, test.kind|unix.SOCK_CLOEXEC, test.proto)
		if err != nil {
			if test.kind != unix.SOCK_RAW && test.proto != unix.IPPROTO_MPTCP {
				t.Errorf("%s: %v", name, err)
			}
			continue // not everybody may, and not every kernel has it
		}
		defer unix.Close(fd)
		if test.port != 0 {
			at := &unix.SockaddrInet4{Port: int(test.port), Addr: netip.MustParseAddr("127.0.0.1").As4()}
			if err := unix.Bind(fd, at); err != nil {
				t.Fatal(err)
			}
		}
		var sock, want Socket
		if is := r.read(fd, &sock); is != test.is {
			t.Errorf("%s: read: %v", name, is)
		}
		if !test.is {
			continue
		}
		if !want.ReadStream(fd) || !want.readNetns(fd) {
			t.Fatalf("%s cannot be read call by call", name)
		}
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			t.Fatal(err)
		}
		want.Reads, want.Inode = sock.Reads, InodeIn(&stat)
		if sock != want {
			t.Errorf("%s: %+v, want %+v", name, sock, want)
		}
	}
}

// freePort returns a port that nobody has.
func freePort(t *testing.T) uint16 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var sock Socket
	if unix.Bind(fd, &unix.SockaddrInet4{}) != nil || !sock.ReadName(fd) {
		t.Fatal("no port")
	}
	return sock.Port()
}

// TestReadOptions sets every option that is always read, one at a time, on a socket that has been
// read before, and holds that the next volley has just that, or that it is read by a call of its
// own.
func TestReadOptions(t *testing.T) {
	var r reader
	set := map[string]any{
		"SO_REUSEADDR": int32(1), "SO_KEEPALIVE": int32(1), "SO_LINGER": unix.Linger{Onoff: 1, Linger: 7},
		"SO_RCVTIMEO": unix.Timeval{Sec: 3, Usec: 500000}, "SO_SNDTIMEO": unix.Timeval{Sec: 4}, "SO_SNDBUF or SO_RCVBUF": int32(10000),
		"SO_RCVLOWAT": int32(3), "TCP_NODELAY": int32(1), "TCP_CORK": int32(1), "TCP_QUICKACK": int32(0), "TCP_KEEPIDLE": int32(77),
		"TCP_KEEPINTVL": int32(78), "TCP_KEEPCNT": int32(5), "IPV6_V6ONLY": int32(1), "IP_RECVERR": int32(1), "SO_BROADCAST": int32(1),
		"IP_MTU_DISCOVER": int32(unix.IP_PMTUDISC_DO),
	}
	volleyed := 0
	for i := range Options {
		row := &Options[i]
		if !row.Always || !row.IsOf(&Socket{Kind: unix.SOCK_STREAM, Domain: unix.AF_INET6}) {
			continue
		}
		value, known := set[row.Label]
		if !known {
			t.Errorf("%s is not tested", row.Label)
			continue
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var before, after, want [MaxSockopt]byte
		read := func(to *[MaxSockopt]byte) {
			var sock Socket
			if !r.read(fd, &sock) {
				t.Fatal("not TCP")
			}
			if row.Carry != nil {
				if sock.Reads.tunesBuffers(i) {
					to[0] = 1
				}
				return
			}
			if errno := sock.Reads.option(fd, i, to); errno != 0 {
				t.Errorf("%s: %v", row.Label, errno)
			}
		}
		read(&before)
		var errno unix.Errno
		switch v := value.(type) {
		case int32:
			errno = linux.Setsockopt(fd, row.Level, row.Name, unsafe.Pointer(&v), 4)
		case unix.Linger:
			errno = linux.Setsockopt(fd, row.Level, row.Name, unsafe.Pointer(&v), row.Size)
		case unix.Timeval:
			errno = linux.Setsockopt(fd, row.Level, row.Name, unsafe.Pointer(&v), row.Size)
		}
		if errno != 0 {
			t.Errorf("set %s: %v", row.Label, errno)
		}
		read(&after)
		if before == after {
			t.Errorf("%s: still %v after it was set", row.Label, after)
		}
		if row.Carry == nil {
			if linux.Getsockopt(fd, row.Level, row.Name, unsafe.Pointer(&want), row.Size); after != want {
				t.Errorf("%s: %v, want %v", row.Label, after, want)
			}
		} else if binary.NativeEndian.Uint32(before[:]) != 1 || after[0] != 0 {
			t.Errorf("%s: tuned: %v, then %v", row.Label, before[0], after[0])
		}
		if r.reads.rows[i] > 0 {
			volleyed++
		}
	}
	if want := 16; volleyed != want {
		t.Errorf("%d options are read in a volley, want %d", volleyed, want)
	}
	if len(r.reads.calls) > maxReads {
		t.Errorf("%d calls: there is no room for more", len(r.reads.calls))
	}
}

// TestReadNotedOptions holds that an option that setsockopt(2) is stopped for is read from then on
// that it was set, by any of its names, and not before.
func TestReadNotedOptions(t *testing.T) {
	for option, name := range map[int]string{
		unix.SO_RCVTIMEO: "SO_RCVTIMEO", SoRcvTimeoNew: "SO_RCVTIMEO", unix.SO_SNDTIMEO: "SO_SNDTIMEO", SoSndTimeoNew: "SO_SNDTIMEO",
		unix.SO_SNDBUF: "SO_SNDBUF or SO_RCVBUF", unix.SO_RCVBUF: "SO_SNDBUF or SO_RCVBUF", unix.SO_SNDBUFFORCE: "SO_SNDBUF or SO_RCVBUF",
		unix.SO_RCVBUFFORCE: "SO_SNDBUF or SO_RCVBUF", unix.SO_REUSEADDR: "SO_REUSEADDR",
	} {
		var r reader
		r.used.Note(func(row *Option) bool { return row.Always && !row.Blind }) // as without a look in the kernel
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		row := slices.IndexFunc(Options, func(row Option) bool { return row.Label == name })
		var sock Socket
		for _, set := range []bool{false, true} {
			if set {
				r.used.NoteSetting(unix.SOL_SOCKET, option)
			}
			if !r.read(fd, &sock) {
				t.Fatal("not TCP")
			}
			if is := sock.Reads.rows[row] > 0; is != set {
				t.Errorf("option %d (%s): set: %v, and read: %v", option, name, set, is)
			}
		}
	}
}

// TestEqualDefaults holds that a socket of which nothing was set has the default options, and one
// of which any was set that is read has not.
func TestEqualDefaults(t *testing.T) {
	var r reader
	newTCP := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	var d Defaults
	same := func(fd int) bool {
		var sock Socket
		if !r.read(fd, &sock) {
			t.Fatal("not TCP")
		}
		return sock.Reads.equalDefaults(&d)
	}
	fresh := newTCP()
	if same(fresh) {
		t.Error("defaults that are not known are equal")
	}
	d.learn(newTCP(), unix.AF_INET)
	if !same(fresh) {
		t.Error("a new socket has other options than another new one")
	}
	read := 0
	for i := range Options {
		row := &Options[i]
		if r.reads.rows[i] == 0 {
			continue
		}
		read++
		fd, value := newTCP(), [4]int32{1, 7}
		switch row.Name {
		case unix.SO_SNDBUF:
			value[0] = 10000
		case unix.TCP_QUICKACK:
			if row.Level == unix.IPPROTO_TCP {
				value[0] = 0
			}
		}
		if row.Name == unix.SO_RCVLOWAT && row.Level == unix.SOL_SOCKET || row.Name == unix.IP_MTU_DISCOVER && row.Level == unix.IPPROTO_IP {
			value[0] = 3
		}
		if errno := linux.Setsockopt(fd, row.Level, row.Name, unsafe.Pointer(&value), row.Size); errno != 0 {
			t.Errorf("set %s: %v", row.Label, errno)
		}
		if same(fd) {
			t.Errorf("%s was set, and seems not to be", row.Label)
		}
	}
	if read < 10 {
		t.Errorf("only %d options are read", read)
	}
}
