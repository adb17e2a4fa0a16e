package peek

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// open loads the program, or skips the test where that is not permitted.
func open(t testing.TB) *Peeker {
	t.Helper()
	p, err := Open()
	if errors.Is(err, unix.EPERM) && os.Getenv("UPCONV_TEST_ALL") == "" {
		t.Skipf("needs CAP_BPF and CAP_PERFMON: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func socket(t testing.TB, domain, kind int) int {
	t.Helper()
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func look(t testing.TB, p *Peeker, fd int) (s Sight) {
	t.Helper()
	if errno := p.Look(os.Getpid(), fd, &s); errno != 0 {
		t.Fatal(errno)
	}
	return s
}

func TestAllowed(t *testing.T) {
	open(t)
	if !Allowed() {
		t.Error("bpf(2) reaches the kernel here, or no other test could tell anything")
	}
}

// What is seen is what the system calls say.
func TestLook(t *testing.T) {
	p := open(t)
	for _, c := range []struct{ domain, kind, protocol int }{
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		{unix.AF_UNIX, unix.SOCK_STREAM, 0},
	} {
		fd := socket(t, c.domain, c.kind)
		s := look(t, p, fd)
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			t.Fatal(err)
		}
		if s.File == 0 || s.Family != c.domain || s.Type != c.kind || s.Protocol != c.protocol || s.NetNS != cookie ||
			s.Ino != stat.Ino || s.Mode != stat.Mode || s.UID != int(stat.Uid) || s.GID != int(stat.Gid) {
			t.Errorf("%+v: %+v, want cookie %d and %+v", c, s, cookie, stat)
		}
		if s.Refs != 1 || s.OwnTable || s.Watched != 0 || s.Owned || !s.CloseOnExec || !s.Unconnected || s.Shutdown != 0 || s.BoundPort {
			t.Errorf("%+v, untouched: %+v", c, s)
		}
	}
}

func TestLookAtNothing(t *testing.T) {
	p := open(t)
	for _, fd := range []int{-1, 999, 1 << 20, 1<<31 - 1} {
		if s := look(t, p, fd); s.File != 0 {
			t.Errorf("descriptor %d: %+v", fd, s)
		}
	}
	s := Sight{File: 1}
	if errno := p.Look(1<<22, 0, &s); errno != 0 || s.File != 0 { // more than pid_max
		t.Errorf("a thread that there is not: %v, %+v", errno, s)
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	if s := look(t, p, null); s.File == 0 || s.Mode&unix.S_IFMT != unix.S_IFCHR || s.CloseOnExec {
		t.Errorf("/dev/null: %+v", s)
	}
}

// What a program does to its file and to its descriptors.
func TestLookAtFile(t *testing.T) {
	p := open(t)
	fd := socket(t, unix.AF_INET, unix.SOCK_STREAM)
	file := look(t, p, fd).File

	other, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	if s := look(t, p, fd); s.Refs != 2 {
		t.Errorf("with a dup: %d references", s.Refs)
	}
	if s := look(t, p, other); s.File != file || s.CloseOnExec {
		t.Errorf("the dup: %+v", s)
	}
	unix.Close(other)
	if s := look(t, p, fd); s.Refs != 1 {
		t.Errorf("the dup is closed: %d references", s.Refs)
	}
	passed, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command("cat") // has one thread
	process.ExtraFiles = []*os.File{os.NewFile(uintptr(passed), "socket")}
	defer process.ExtraFiles[0].Close()
	stdin, err := process.StdinPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var s Sight
	if errno := p.Look(process.Process.Pid, 3, &s); errno != 0 || s.File != file || s.Refs != 3 || !s.OwnTable {
		t.Errorf("another process's: %+v, %v", s, errno)
	}
	stdin.Close()
	process.Wait()

	if !p.KnowsPlaces() {
		t.Error("what its places in epoll sets are cannot be seen")
	}
	var places []Place
	for n := 1; n <= MaxWatched+2; n++ {
		set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(set)
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(n), Pad: -7}
		if err := unix.EpollCtl(set, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			t.Fatal(err)
		}
		const always = unix.EPOLLERR | unix.EPOLLHUP // epoll_ctl(2) adds these
		places = slices.Insert(places, 0, Place{
			Set: look(t, p, set).File, Number: fd, Events: event.Events | always, Data: uint64(0xfffffff9)<<32 | uint64(n),
		})
		s := look(t, p, fd)
		if s.Watched != min(n, MaxWatched) {
			t.Errorf("in %d sets: seen in %d", n, s.Watched)
		}
		if !slices.Equal(s.Places(), places[:s.Watched]) {
			t.Errorf("in %d sets: the places are %+v, and seen is %+v", n, places, s.Places())
		}
	}

	unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK)
	unix.FcntlInt(uintptr(fd), unix.F_SETOWN, os.Getpid())
	if s := look(t, p, fd); s.Flags&unix.O_NONBLOCK == 0 || !s.Owned {
		t.Errorf("O_NONBLOCK and F_SETOWN: %+v", s)
	}
	unix.Shutdown(fd, unix.SHUT_RD) // ENOTCONN, and yet
	if s := look(t, p, fd); s.Shutdown != 1 {
		t.Errorf("shut down for reading: %d", s.Shutdown)
	}
}

// signature is what of a TCP socket is compared.
func signature(s Sight) [MaxCommon + MaxStream]byte {
	return [MaxCommon + MaxStream]byte(append(s.Common[:], s.Stream[:]...))
}

// touches is what a program can do to a socket of either type, and what must show.
func touches(others map[string]func(fd int) error) map[string]func(fd int) error {
	all := map[string]func(fd int) error{
		"SO_REUSEADDR": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) },
		"SO_KEEPALIVE": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1) },
		"SO_BROADCAST": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) },
		"SO_RCVTIMEO": func(fd int) error {
			return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 9})
		},
		"SO_SNDTIMEO": func(fd int) error {
			return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 9})
		},
		"SO_SNDBUF":   func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 99999) },
		"SO_RCVBUF":   func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 65536) },
		"SO_RCVLOWAT": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 5) },
		"IP_RECVERR":  func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1) },
		"bind, port": func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrInet4{})
		},
		"bind, address and port": func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		},
		"shutdown": func(fd int) error { unix.Shutdown(fd, unix.SHUT_WR); return nil },
	}
	maps.Copy(all, others)
	return all
}

