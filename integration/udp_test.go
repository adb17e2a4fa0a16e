package integration

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
)

// A udpLab is a nat64Lab whose server answers datagrams. Its egress has IPv4 natively and is a
// NAT64, so that one lab serves both routes.
type udpLab struct {
	*nat64Lab
	port, other, closed string
	echo                *udpEcho
	as                  []string // what a probe, natively, and upconv are run by; nil: by root, in the origin's place
}

func newUDPLab(t *testing.T) *udpLab {
	t.Helper()
	u := &udpLab{nat64Lab: newNAT64(t)}
	u.tag(t)
	// Every datagram to a closed port is answered, also if there are many.
	output(t, u.in(u.serverName, "sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_ratemask=0"))
	u.port, u.other, u.echo = u.serveUDP(serverAddr)
	closed := u.packets(u.server, serverAddr+":0")
	_, u.closed = split(t, closed.LocalAddr().String())
	closed.Close()
	return u
}

// packets opens a UDP socket in a namespace, which is closed with the test.
func (l *lab) packets(namespace *nsdial.Namespace, addr string) *net.UDPConn {
	l.t.Helper()
	conn, err := namespace.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

// serveUDP starts a udpEcho at an address of the server, on two ports of the kernel's choice.
func (n *nat64Lab) serveUDP(addr string) (port, other string, echo *udpEcho) {
	n.t.Helper()
	echo = &udpEcho{}
	first, second := n.packets(n.server, net.JoinHostPort(addr, "0")), n.packets(n.server, net.JoinHostPort(addr, "0"))
	echo.start(n.t, first, second)
	echo.start(n.t, second, first)
	_, port = split(n.t, first.LocalAddr().String())
	_, other = split(n.t, second.LocalAddr().String())
	return port, other, echo
}

// A udpEcho answers datagrams according to their first letters:
//
//	who        the address it sees
//	port       the port it sees
//	len        "len N sum S", the length and a sum of what came
//	tos, ttl   the type of service, the time to live
//	mark       "marked", with a type of service of 0x28 and a time to live of 77
//	elsewhere  "from elsewhere", from the other port
//	delay N    "delayed", after N milliseconds
//	log        nothing, but it is kept for report
//	report N   what was kept since the last report, once it is so many, in the order of the alphabet
//
// and everything else, first of all "echo", with the same.
type udpEcho struct {
	mu   sync.Mutex
	kept []string
	seen []netip.AddrPort
}

// has reports whether a datagram has come from an address; 0.0.0.0 is that of a socket that is not
// connected.
func (s *udpEcho) has(addr string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.seen, func(a netip.AddrPort) bool {
		return addr == a.String() || addr == netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()).String()
	})
}

func (s *udpEcho) start(t testing.TB, conn, other *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.IP_RECVTOS, unix.IP_RECVTTL} {
			if e := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, option, 1); e != nil {
				err = e
			}
		}
	})
	conn.SetReadBuffer(4 << 20)
	conn.SetWriteBuffer(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		data, control := make([]byte, 1<<16), make([]byte, 256)
		for {
			n, size, _, from, err := conn.ReadMsgUDPAddrPort(data, control)
			if err != nil {
				return
			}
			s.answer(conn, other, data[:n], control[:size], from)
		}
	}()
}

func (s *udpEcho) answer(conn, other *net.UDPConn, data, control []byte, from netip.AddrPort) {
	var tos, ttl int
	messages, _ := unix.ParseSocketControlMessage(control)
	for _, m := range messages {
		switch m.Header.Type {
		case unix.IP_TOS:
			tos = int(m.Data[0])
		case unix.IP_TTL:
			ttl = int(m.Data[0])
		}
	}
	s.mu.Lock()
	s.seen = append(s.seen, from)
	s.mu.Unlock()
	text, out := string(data), ""
	begins := func(word string) bool { return strings.HasPrefix(text, word) }
	switch {
	case begins("who"):
		out = "you are " + from.Addr().String()
	case begins("port"):
		out = fmt.Sprintf("port %d", from.Port())
	case begins("len"):
		out = length(data)
	case begins("tos"):
		out = fmt.Sprintf("tos %x", tos)
	case begins("ttl"):
		out = fmt.Sprintf("ttl %d", ttl)
	case begins("mark"):
		oob := slices.Concat(number(unix.IP_TOS, 0x28), number(unix.IP_TTL, 77))
		conn.WriteMsgUDPAddrPort([]byte("marked"), oob, from)
		return
	case begins("elsewhere"):
		other.WriteToUDPAddrPort([]byte("from elsewhere"), from)
		return
	case begins("delay"):
		var ms int
		fmt.Sscanf(text, "delay %d", &ms)
		time.AfterFunc(time.Duration(ms)*time.Millisecond, func() { conn.WriteToUDPAddrPort([]byte("delayed"), from) })
		return
	case begins("log"):
		s.mu.Lock()
		s.kept = append(s.kept, text)
		s.mu.Unlock()
		return
	case begins("report"):
		want := 0
		fmt.Sscanf(text, "report %d", &want)
		soon(func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.kept) >= want
		})
		s.mu.Lock()
		slices.Sort(s.kept)
		out = fmt.Sprintf("%d kept: %s", len(s.kept), strings.Join(slices.Compact(s.kept), ", "))
		s.kept = nil
		s.mu.Unlock()
	default:
		out = text
	}
	conn.WriteToUDPAddrPort([]byte(out), from)
}

func length(data []byte) string {
	sum := 0
	for _, c := range data {
		sum = (sum*31 + int(c)) % 1000003
	}
	return fmt.Sprintf("len %d sum %d", len(data), sum)
}

// number is a control message of IP with an int.
func number(kind int, value int32) []byte {
	message := make([]byte, unix.CmsgSpace(4))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&message[0]))
	header.Level, header.Type = unix.IPPROTO_IP, int32(kind)
	header.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(message[unix.CmsgLen(0):], uint32(value))
	return message
}

// A udpCase is a case of udp_probe.c.
type udpCase struct {
	args []string
	// want are lines that it must print natively, or the test cannot tell anything; separated by ";
	// ".
	want string
	// routes are those that can carry it, all if there are none.
	routes []string
	// privileged is whether it takes CAP_NET_RAW.
	privileged bool
	// bpf is whether only BPF tells what it is about, over netns.
	bpf bool
}

// routes are the ways that datagrams of another address family, or namespace, can take.
func (u *udpLab) routes() map[string]string {
	return map[string]string{"netns": "netns:" + u.egress, "nat64": "nat64:" + nat64Prefix}
}

// own matches the addresses that a program finds to be its own: natively that of the egress, and
// RFC 7335's with another family. The server sees that of the NAT64.
var own = regexp.MustCompile(`192\.0\.2\.1|192\.0\.0\.2|198\.51\.100\.\d+`)