// The signature changes with everything that the upconv package relies on it for.
func TestSignature(t *testing.T) {
	p := open(t)
	fresh := signature(look(t, p, socket(t, unix.AF_INET, unix.SOCK_STREAM)))
	if again := signature(look(t, p, socket(t, unix.AF_INET, unix.SOCK_STREAM))); again != fresh {
		t.Fatalf("two untouched sockets differ:\n%v\n%v", fresh, again)
	}
	for name, touch := range touches(map[string]func(fd int) error{
		"SO_LINGER": func(fd int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
		},
		"TCP_NODELAY":  func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) },
		"TCP_CORK":     func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK, 1) },
		"TCP_QUICKACK": func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) },
		"TCP_KEEPIDLE": func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77) },
		"TCP_KEEPINTVL": func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 7)
		},
		"TCP_KEEPCNT": func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3) },
		"listen":      func(fd int) error { return unix.Listen(fd, 1) },
	}) {
		fd := socket(t, unix.AF_INET, unix.SOCK_STREAM)
		if err := touch(fd); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if signature(look(t, p, fd)) == fresh {
			t.Errorf("%s does not show", name)
		}
	}
	six := socket(t, unix.AF_INET6, unix.SOCK_STREAM)
	fresh = signature(look(t, p, six))
	if err := unix.SetsockoptInt(six, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		t.Fatal(err)
	}
	if signature(look(t, p, six)) == fresh {
		t.Error("IPV6_V6ONLY does not show")
	}
}

func TestSignatureOfDatagrams(t *testing.T) {
	p := open(t)
	signature := func(fd int) [MaxCommon + MaxDatagram]byte {
		s := look(t, p, fd)
		return [MaxCommon + MaxDatagram]byte(append(s.Common[:], s.Datagram[:]...))
	}
	fresh := signature(socket(t, unix.AF_INET, unix.SOCK_DGRAM))
	if again := signature(socket(t, unix.AF_INET, unix.SOCK_DGRAM)); again != fresh {
		t.Fatalf("two untouched sockets differ:\n%v\n%v", fresh, again)
	}
	to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
	for name, touch := range touches(map[string]func(fd int) error{
		"SO_REUSEPORT":     func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) },
		"IP_TTL":           func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 9) },
		"IP_TOS":           func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, 4) },
		"UDP_CORK":         func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, 1, 1) },
		"UDP_NO_CHECK6_TX": func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, 101, 1) },
		"UDP_NO_CHECK6_RX": func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, 102, 1) },
		"UDP_SEGMENT":      func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200) },
		"UDP_SEGMENT 1024": func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1024) },
		"UDP_GRO":          func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) },
		"connect":          func(fd int) error { return unix.Connect(fd, to) },
		"MSG_MORE":         func(fd int) error { return unix.Sendto(fd, []byte("x"), unix.MSG_MORE, to) },
	}) {
		fd := socket(t, unix.AF_INET, unix.SOCK_DGRAM)
		if err := touch(fd); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if signature(fd) == fresh {
			t.Errorf("%s does not show", name)
		}
	}
}

func TestBoundPort(t *testing.T) {
	p := open(t)
	chosen, asked := socket(t, unix.AF_INET, unix.SOCK_STREAM), socket(t, unix.AF_INET, unix.SOCK_STREAM)
	if err := unix.Bind(chosen, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(chosen)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	unix.Close(chosen)
	if err := unix.Bind(asked, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}); err != nil {
		t.Fatal(err)
	}
	if !look(t, p, asked).BoundPort {
		t.Error("a port that was asked for looks like one that the kernel has chosen")
	}
}

// Whatever the file says, it is an error and not a panic.
func FuzzTypes(f *testing.F) {
	header := "\x9f\xeb\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00\x18\x00\x00\x00\x18\x00\x00\x00\x08\x00\x00\x00"
	f.Add([]byte(header + "\x01\x00\x00\x00\x01\x00\x00\x04\x08\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00a\x00b\x00\x00\x00\x00"))
	f.Add([]byte(header))
	f.Fuzz(func(t *testing.T, data []byte) {
		types, err := parseTypes(data, []string{"a", "b"})
		if err != nil {
			return
		}
		types.field("a", "b")
		types.field("a", "b.b")
		types.function("a")
	})
}

func TestNoSuchField(t *testing.T) {
	p := open(t)
	_ = p
	err := withKernelTypes([]string{"sock"}, func(types *types) error {
		_, err := types.field("sock", "no_such_thing")
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "no_such_thing") {
		t.Errorf("%v", err)
	}
}

func BenchmarkLook(b *testing.B) {
	p := open(b)
	fd := socket(b, unix.AF_INET, unix.SOCK_STREAM)
	var s Sight
	b.ReportAllocs()
	for b.Loop() {
		p.Look(os.Getpid(), fd, &s)
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		p, err := Open()
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