// compare runs a probe natively, in the egress, and in the origin under upconv: it must print the
// same.
func (u *udpLab) compare(t *testing.T, route string, flags []string, probe string, c udpCase) {
	t.Helper()
	u.lab.t = t
	if c.bpf && strings.HasPrefix(route, "netns:") {
		needBPF(t)
	}
	u.echo.mu.Lock()
	u.echo.kept = nil
	u.echo.mu.Unlock()
	args := append([]string{probe, c.args[0], serverAddr, u.port, u.other, u.closed}, c.args[1:]...)
	_, native := status(t, u.in(u.egress, append(u.as[:len(u.as):len(u.as)], args...)...))
	for line := range strings.SplitSeq(c.want, "; ") {
		if line != "" && !strings.Contains("\n"+native, "\n"+line+"\n") {
			t.Errorf("natively it did not say %q: this test cannot tell anything", line)
		}
	}
	if !strings.HasSuffix(native, "end\n") {
		t.Fatalf("natively it did not come to an end\n%s", native)
	}
	var under string
	for lost := u.badChecksums(); ; {
		u.echo.mu.Lock()
		u.echo.kept = nil
		u.echo.mu.Unlock()
		cmd, _ := u.flags(append([]string{"--netns", u.origin, "--via", route}, flags...), args...)
		if u.as != nil {
			inside := append(append(u.as[:len(u.as):len(u.as)], bin, "run", "--via", route), flags...)
			cmd = u.in(u.origin, append(append(inside, "--"), args...)...)
		}
		_, under = status(t, cmd)
		before := lost
		if lost = u.badChecksums(); lost == before {
			break
		}
		t.Logf("once more: the translator has sent %d datagrams with a bad checksum", lost-before)
	}
	if os.Getenv("UPCONV_TEST_PRINT") != "" {
		t.Logf("natively:\n%s", native)
	}
	sameOutput(t, own.ReplaceAllString(native, "OWN"), own.ReplaceAllString(under, "OWN"))
}

// badChecksums is how many datagrams the origin has dropped for their checksum. tayga 0.9.2 makes
// such now and then, presumably where it comes to 0, which over IPv6 must be sent as 0xffff (RFC
// 8200 section 8.1).
func (u *udpLab) badChecksums() int {
	u.t.Helper()
	for line := range strings.SplitSeq(output(u.t, u.in(u.origin, "cat", "/proc/net/snmp6")), "\n") {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "Udp6InCsumErrors" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				u.t.Fatal(err)
			}
			return n
		}
	}
	u.t.Fatal("no Udp6InCsumErrors in /proc/net/snmp6")
	return 0
}

var udpCases = []udpCase{
	{args: []string{"connected"}, want: `recv: echo 1; read: echo 2; recvfrom: 6 bytes from 203.0.113.10 the server: "echo 4"; getpeername: 203.0.113.10 the other`},
	{args: []string{"unconnected"}, want: `recvfrom: "echo 1" from 203.0.113.10 the server; recvfrom: 6 bytes from 203.0.113.10 the other: "echo 2"; recvfrom: 14 bytes from 203.0.113.10 the other: "from elsewhere"; getpeername: -1 ENOTCONN`},
	{args: []string{"nonblocking"}, want: "and then: -1 EAGAIN; F_GETFL 4002 F_GETFD 1; MSG_DONTWAIT: 6"},
	{args: []string{"iovecs"}, want: "1 parts: 3; 1024 parts: 3072; 1025 parts: -1 EMSGSIZE; an empty part: 6; a bad part: -1 EFAULT; a name of 15: -1 EINVAL; a name of 128: 9; a name of negative length: -1 EINVAL"},
	{args: []string{"several"}, want: "sendmmsg: 4; msg_len 10; with a bad pointer: -1 EFAULT; with a bad pointer: 2; with a short name: 1; without a name: 2; UIO_MAXIOV and more: 1024; here and there: 4; connected: 4"},
	{args: []string{"more"}, want: `MSG_MORE: 4; recvfrom: 17 bytes from 203.0.113.10 the server: "len 12 sum 776021"; recvfrom: 8 bytes from 203.0.113.10 the server: "0 kept: "`},
	{args: []string{"segment"}, want: "UDP_SEGMENT: 1200; 2 of 500 bytes; 1 of 200 bytes; sendto: 2100; 64 segments: 6400; 64 of 100 bytes"},
	{args: []string{"controls"}, want: `IP_TOS: 3; recvfrom: 6 bytes from 203.0.113.10 the server: "tos 28"; recvfrom: 6 bytes from 203.0.113.10 the server: "tos b8"; that is less by 31; that is less by 42; a bad IP_TTL: -1 EINVAL; IP_PKTINFO of 127.0.0.1: -1 EINVAL; IPV6_PKTINFO, short: 8; MSG_DONTROUTE: -1 ENETUNREACH`},
	{args: []string{"infos"}, want: `all: "marked" from 203.0.113.10 the server flags 0;   level 0 type  1 length 1: 28;   level 0 type  2 length 4: 77 less some hops`},
	{args: []string{"empty"}, want: "send nothing: 0; received: 0; from 203.0.113.10 the server"},
	{args: []string{"sizes"}, want: "65507 bytes: 65507; 65508 bytes: -1 EMSGSIZE; 70000 bytes: -1 EMSGSIZE; 3000 bytes in one packet: -1 EMSGSIZE; send: 20000"},
	{args: []string{"refused"}, want: "recv: -1 ECONNREFUSED; SO_ERROR: ECONNREFUSED; send tells: -1 ECONNREFUSED"},
	{args: []string{"recverr"}, want: `queue: "log queue" from 203.0.113.10 the closed port flags 2000; recv: -1 ECONNREFUSED`},
	{args: []string{"zerocopy"}, want: "MSG_ZEROCOPY alone: 4096; sendmmsg: 3; completed: 6; a bad one behind it: 1"},
	{args: []string{"bad"}, want: `send: -1 EDESTADDRREQ; a short address: -1 EINVAL; a bad address: -1 EFAULT; bad data: -1 EFAULT; AF_UNSPEC: 11; port 0: -1 EINVAL; send "log": -1 EPIPE; recv again: 0`},
	{args: []string{"bound", "23456"}, want: "the server has seen that port; bind another to it: -1 EADDRINUSE; bind another to it after: 0"},
	{args: []string{"killed", "23459"}, want: "killed: taken 0 times; ended: taken 0 times"},
	{args: []string{"survived"}, want: "lost: 0"},
	{args: []string{"bound-to-loopback"}, routes: []string{"netns"}, want: `send "log": -1 EINVAL`},
	{args: []string{"reuseport", "23457"}, want: "8 answers, 8 with the port"},
	{args: []string{"mapped"}, want: `recvfrom: 6 bytes from ::ffff:203.0.113.10 the server: "echo 1"; IPV6_V6ONLY: -1 ENETUNREACH; recv: -1 ECONNREFUSED; IPV6_PKTINFO: -1 EINVAL; ::ffff:203.0.113.254: -1 ENETUNREACH`},
	{args: []string{"dissolve", "23459"}, want: `send: -1 EDESTADDRREQ; recvfrom: 16 bytes from 203.0.113.10 the server: "echo unconnected"; recvfrom: 17 bytes from 203.0.113.10 the server: "echo from another"; recvfrom: 10 bytes from 203.0.113.10 the other: "port 23459"`},
	{args: []string{"ready", "poll"}, want: "poll: 1"},
	{args: []string{"ready", "select"}, want: "select: 1"},
	{args: []string{"ready", "epoll"}, want: "epoll_wait: 1; events 1 data 123456789abcdef0; EPOLL_CTL_DEL: 0"},
	{args: []string{"ready", "edge"}, want: "epoll_wait: 1; events 1 data 123456789abcdef0; EPOLL_CTL_DEL: 0"},
	{args: []string{"duplicates"}, want: `the same socket: 1 1, F_GETFD 0 0 1; the copy: 6 bytes from 203.0.113.10 the server: "echo 4"`},
	{args: []string{"forked"}, want: `the child: 19 bytes from 203.0.113.10 the server: "echo from the child"; the parent: 19 bytes from 203.0.113.10 the server: "echo for the parent"`},
	{args: []string{"threads"}, want: "each with a socket: 400 answers; with one socket: 200 answers; answers to one without a port: some"},
	{args: []string{"here-and-there"}, want: `at 127.0.0.1: "to 127.0.0.1" from 127.0.0.1; recvfrom: 8 bytes from 127.0.0.1: "and back"`},
	{args: []string{"beside"}, bpf: true, want: `at 127.0.0.1: "to 127.0.0.1"; of 203.0.113.10 the server, SO_BROADCAST 1; sendmmsg: 2; send "log": -1 EPIPE`},
	{args: []string{"beside", "again"}, want: `connect to 127.0.0.1: 0; at 127.0.0.1: "and here"; connect: 0`},
	{args: []string{"set-back"}, want: "SO_RCVTIMEO 0; 0/2 64"},
	{args: []string{"many-here-and-there"}, want: "sendmmsg: 128; 64 here"},
	{args: []string{"multicast", "23458"}, want: `at 127.0.0.1: "to the group" from 127.0.0.1; recvfrom: 8 bytes from 127.0.0.1: "and back"`},
	{args: []string{"peeks"}, want: "FIONREAD: 0; MSG_PEEK | MSG_TRUNC, short: 15; length 16, after it aa; short: 4; a bad address: -1 EFAULT; recvmsg: 8"},
	{args: []string{"receive-several"}, want: "recvmmsg of 4: 4; of 8, MSG_DONTWAIT: 4; of 8, MSG_WAITFORONE: 4; of 2, twice: 2"},
	{args: []string{"blocked"}, want: "a signal: -1 EINTR; signals: 2, in time; SO_RCVTIMEO: -1 EAGAIN; within SO_RCVTIMEO: 23; a signal before SO_RCVTIMEO: -1 EINTR; within centuries: 7"},
	{args: []string{"spray"}, want: "300 answers"},
	{args: []string{"untouched"}, want: "SCM_RIGHTS: 6; SCM_CREDENTIALS twice: 2; netlink answers: 1"},
	{args: []string{"options"}, want: "00: 0 flags 2 0 0 0 0 0 1 64 4 0; 03: 0 flags 2 0 1 1 0 0 1 64 4 0; ff: 0 flags 802 1 1 1 1 1 7 77 4 0"},
	{args: []string{"signal-driven"}, want: `signal with descriptor 40 band 1, flags 2002 : 4 bytes from 203.0.113.10 the server: "echo"; signal with descriptor 41 band 1, flags 2002 : 4 bytes from 203.0.113.10 the server: "echo"`},
	{args: []string{"connecting-threads"}, want: "connected: 4000; with the port: 4000"},
	{args: []string{"receiving-threads"}, want: "all received"},
	{args: []string{"receiving-threads", "send"}, want: "all received"},
	{args: []string{"waiting", "poll", "used"}, want: "poll in the thread: 1 events 1"},
	{args: []string{"waiting", "recvfrom", "used"}, want: `the thread: "echo to a thread that waits" from 203.0.113.10 the server`},
	{args: []string{"departed"}, routes: []string{"netns", "nat64"}, want: `at 127.0.0.1: "to 127.0.0.1" from 127.0.0.1; recvfrom: 8 bytes from 127.0.0.1: "and back"; send "echo": -1 ENETUNREACH`},
}

// udpAtBest are cases in which one socket cannot be all that it natively is; see docs/fidelity.md
// for what is.
var udpAtBest = []udpCase{
	{args: []string{"both-at-once"}, want: "answers: 2 of 2"},
	{args: []string{"both-families"}, want: "answers: 4 of 4; a short address: -1 EINVAL; recvfrom: 4 bytes from ::ffff:203.0.113.10 the server: \"echo\""},
	{args: []string{"by-turns"}, want: "connect: 0; connect: -1 EINVAL; send \"log\": 3; send \"log\": -1 EINVAL"},
	{args: []string{"queued"}, privileged: true, want: "answers: 2 of 2; after all that: 1 of 1"},
	{args: []string{"late"}, want: `recvfrom: 4 bytes from 127.0.0.1: "late"`},
	{args: []string{"late", "again"}, want: `recvfrom: 4 bytes from 127.0.0.1: "late"`},
	{args: []string{"late-six"}, want: `recvfrom: 4 bytes from [::1]: "aaaa"; recvfrom: 1 bytes from [::1]: "c"`},
	{args: []string{"late-with-error"}, want: "SO_ERROR 111; recv: 4; upconv idles; recv: 4"},
	{args: []string{"polling-threads"}, want: "thread 0 goes on; thread 1 goes on; thread 2 goes on; thread 3 goes on"},
	{args: []string{"watched", "once"}, want: "all heard"},
	{args: []string{"watched", "edge"}, want: "all heard"},
	{args: []string{"watched", "level"}, want: "all heard"},
	{args: []string{"turning-threads"}, want: "none failed; one port"},
	{args: []string{"one-port"}, want: "the same port for both"},
	{args: []string{"one-port", "elsewhere first"}, want: "the same port for both"},
}

// TestUDP compares datagrams natively with those under upconv: on each route, and as a 32-bit
// program makes its calls.
func TestUDP(t *testing.T) {
	u := newUDPLab(t)
	for _, c := range udpCases {
		for name, route := range u.routes() {
			if c.routes != nil && !slices.Contains(c.routes, name) {
				continue
			}
			for abi, flags := range udpABIs {
				t.Run(strings.Join(c.args, " ")+"/"+name+"/"+abi, func(t *testing.T) {
					u.compare(t, route, nil, compileC(t, "udp_probe.c", flags...), c)
				})
			}
		}
	}
	u.lab.t = t
}

var udpABIs = map[string][]string{
	"amd64":      {"gcc", "-static", "-pthread"},
	"i386":       {"gcc", "-static", "-pthread", "-m32"},
	"socketcall": {"gcc", "-static", "-pthread", "-m32", "-DSOCKETCALL"},
}

// TestUDPAtBest is about several destinations of one socket at a time, and several processes and
// threads with one.
func TestUDPAtBest(t *testing.T) {
	u := newUDPLab(t)
	for _, c := range udpAtBest {
		for name, route := range u.routes() {
			t.Run(strings.Join(c.args, " ")+"/"+name, func(t *testing.T) {
				u.compare(t, route, nil, compileC(t, "udp_probe.c", udpABIs["amd64"]...), c)
			})
		}
	}
	u.lab.t = t
}

// TestUDPWaiting has a thread wait for a socket in every call that can, while another one's send
// has another socket take its place.
func TestUDPWaiting(t *testing.T) {
	u := newUDPLab(t)
	receives := []string{"recvfrom", "recv", "recvmsg", "recvmmsg", "read", "readv"}
	of32 := []string{"select-old", "ppoll-time64", "pselect-time64", "recvmmsg-time64"}
	for abi, flags := range udpABIs {
		calls := slices.Concat(receives, []string{"poll", "poll-for-long", "ppoll", "select", "pselect"})
		if abi != "amd64" {
			calls = append(calls, of32...)
		}
		ways := [][]string{{"poll", "dup"}, {"recvfrom", "dup"}, {"poll", "bound", "dup"}, {"recvfrom", "bound", "dup"}, {"poll", "bound", "another"}}
		for _, call := range calls {
			ways = append(ways, []string{call}, []string{call, "bound"})
		}
		for _, way := range ways {
			want := way[0] + " in the thread: 1 events " // that there is something to receive
			switch {
			case slices.Contains(receives, way[0]), way[0] == "recvmmsg-time64":
				want = `the thread: "echo to a thread that waits"`
				if !slices.Contains([]string{"recv", "read", "readv"}, way[0]) {
					want += " from 203.0.113.10 the server"
				}
			case strings.HasPrefix(way[0], "p") && !strings.HasPrefix(way[0], "ps"):
				want += "1"
			default:
				want += "0"
			}
			for name, route := range u.routes() {
				t.Run(strings.Join(way, " ")+"/"+name+"/"+abi, func(t *testing.T) {
					u.compare(t, route, nil, compileC(t, "udp_probe.c", flags...), udpCase{args: append([]string{"waiting"}, way...), want: want})
				})
			}
		}
	}
	u.lab.t = t
}

// TestReceiveRace has a thread begin to wait for a datagram in the moment in which another one's
// first send has another socket take the place of theirs.
func TestReceiveRace(t *testing.T) {
	u := newUDPLab(t)
	probe := compileC(t, "receive_race.c", "gcc", "-O2", "-static", "-pthread")
	for name, route := range u.routes() {
		cmd, _ := u.flags([]string{"--netns", u.origin, "--via", route}, probe, serverAddr, u.port, "1000")
		if got := output(t, cmd); got != "wrong: 0\n" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestUDPUnprivileged is TestUDP for an ordinary user, who may neither enter the origin nor look at
// sockets in the kernel.
func TestUDPUnprivileged(t *testing.T) {
	u := newUDPLab(t)
	u.as = ordinaryUser(t)
	for _, c := range slices.Concat(udpCases, udpAtBest) {
		if c.routes == nil && !c.privileged {
			t.Run(strings.Join(c.args, " "), func(t *testing.T) {
				u.compare(t, u.routes()["nat64"], nil, compileC(t, "udp_probe.c", udpABIs["amd64"]...), c)
			})
		}
	}
	u.lab.t = t
}

// TestUDPEvents compares what the events say with what the server knows.
func TestUDPEvents(t *testing.T) {
	u := newUDPLab(t)
	for name, script := range map[string]string{
		"sendto":  `s.sendto(b"echo", to); s.sendto(b"echo", to); s.recvfrom(10)`,
		"sendmsg": `s.sendmsg([b"echo"], [], 0, to); s.sendmsg([b"echo"], [], 0, to); s.recvfrom(10)`,
		"connect": `s.connect(to); s.send(b"echo"); s.recv(10); s.send(b"echo")`,
	} {
		t.Run(name, func(t *testing.T) {
			u.lab.t = t
			cmd, events := u.via("netns:"+u.egress, needProgram(t, python), "-c",
				"import socket, sys; to = (sys.argv[1], int(sys.argv[2])); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"+script, serverAddr, u.port)
			output(t, cmd)
			got := events()
			if len(got) != 1 {
				t.Fatalf("events %+v, want one, of the swap", got)
			}
			e := got[0]
			if e.Call != name || e.Proto != "udp" || e.Dst != net.JoinHostPort(serverAddr, u.port) || e.Rule != "default" || e.Route != "netns:"+u.egress ||
				e.Result != "ok" || !u.echo.has(e.Local) {
				t.Errorf("event %+v; the server has seen %v", e, u.echo.seen)
			}
		})
	}
	u.lab.t = t
}

// TestUDPEventsOnce sees that there is one event for each destination of each socket, however many
// datagrams there are and wherever the socket has been in between.
func TestUDPEventsOnce(t *testing.T) {
	u := newUDPLab(t)
	const sends = `import ctypes, socket, sys
to, other, unwanted, here = (sys.argv[1], int(sys.argv[2])), (sys.argv[1], int(sys.argv[3])), ("203.0.113.77", 9), ("127.0.0.1", 9)
def fresh(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def send(s, *all):
	for a in all:
		try: s.sendto(b"log", a)
		except ConnectionRefusedError: s.sendto(b"log", a) # by here, the time before
		except PermissionError: pass
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]
class Message(ctypes.Structure): _fields_ = [("name", ctypes.c_char_p), ("namelen", ctypes.c_size_t), ("vectors", ctypes.POINTER(Vector)),
	("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_size_t), ("length", ctypes.c_size_t)]
def several(s, *all):
	messages = (Message * len(all))(*(Message((2).to_bytes(2, "little") + port.to_bytes(2, "big") + socket.inet_aton(host) + bytes(8), 16,
		ctypes.pointer(Vector(b"log", 3)), 1) for host, port in all))
	assert ctypes.CDLL(None).sendmmsg(s.fileno(), messages, len(all), 0) == len(all)
`
	for name, c := range map[string]struct {
		script string
		want   []string // by the letters of: to, other, unwanted, here
	}{
		"new sockets":       {"for i in range(3): s = fresh(); send(s, to, to); s.close()", []string{"t", "t", "t"}},
		"new sockets, here": {"for i in range(3): s = fresh(); send(s, here); s.close()", []string{"h", "h", "h"}},
		"to and fro":        {"s = fresh()\nfor i in range(5): send(s, to, here, other)", []string{"t", "h", "o"}},
		"refused":           {"s = fresh()\nfor i in range(5): send(s, to, unwanted)", []string{"t", "u"}},
		"sendmmsg":          {"s = fresh()\nfor i in range(3): several(s, to, other, to)", []string{"t", "o"}},
	} {
		for _, at := range []string{"connect", "socket"} {
			t.Run(name+"/"+at, func(t *testing.T) {
				u.lab.t = t
				cmd, events := u.flags([]string{"--netns", u.origin, "--rule", "203.0.113.77=reject:EPERM", "--via", "netns:" + u.egress, "--swap-at", at},
					needProgram(t, python), "-c", sends+c.script, serverAddr, u.port, u.other)
				output(t, cmd)
				letters := map[string]string{net.JoinHostPort(serverAddr, u.port): "t", net.JoinHostPort(serverAddr, u.other): "o", "203.0.113.77:9": "u", "127.0.0.1:9": "h"}
				var got []string
				for _, e := range events() {
					got = append(got, letters[e.Dst])
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("events %v, want %v", got, c.want)
				}
			})
		}
	}
	u.lab.t = t
}

// TestUDPEventsDirect is about datagram sockets that are left alone: their events tell UDP, and the
// rule for that.
func TestUDPEventsDirect(t *testing.T) {
	u := newUDPLab(t)
	for _, name := range []string{"root", "user"} {
		for _, mode := range []string{"full", "off"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				u.lab.t = t
				script := "import socket; to = ('127.0.0.1', 9); socket.socket(type=socket.SOCK_DGRAM).connect(to); socket.socket().connect_ex(to)"
				var as []string
				if name == "user" {
					as = ordinaryUser(t)
				}
				args := append(as, bin, "run", "--events", "-", "--udp", mode, "--rule", "127.0.0.0/8/tcp=direct", "--rule", "127.0.0.0/8/udp=direct",
					"--via", "nat64:"+nat64Prefix, "--", needProgram(t, python), "-c", script)
				var got []string
				for line := range strings.Lines(output(t, u.in(u.origin, append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh"}, args...)...))) {
					var e event
					if err := json.Unmarshal([]byte(line), &e); err != nil {
						t.Fatalf("%v: %s", err, line)
					}
					got = append(got, e.Proto+" "+e.Rule)
				}
				if want := "udp 2, tcp 1"; strings.Join(got, ", ") != want {
					t.Errorf("events: %v, want %s", got, want)
				}
			})
		}
	}
	u.lab.t = t
}

// TestUDPInet6 sends datagrams to one IPv6 address.
func TestUDPInet6(t *testing.T) {
	u := newUDPLab(t)
	for _, c := range udpCases {
		if !slices.Contains([]string{"connected", "unconnected", "several", "refused", "recverr", "mapped", "here-and-there", "infos"}, c.args[0]) {
			continue
		}
		t.Run(c.args[0], func(t *testing.T) {
			u.compare(t, "inet6:2001:db8:64::cb00:710a", nil, compileC(t, "udp_probe.c", udpABIs["amd64"]...), c)
		})
	}
	u.lab.t = t
}

// TestUDPUnix sends datagrams to a Unix socket.
func TestUDPUnix(t *testing.T) {
	u := newUDPLab(t)
	name := fmt.Sprintf("@%s-datagrams", u.origin)
	path := filepath.Join(scratch, fmt.Sprintf("unix-%d", unixServers.Add(1)))
	inNamespace(t, u.origin, func() error { // in which abstract names live
		for _, name := range []string{name, path} {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetReadBuffer(1 << 20)
			go func() {
				for data := make([]byte, 1<<16); ; {
					n, from, err := conn.ReadFrom(data)
					if err != nil {
						return
					}
					out := data[:n]
					if strings.HasPrefix(string(out), "len") {
						out = []byte(length(out))
					}
					conn.WriteTo(out, from)
				}
			}()
		}
		return nil
	})
	for _, route := range []string{"unix:" + name, "unix:" + path} {
		for abi, flags := range udpABIs {
			t.Run(route[:6]+"/"+abi, func(t *testing.T) {
				u.compare(t, route, nil, compileC(t, "udp_probe.c", flags...), udpCase{
					args: []string{"simple"}, want: `getpeername: 203.0.113.10 the server; sendmmsg: 2; nothing: 0; sendto: 65507; too much: -1 EMSGSIZE`})
			})
		}
	}
	u.lab.t = t
}

// TestUDPUnixAndNetns has one socket send to a Unix socket and to a namespace: the one that takes
// the program's place for the former is of the namespace of the latter, and yet not the one to send
// there with.
func TestUDPUnixAndNetns(t *testing.T) {
	const across = "203.0.113.77"
	u := newUDPLab(t)
	for _, addr := range []string{serverAddr, across} { // natively nobody listens there
		output(t, u.in(u.serverName, "ip", "address", "replace", addr+"/32", "dev", "lo"))
	}
	path := unixgram(t)
	u.compare(t, "netns:"+u.egress, []string{"--rule", across + "/udp=unix:" + path}, compileC(t, "udp_probe.c", udpABIs["amd64"]...), udpCase{
		args: []string{"from-unix", across, path},
		want: `send "echo": 4; recvfrom: 4 bytes from 203.0.113.10 the server: "echo"; sendto, AF_UNIX: -1 EAFNOSUPPORT`,
	})
}

// TestUDPThreeWays has one socket send behind the NAT64, to another namespace and to its own: all
// answers come.
func TestUDPThreeWays(t *testing.T) {
	const across = "203.0.113.77"
	u := newUDPLab(t)
	output(t, u.in(u.serverName, "ip", "address", "add", across+"/32", "dev", "lo"))
	for _, port := range []string{u.port, u.other} {
		u.echo.start(t, u.packets(u.server, net.JoinHostPort(across, port)), nil)
	}
	for name, elsewhere := range map[string]string{"nat64 first": across, "netns first": serverAddr} {
		t.Run(name, func(t *testing.T) {
			u.compare(t, "nat64:"+nat64Prefix, []string{"--rule", elsewhere + "=netns:" + u.egress}, compileC(t, "udp_probe.c", udpABIs["amd64"]...),
				udpCase{args: []string{"three-ways", across}, want: "answers: 5 of 5"})
		})
	}
	u.lab.t = t
}

// unixgram makes a Unix datagram socket that keeps what it gets.
func unixgram(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(scratch, fmt.Sprintf("unix-%d", unixServers.Add(1)))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path
}

// TestUDPUnixWithoutName sends to a Unix socket without saying where to, and with control messages:
// that says what it natively says, and no descriptor goes along.
func TestUDPUnixWithoutName(t *testing.T) {
	u := newUDPLab(t)
	path := filepath.Join(scratch, fmt.Sprintf("unix-%d", unixServers.Add(1)))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	args := []string{needProgram(t, python), "-c", `
import errno, socket, struct, sys
to = sys.argv[1], int(sys.argv[2])
tos, rights = (socket.IPPROTO_IP, socket.IP_TOS), (socket.SOL_SOCKET, socket.SCM_RIGHTS)
def say(what, *call):
    try: print(what, s.sendmsg(*call))
    except OSError as e: print(what, errno.errorcode[e.errno])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
say("first", [b"log"], [], 0, to)
say("no name", [b"log"])
say("IP_TOS", [b"log"], [tos + (struct.pack("i", 16),)], 0, to)
say("no IP_TOS", [b"log"], [tos + (struct.pack("i", 1000),)], 0, to)
say("SCM_RIGHTS", [b"log"], [rights + (struct.pack("i", 0),)], 0, to)
s.connect(to)
say("connected", [b"log"])
say("connected, no IP_TOS", [b"log"], [tos + (struct.pack("i", 1000),)])
say("connected, SCM_RIGHTS", [b"log"], [rights + (struct.pack("i", 0),)])
say("connected, too long", [b"l" * 65508])
`, serverAddr, u.port}
	native := output(t, u.in(u.egress, args...))
	if !strings.Contains(native, "no name EDESTADDRREQ") || !strings.Contains(native, "too long EMSGSIZE") {
		t.Fatalf("natively it says %q", native)
	}
	if got := output(t, upconv(t, append([]string{"run", "--netns", u.origin, "--rule", serverAddr + "=unix:" + path, "--"}, args...)...)); got != native {
		t.Errorf("it says\n%snatively\n%s", got, native)
	}
	for range strings.Count(native, " 3") {
		data, rights := make([]byte, 10), make([]byte, 100)
		n, length, _, _, err := conn.ReadMsgUnix(data, rights)
		if err != nil || string(data[:n]) != "log" || length != 0 {
			t.Errorf("the server gets %q with %d bytes of control messages, %v", data[:n], length, err)
		}
	}
}

// TestUDPUnixThenElsewhere has an AF_INET6 socket send to a Unix socket first: what then takes the
// place of that is an AF_INET6 one again, with its port.
func TestUDPUnixThenElsewhere(t *testing.T) {
	u := newUDPLab(t)
	path := unixgram(t)
	got := output(t, upconv(t, "run", "--netns", u.origin, "--rule", "203.0.113.77=unix:"+path, "--rule", serverAddr+"=netns:"+u.egress, "--",
		needProgram(t, python), "-c", `
import socket, sys
for connects in True, False:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(10)
    for addr, data in ("203.0.113.77", b"there"), (sys.argv[1], b"echo"):
        to = ("::ffff:" + addr, int(sys.argv[2]))
        if connects: s.connect(to); s.send(data)
        else: s.sendto(data, to)
    print(s.recvfrom(100)[1][0], s.family == socket.AF_INET6)
`, serverAddr, u.port))
	if want := "::ffff:" + serverAddr + " True\n"; got != want+want {
		t.Errorf("it says %q, want twice %q", got, want)
	}
}

// TestUDPUnixFull has a thread wait until a Unix socket has room, while another one sends to the
// origin with the same socket: nobody else waits. The alarm ends what would hang.
func TestUDPUnixFull(t *testing.T) {
	u := newUDPLab(t)
	path := unixgram(t)
	cmd := upconv(t, "run", "--netns", u.origin, "--rule", "203.0.113.77=unix:"+path, "--rule", serverAddr+"=netns:"+u.egress, "--",
		needProgram(t, python), "-c", `
import os, signal, socket, sys, threading
signal.alarm(20)
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def fill(s):
    while True: s.sendto(b"x", ("203.0.113.77", 9))
for i in range(5):
    s = udp()
    threading.Thread(target=fill, args=(s,), daemon=True).start()
    for j in range(300): s.sendto(b"y", ("127.0.0.1", 9))
    others = [udp() for j in range(40)]
    for other in others: other.sendto(b"log", (sys.argv[1], int(sys.argv[2])))
print("done"); sys.stdout.flush(); os._exit(0)
`, serverAddr, u.port)
	if got := output(t, cmd); got != "done\n" {
		t.Errorf("it says %q", got)
	}
}

// TestUDPUnspecRace has a thread change the address of a connect(2) with AF_UNSPEC, which there is
// nothing to decide about: a socket of the egress is not connected to the loopback there.
func TestUDPUnspecRace(t *testing.T) {
	u := newUDPLab(t)
	got := output(t, upconv(t, "run", "--netns", u.origin, "--via", "netns:"+u.egress, "--", compileC(t, "unspec_race.c", "gcc", "-static", "-pthread"),
		serverAddr, u.port, "400"))
	if got != "moved 400 there 0\n" {
		t.Errorf("it says %q", got)
	}
}

// TestUDPUnixThenInet6 has somebody else have the port in the origin that a socket was said to have
// while it was a Unix one: a send does not fail for want of it.
func TestUDPUnixThenInet6(t *testing.T) {
	u := newUDPLab(t)
	path := unixgram(t)
	got := output(t, upconv(t, "run", "--netns", u.origin, "--rule", "203.0.113.77=unix:"+path, "--rule", "203.0.113.78=inet6:::1", "--",
		needProgram(t, python), "-c", `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"x", ("203.0.113.77", 9))
other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); other.bind(("::", s.getsockname()[1]))
print(s.sendto(b"xyz", ("203.0.113.78", 9)))
`))
	if got != "3\n" {
		t.Errorf("it says %q", got)
	}
}

// TestUDPReject has a rule say what natively a route says.
func TestUDPReject(t *testing.T) {
	const unwanted = "203.0.113.77"
	u := newUDPLab(t)
	output(t, command(t, "ip", "-n", u.egress, "route", "add", "unreachable", unwanted))
	for name, route := range u.routes() {
		for abi, flags := range udpABIs {
			t.Run(name+"/"+abi, func(t *testing.T) {
				u.compare(t, route, []string{"--rule", unwanted + "/udp=reject:EHOSTUNREACH"}, compileC(t, "udp_probe.c", flags...), udpCase{
					args: []string{"rejected", unwanted},
					want: `send "log": -1 EHOSTUNREACH; sendmsg: -1 EHOSTUNREACH; sendmmsg, the first: -1 EHOSTUNREACH; sendmmsg, the second: 1; connect: -1 EHOSTUNREACH`,
				})
			})
		}
	}
	u.lab.t = t
}

// TestUDPModes is about --udp.
func TestUDPModes(t *testing.T) {
	u := newUDPLab(t)
	probe := compileC(t, "udp_probe.c", udpABIs["amd64"]...)
	const (
		from      = ` bytes from 203.0.113.10 the server: "echo`
		nowhere   = "send \"echo unconnected\": -1 ENETUNREACH\nsendmsg: -1 ENETUNREACH\nsendmmsg: -1 ENETUNREACH\n"
		sent      = "send \"echo unconnected\": 16\nsendmsg: 4\nsendmmsg: 1\nrecvfrom: 16" + from + " unconnected\"\nrecvfrom: 4" + from + "\"\nrecvfrom: 4" + from + "\"\n"
		connected = "connect: 0\nsend: 4\nrecv: 4" + from + "\"\nsend \"echo with an address\": 20\nrecv: 20" + from + " with an address\"\n"
		tcp       = "TCP: -1 ECONNREFUSED\nend\n" // and not ENETUNREACH
	)
	for mode, want := range map[string]string{"": sent + connected + tcp, "full": sent + connected + tcp, "connected": nowhere + connected + tcp, "off": nowhere + "connect: -1 ENETUNREACH\n" + tcp} {
		for name, route := range u.routes() {
			t.Run(name+"/"+mode, func(t *testing.T) {
				u.lab.t = t
				flags := []string{"--netns", u.origin, "--via", route}
				if mode != "" {
					flags = append(flags, "--udp", mode)
				}
				cmd, _ := u.flags(flags, probe, "modes", serverAddr, u.port, u.other, u.closed)
				_, got := status(t, cmd)
				want := want
				if name == "nat64" && mode == "connected" {
					// The socket is an AF_INET6 one by now, and nothing stops a send with an IPv4
					// address.
					want = strings.Replace(want, "send \"echo with an address\": 20\nrecv: 20"+from+" with an address\"\n",
						"send \"echo with an address\": -1 ENETUNREACH\nrecv: nothing comes\n", 1)
				}
				if got != want {
					t.Errorf("not as wanted (- wanted, + upconv)\n%s", strings.Join(differences(want, got), "\n"))
				}
			})
		}
	}
	u.lab.t = t
}

// TestUDPSwapAtSocket has every case again with sockets that are swapped as soon as they are made.
// And one that is made for the interfaces sees those of the origin.
func TestUDPSwapAtSocket(t *testing.T) {
	u := newUDPLab(t)
	route := u.routes()["netns"]
	for _, mode := range []string{"full", "connected"} {
		for _, c := range append(slices.Clip(udpCases), udpAtBest...) {
			switch {
			case mode == "connected" && c.args[0] != "connected" && c.args[0] != "unconnected", c.args[0] == "own-source": // the egress's addresses cannot be bound
				continue
			case c.args[0] == "bound": // a port of the kernel's choice is the egress's
				c.args = append(slices.Clip(c.args), "given")
			}
			t.Run(mode+"/"+strings.Join(c.args, " "), func(t *testing.T) {
				u.compare(t, route, []string{"--swap-at", "socket", "--udp", mode}, compileC(t, "udp_probe.c", udpABIs["amd64"]...), c)
			})
		}
		t.Run(mode+"/interfaces", func(t *testing.T) {
			u.lab.t = t
			for abi, flags := range udpABIs {
				args := []string{compileC(t, "udp_probe.c", flags...), "interfaces", serverAddr, u.port, u.other, u.closed}
				native := output(t, u.lab.plain(args...))
				if strings.Count(native, "SIOCGIFFLAGS: 0") < 2 || strings.Contains(native, egressAddr) {
					t.Fatalf("natively it said\n%s", native)
				}
				cmd, _ := u.flags([]string{"--netns", u.origin, "--via", route, "--swap-at", "socket", "--udp", mode}, args...)
				if _, under := status(t, cmd); native != under {
					t.Errorf("%s:", abi)
					sameOutput(t, native, under)
				}
			}
		})
	}
	u.lab.t = t
}

// TestUDPBroadcast sees that broadcast and multicast go nowhere else than without upconv.
func TestUDPBroadcast(t *testing.T) {
	u := newUDPLab(t)
	probe := compileC(t, "udp_probe.c", udpABIs["amd64"]...)
	everybody := u.packets(u.server, "0.0.0.0:0")
	_, port := split(t, everybody.LocalAddr().String())
	args := []string{probe, "broadcast", serverAddr, port, u.other, u.closed}
	want := output(t, u.lab.plain(args...))
	if !strings.Contains(want, `send "log broadcast": -1 ENETUNREACH`) {
		t.Fatalf("in the origin it said\n%s", want)
	}
	for name, route := range u.routes() {
		t.Run(name, func(t *testing.T) {
			u.lab.t = t
			cmd, _ := u.via(route, args...)
			sameOutput(t, want, output(t, cmd))
		})
	}
	u.lab.t = t
	// One that is let out does come to the server: the last but one of what has come there.
	output(t, u.in(u.egress, "ip", "route", "add", "default", "via", "192.0.2.2"))
	output(t, u.in(u.egress, args...))
	fence, err := u.middle.DialContext(context.Background(), "udp", net.JoinHostPort(serverAddr, port))
	if err != nil {
		t.Fatal(err)
	}
	defer fence.Close()
	fmt.Fprint(fence, "the end")
	everybody.SetReadDeadline(time.Now().Add(patience))
	var came []string
	for data := make([]byte, 100); !slices.Contains(came, "the end"); {
		n, _, err := everybody.ReadFrom(data)
		if err != nil {
			t.Fatalf("%q: %v", came, err)
		}
		came = append(came, string(data[:n]))
	}
	if !slices.Equal(came, []string{"log broadcast", "the end"}) {
		t.Errorf("to the server came %q", came)
	}
}

// TestUDPBlocked has a thousand threads wait for datagrams at a time. None of them holds up a
// connect; though the kernel goes through all stopped calls, one after the other, to find one.
func TestUDPBlocked(t *testing.T) {
	u := newUDPLab(t)
	const count = 1000
	listener := u.listen(serverAddr + ":0")
	go keep(listener, func(conn net.Conn) { conn.Close() })
	_, port := split(t, listener.Addr().String())
	probe := compileC(t, "udp_blocked.c", "gcc", "-static", "-pthread")
	args := []string{probe, fmt.Sprint(count), serverAddr, u.port, port}
	for name, prepare := range map[string]func() *exec.Cmd{
		"native": func() *exec.Cmd { return u.in(u.egress, args...) },
		"nat64":  func() *exec.Cmd { cmd, _ := u.via("nat64:"+nat64Prefix, args...); return cmd },
	} {
		bad := u.badChecksums()
		status, out := status(t, prepare())
		bad = u.badChecksums() - bad
		t.Logf("%s: %s", name, out)
		var before, with, after float64
		var n, early, good, lost, stuck int
		if _, err := fmt.Sscanf(out, "connect: %f us, with %d that wait %f us, %f s after their start; %d answers", &before, &n, &with, &after, &early); err != nil ||
			status != 0 || early != 0 {
			t.Errorf("%s: status %d\n%s", name, status, out)
		}
		_, end, _ := strings.Cut(out, "\nanswers: ")
		if _, err := fmt.Sscanf(end, "%d, lost: %d, not seen: %d\n", &good, &lost, &stuck); err != nil || good < count-bad || lost > bad || stuck > 0 {
			t.Errorf("%s: the translator has sent %d with a bad checksum\n%s", name, bad, out)
		}
		t.Logf("%s: a connect takes %.0f us, and %.0f us with %d that wait", name, before, with, count) // make bench has the figure
	}
}

// TestUDPSignals has signals come to a thread that waits for datagrams. A handler with SA_RESTART
// is not noticed.
func TestUDPSignals(t *testing.T) {
	u := newUDPLab(t)
	probe := compileC(t, "udp_signals.c", "gcc", "-static", "-pthread")
	for _, restart := range []string{"0", "1"} {
		for _, directed := range []string{"0", "1"} {
			t.Run("restart "+restart+", directed "+directed, func(t *testing.T) {
				u.lab.t = t
				cmd, _ := u.via("nat64:"+nat64Prefix, probe, restart, directed, serverAddr, u.port)
				status, out := status(t, cmd)
				var sent, answers, signals, handled, interrupted, wrong int
				_, err := fmt.Sscanf(out, "sent %d answers %d signals %d handled %d interrupted %d wrong %d\n", &sent, &answers, &signals, &handled, &interrupted, &wrong)
				if err != nil || status != 0 || wrong != 0 || handled < 100 || answers < sent*9/10 || (restart == "1") != (interrupted == 0) {
					t.Errorf("status %d: %s", status, out)
				}
				t.Log(out)
			})
		}
	}
	u.lab.t = t
}

// TestUDPIsolated has an ordinary user's program send to both its own namespace, which upconv
// cannot enter, and the one that it was started in.
func TestUDPIsolated(t *testing.T) {
	u := newUDPLab(t)
	probe := compileC(t, "udp_probe.c", udpABIs["amd64"]...)
	nobody := ordinaryUser(t)
	for _, c := range [][]string{{"here-and-there"}, {"many-here-and-there"}, {"beside", "again"}, {"set-back"}, {"one-port"}, {"one-port", "elsewhere first"}, {"by-turns"}, {"turning-threads"}, {"dissolve", "23459"}, {"threads"}} {
		t.Run(strings.Join(c, " "), func(t *testing.T) {
			u.lab.t = t
			args := append([]string{probe, c[0], serverAddr, u.port, u.other, u.closed}, c[1:]...)
			native := output(t, u.in(u.egress, args...))
			under := output(t, u.in(u.egress, append(append(nobody[:len(nobody):len(nobody)], bin, "run", "--isolate", "--"), args...)...))
			sameOutput(t, own.ReplaceAllString(native, "OWN"), own.ReplaceAllString(under, "OWN"))
		})
	}
	u.lab.t = t
}

// TestUDPTwoEgresses has one socket send to two egresses and to its own namespace: from one port,
// which is the program's or the kernel's choice, and back from wherever it is answered.
func TestUDPTwoEgresses(t *testing.T) {
	u := newUDPLab(t)
	second := u.egress + "2"
	makeNamespace(t, second)
	link(t, second, "192.0.2.5/30", u.serverName, "192.0.2.6/30", "0.0.0.0/0")
	for _, bind := range []string{"", "s.bind(('0.0.0.0', 23461))"} {
		t.Run(bind, func(t *testing.T) {
			u.lab.t = t
			cmd := upconv(t, "run", "--netns", u.origin, "--rule", "*:"+u.other+"=netns:"+second, "--via", "netns:"+u.egress, "--", needProgram(t, python), "-c", `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); here.bind(('127.0.0.1', 0)); here.settimeout(3)
`+bind+`
seen = set()
for i in range(3):
    for port in sys.argv[2:]:
        s.sendto(b'port', (sys.argv[1], int(port)))
        seen.add(s.recv(100).decode())
    s.sendto(b'hello', here.getsockname())
    _, source = here.recvfrom(100)
    seen.add('port %d' % source[1])
    here.sendto(b'and back', source)
    seen.add(s.recv(100).decode())
print(len(seen), 'and back' in seen)
`, serverAddr, u.port, u.other)
			if got := output(t, cmd); got != "2 True\n" {
				t.Errorf("the ports and the answer are %s", got)
			}
		})
	}
	u.lab.t = t
}

// TestUDPNetnsThenNAT64 connects a socket that has sent to an egress to what is behind the NAT64:
// it has one port, and what has come is not lost.
func TestUDPNetnsThenNAT64(t *testing.T) {
	u := newUDPLab(t)
	cmd := upconv(t, "run", "--netns", u.origin, "--rule", "*:"+u.other+"=netns:"+u.egress, "--via", "nat64:"+nat64Prefix, "--", needProgram(t, python), "-c", `
import select, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(b'echo', (sys.argv[1], int(sys.argv[3])))
select.select([s], [], [], 3)
port = s.getsockname()[1]
s.connect((sys.argv[1], int(sys.argv[2])))
print(s.getsockname()[1] == port, s.recv(100))
`, serverAddr, u.port, u.other)
	if got := output(t, cmd); got != "True b'echo'\n" {
		t.Errorf("the port is the same, and what came: %s", got)
	}
}

// TestUDPFewDescriptors has more sockets than upconv can keep companions of send to both sides: not
// all answers can come, but all sends do.
func TestUDPFewDescriptors(t *testing.T) {
	u := newUDPLab(t)
	args := []string{bin, "run", "--via", "netns:" + u.egress, "--", needProgram(t, python), "-c", `
import socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); here.bind(('127.0.0.1', 0)); here.settimeout(3)
all = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(450)]
for turn in range(2):
    for s in all:
        s.sendto(b'hello', here.getsockname())
        assert here.recv(100) == b'hello'
        s.settimeout(3)
        s.sendto(b'echo', (sys.argv[1], int(sys.argv[2])))
        assert s.recv(100) == b'echo'
socket.create_connection((sys.argv[1], int(sys.argv[3])))
`, serverAddr, u.port}
	listener := u.listen(serverAddr + ":0")
	_, port := split(t, listener.Addr().String())
	output(t, u.in(u.origin, append(append([]string{"sh", "-c", `ulimit -n 600; exec "$@"`, "sh"}, args...), port)...))
}

// TestUDPOwnAddress has the address that a program keeps sending to become one of its own
// namespace, and cease to be.
func TestUDPOwnAddress(t *testing.T) {
	u := newUDPLab(t)
	origin, err := nsdial.OpenName(u.origin)
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	conn := u.packets(origin, "0.0.0.0:"+u.port)
	go func() {
		data := make([]byte, 100)
		for {
			_, from, err := conn.ReadFrom(data)
			if err != nil {
				return
			}
			conn.WriteTo([]byte("here"), from)
		}
	}()
	cmd := upconv(t, "run", "--netns", u.origin, "--via", "netns:"+u.egress, "--", needProgram(t, python), "-uc", fmt.Sprintf(`
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
for line in sys.stdin:
    try:
        s.sendto(line.encode().strip(), (%q, %s))
        print(s.recv(100).decode())
    except OSError as e:
        print(e)
`, serverAddr, u.port))
	stdin, lines, complaints := converse(t, cmd)
	answers := func(want string) {
		t.Helper()
		said := ""
		if !soon(func() bool {
			io.WriteString(stdin, "there\n")
			if !lines.Scan() {
				t.Fatalf("it has ended\n%s", complaints.String())
			}
			said = lines.Text()
			return said == want
		}) {
			t.Fatalf("the answer is %q, want %q", said, want)
		}
	}
	for range 2 {
		answers("there")
		output(t, command(t, "ip", "-n", u.origin, "addr", "add", serverAddr+"/32", "dev", "lo"))
		answers("here")
		output(t, command(t, "ip", "-n", u.origin, "addr", "del", serverAddr+"/32", "dev", "lo"))
	}
	answers("there")
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, complaints.String())
	}
}
