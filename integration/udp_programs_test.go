package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program runs a program natively in the egress and in the origin under upconv: both must succeed
// and say want, and the same. In the origin without upconv it must not.
func (u *udpLab) program(t *testing.T, route string, args []string, want string, unlike ...*regexp.Regexp) {
	t.Helper()
	u.lab.t = t
	plain := func(out string) string {
		for _, pattern := range unlike {
			out = pattern.ReplaceAllString(out, "…")
		}
		return out
	}
	native := plain(output(t, u.in(u.egress, args...)))
	for line := range strings.SplitSeq(want, "\n") {
		if !strings.Contains(native, line) {
			t.Fatalf("natively it does not say %q but\n%s", line, native)
		}
	}
	if status, out := status(t, u.in(u.origin, args...)); status == 0 && plain(out) == native {
		t.Fatalf("it works without upconv:\n%s", out)
	}
	cmd, _ := u.via(route, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	under, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %v\n%s", cmd, err, errs.String())
	}
	sameOutput(t, native, plain(string(under)))
}

// TestUDPClients has languages and programs send datagrams and have them come back.
func TestUDPClients(t *testing.T) {
	u := newUDPLab(t)
	golang := compileGo(t, "udp_go.go")
	java := []string{needProgram(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}
	at := net.JoinHostPort(serverAddr, u.port)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"Go": {[]string{golang, at}, "Dial udp echo 1 <nil> " + at + "\nListenPacket udp4 :0 echo 2 <nil> " + at + " <nil>\ntrue"},
		"Python": {[]string{needProgram(t, python), "-c", `import socket, sys
to = (sys.argv[1], int(sys.argv[2]))
for timeout in None, 5:
	s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(timeout)
	for i in range(3): s.sendto(b"echo", to); print(s.recvfrom(100))
	s.sendmsg([b"ec", b"ho"], [], 0, to); print(s.recvmsg(100, 100))
	s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(timeout)
	s.connect(to); s.send(b"echo"); print(s.recv(100), s.getpeername())
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.sendto(b"echo", ("::ffff:" + sys.argv[1], to[1])); print(s.recvfrom(100))
`, serverAddr, u.port}, fmt.Sprintf("(b'echo', ('%s', %s))\n(b'echo', [], 0, ('%[1]s', %[2]s))\n(b'echo', ('::ffff:%[1]s', %[2]s, 0, 0))", serverAddr, u.port)},
		"Python asyncio": {[]string{python, "-c", `import asyncio, sys
to = (sys.argv[1], int(sys.argv[2]))
class Echo(asyncio.DatagramProtocol):
	def __init__(self): self.got = asyncio.get_running_loop().create_future()
	def datagram_received(self, data, addr): self.got.set_result((data, addr))
async def main():
	loop = asyncio.get_running_loop()
	for remote in None, to:
		transport, protocol = await loop.create_datagram_endpoint(Echo, local_addr=None if remote else ("0.0.0.0", 0), remote_addr=remote)
		transport.sendto(b"echo", None if remote else to)
		print(await asyncio.wait_for(protocol.got, 3)); transport.close()
asyncio.run(main())
`, serverAddr, u.port}, fmt.Sprintf("(b'echo', ('%s', %s))\n", serverAddr, u.port)},
		"Node": {[]string{needProgram(t, "node"), "-e", `const dgram = require("dgram"), [, host, port] = process.argv
const s = dgram.createSocket("udp4"), timer = setTimeout(() => process.exit(1), 3000); let n = 0
s.on("message", (m, r) => { console.log(String(m), r.family, r.address, r.port); if (++n < 3) s.send("echo " + n, port, host); else { s.close(); connected() } })
s.send("echo 0", port, host)
function connected() {
	const c = dgram.createSocket("udp4"); c.on("message", m => { console.log(String(m), c.remoteAddress().address); c.close(); clearTimeout(timer) })
	c.connect(port, host, () => c.send("echo connected"))
}`, serverAddr, u.port}, "echo 2 IPv4 " + serverAddr + " " + u.port + "\necho connected " + serverAddr},
		"Java":                  {append(slices.Clip(java), testdata(t, "udp_java.java"), serverAddr, u.port), "DatagramSocket echo 1 /" + at + "\nDatagramChannel /" + at + " 6\nSelector 1 /" + at},
		"Java, preferIPv4Stack": {append(slices.Clip(java), "-Djava.net.preferIPv4Stack=true", testdata(t, "udp_java.java"), serverAddr, u.port), "DatagramSocket echo 1 /" + at},
		"Perl": {[]string{needProgram(t, "perl"), "-MIO::Socket::INET", "-MSocket", "-e",
			`alarm 10; my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => "udp") or die "$@\n"; $s->send("echo 1"); $s->recv(my $b, 100); print "$b ", $s->peerhost, "\n";
			my ($host, $port) = split /:/, $ARGV[0]; my $u = IO::Socket::INET->new(Proto => "udp"); $u->send("echo 2", 0, pack_sockaddr_in($port, inet_aton($host))); $u->recv($b, 100); print "$b ", $u->peerhost, ":", $u->peerport, "\n"`,
			at}, "echo 1 " + serverAddr + "\necho 2 " + at},
		"bash /dev/udp":   {[]string{needProgram(t, "bash"), "-c", `exec 3<>/dev/udp/$0/$1 && echo echo >&3 && timeout 5 head -c 5 <&3`, serverAddr, u.port}, "echo\n"},
		"socat connected": {[]string{"sh", "-c", `(echo echo; sleep 0.3) | ` + needProgram(t, "socat") + ` -t 0.1 - UDP4:$0:$1`, serverAddr, u.port}, "echo\n"},
		"socat sendto":    {[]string{"sh", "-c", `(echo echo; sleep 0.3) | socat -t 0.1 - UDP4-SENDTO:$0:$1`, serverAddr, u.port}, "echo\n"},
		"socat datagram":  {[]string{"sh", "-c", `(echo echo; sleep 0.3) | socat -t 0.1 - UDP4-DATAGRAM:$0:$1,bind=:34601`, serverAddr, u.port}, "echo\n"},
	} {
		for route, via := range u.routes() {
			t.Run(name+"/"+route, func(t *testing.T) { u.program(t, via, c.args, c.want) })
		}
	}
	u.lab.t = t
}

// TestSocatRelay has socat relay datagrams of many others, from loopback to beyond the egress and
// back.
func TestSocatRelay(t *testing.T) {
	u := newUDPLab(t)
	for route, via := range u.routes() {
		t.Run(route, func(t *testing.T) {
			u.lab.t = t
			relay := []string{needProgram(t, "socat"), "-T", "1", "UDP4-LISTEN:5300,bind=127.0.0.1,fork,reuseaddr", "UDP4:" + net.JoinHostPort(serverAddr, u.port)}
			talk := []string{needProgram(t, python), "-c", `import socket, time
for i in range(5):
	s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.1", 5300)); s.settimeout(1)
	text = b"echo %d" % i
	for _ in range(10): # until socat is there
		try: s.send(text); print(s.recv(100)); break
		except OSError: time.sleep(0.1)
	else: break
`}
			native := u.start(u.egress, relay...)
			want := output(t, u.in(u.egress, talk...))
			native.Process.Kill()
			if want != "b'echo 0'\nb'echo 1'\nb'echo 2'\nb'echo 3'\nb'echo 4'\n" {
				t.Fatalf("natively %q", want)
			}
			u.start(u.origin, append([]string{bin, "run", "--netns", u.origin, "--via", via, "--"}, relay...)...)
			sameOutput(t, want, output(t, u.in(u.origin, talk...)))
		})
	}
	u.lab.t = t
}

// TestQUIC downloads by HTTP/3 and talks QUIC, with all that quic-go does: segmentation offload,
// congestion marks, path MTU discovery. Whether it does is counted in the namespace that datagrams
// leave.
func TestQUIC(t *testing.T) {
	u := newUDPLab(t)
	needProgram(t, "nft")
	exe := filepath.Join(scratch, "quic")
	build := exec.Command("go", "build", "-trimpath", "-o", exe, ".")
	build.Dir = filepath.Join("testdata", "quic")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	at := serverAddr + ":4433"
	_, out := pipes(t, exec.Command("ip", "netns", "exec", u.serverName, exe, "serve", at))
	if !out.Scan() || out.Text() != "serving" {
		t.Fatalf("the server says %q", out.Text())
	}
	for _, where := range []string{u.origin, u.egress} {
		cmd := u.in(where, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(`table inet t {
	chain out { type filter hook output priority 0
		udp dport 4433 counter comment "all"
		udp dport 4433 meta length > 1600 counter comment "segmented"
		udp dport 4433 ip ecn ect0 counter comment "ect0"
		udp dport 4433 ip6 ecn ect0 counter comment "ect0"
	}
}`)
		output(t, cmd)
	}
	counter := regexp.MustCompile(`packets (\d+) bytes \d+ comment "(\w+)"`)
	counters := func(where string) (count map[string]int) {
		count = map[string]int{}
		for _, m := range counter.FindAllStringSubmatch(output(t, u.in(where, "nft", "list", "table", "inet", "t")), -1) {
			var n int
			fmt.Sscan(m[1], &n)
			count[m[2]] += n
		}
		return count
	}
	for name, args := range map[string][]string{
		"HTTP3":              {"get", at, "4000000"},
		"HTTP3, AF_INET":     {"get", "udp4", at, "4000000"},
		"QUIC streams":       {"echo", at, "1000000"},
		"QUIC streams, INET": {"echo", "udp4", at, "1000000"},
	} {
		for route, via := range u.routes() {
			t.Run(name+"/"+route, func(t *testing.T) {
				u.lab.t = t
				line := append([]string{exe}, args...)
				before := counters(u.egress)
				native := output(t, u.in(u.egress, line...))
				middle := counters(u.egress)
				used := func(before, after map[string]int) string {
					return fmt.Sprintf("segmentation %v, ECN %v", after["segmented"] > before["segmented"], after["ect0"] > before["ect0"])
				}
				if got := used(before, middle); got != "segmentation true, ECN true" {
					t.Fatalf("natively %s: %v, %v", got, before, middle)
				}
				leaves := map[string]string{"netns": u.egress, "nat64": u.origin}[route]
				before = counters(leaves)
				cmd, _ := u.via(via, line...)
				code, under := status(t, cmd)
				if code != 0 {
					t.Errorf("exit status %d", code)
				}
				sameOutput(t, native, under)
				if got := used(before, counters(leaves)); got != "segmentation true, ECN true" {
					t.Errorf("under upconv %s: %v, %v", got, before, counters(leaves))
				}
			})
		}
	}
	u.lab.t = t
}

// TestIperfUDP measures both ways at a rate that anything can carry.
func TestIperfUDP(t *testing.T) {
	u := newUDPLab(t)
	iperf := needProgram(t, "iperf3")
	type report struct {
		Error string
		End   struct {
			Sum struct {
				Packets, Lost_packets int
				Bytes                 int
			}
		}
	}
	run := func(t *testing.T, cmd *exec.Cmd) (r report) {
		t.Helper()
		server := u.in(u.serverName, iperf, "-s", "-1", "-B", serverAddr, "-p", iperfPort, "--forceflush")
		_, out := pipes(t, server)
		for out.Scan() && !strings.Contains(out.Text(), "Server listening") {
		}
		go func() {
			for out.Scan() {
			}
		}()
		text, _ := cmd.Output()
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, text)
		}
		server.Process.Kill() // if nobody came
		server.Wait()
		return r
	}
	for name, flags := range map[string][]string{"out": nil, "in": {"-R"}, "small": {"-l", "64", "-b", "4M"}, "connected port": {"--cport", "34700"}} {
		for route, via := range u.routes() {
			t.Run(name+"/"+route, func(t *testing.T) {
				u.lab.t = t
				args := append([]string{iperf, "-u", "-c", serverAddr, "-p", iperfPort, "-t", "1", "-b", "20M", "-J"}, flags...)
				check := func(how string, r report) {
					if r.Error != "" || r.End.Sum.Packets < 100 || r.End.Sum.Lost_packets*20 > r.End.Sum.Packets {
						t.Errorf("%s: %+v", how, r)
					}
				}
				check("natively", run(t, u.in(u.egress, args...)))
				cmd, _ := u.via(via, args...)
				check("under upconv", run(t, cmd))
			})
		}
	}
	u.lab.t = t
}

// TestChrony asks a time server once, and leaves the clock alone.
func TestChrony(t *testing.T) {
	u := newUDPLab(t)
	chronyd := needProgram(t, "chronyd")
	dir := publicDir(t)
	u.start(u.serverName, chronyd, "-x", "-d", "-u", "root", "-f", "/dev/null", "local stratum 3", "allow", "bindaddress "+serverAddr, "cmdport 0", "bindcmdaddress /", "pidfile "+dir+"/server")
	wrong := regexp.MustCompile(`(?m)^\S+Z |by -?[0-9.]+ seconds|with .*`)
	ask := func(pid string) []string {
		return []string{chronyd, "-Q", "-t", "10", "-u", "root", "-f", "/dev/null", "server " + serverAddr + " iburst maxsamples 1", "cmdport 0", "bindcmdaddress /", "pidfile " + dir + "/" + pid}
	}
	if !soon(func() bool { return u.in(u.egress, ask("first")...).Run() == nil }) {
		t.Fatal("chronyd does not serve")
	}
	for route, via := range u.routes() {
		t.Run(route, func(t *testing.T) {
			u.lab.t = t
			code, native := status(t, u.in(u.egress, ask("client")...))
			if code != 0 || !strings.Contains(native, "System clock wrong by") {
				t.Fatalf("natively: exit status %d\n%s", code, native)
			}
			cmd, _ := u.via(via, ask("client")...)
			code, under := status(t, cmd)
			if code != 0 {
				t.Errorf("exit status %d", code)
			}
			sameOutput(t, wrong.ReplaceAllString(native, "…"), wrong.ReplaceAllString(under, "…"))
		})
	}
	u.lab.t = t
}

// TestLogger sends a message to a syslog server.
func TestLogger(t *testing.T) {
	u := newUDPLab(t)
	syslog := u.packets(u.server, serverAddr+":0")
	_, port := split(t, syslog.LocalAddr().String())
	for route, via := range u.routes() {
		t.Run(route, func(t *testing.T) {
			u.lab.t = t
			args := []string{needProgram(t, "logger"), "-n", serverAddr, "-P", port, "-d", "--rfc3164", "-t", "tag", "a message"}
			read := func(cmd *exec.Cmd) (string, string) {
				output(t, cmd)
				data := make([]byte, 2000)
				syslog.SetReadDeadline(time.Now().Add(patience))
				n, from, err := syslog.ReadFromUDP(data)
				if err != nil {
					t.Fatalf("%v: %v", cmd, err)
				}
				_, text, _ := strings.Cut(string(data[:n]), "tag")
				return text, from.IP.String()
			}
			native, from := read(u.in(u.egress, args...))
			if native != ": a message" || from != egressAddr {
				t.Fatalf("natively %q from %s", native, from)
			}
			cmd, _ := u.via(via, args...)
			under, from := read(cmd)
			if under != native || route == "netns" && from != egressAddr || route == "nat64" && !strings.HasPrefix(from, "198.51.100.") {
				t.Errorf("under upconv %q from %s; natively %q from %s", under, from, native, egressAddr)
			}
		})
	}
	u.lab.t = t
}

// TestStatsd has a program count at a statsd of the origin and at one beyond the egress, with one
// socket and with two. None of what it sends may be lost or go astray.
func TestStatsd(t *testing.T) {
	u := newUDPLab(t)
	remote := u.packets(u.server, serverAddr+":8125")
	local := map[string]*net.UDPConn{}
	for _, where := range []string{u.origin, u.egress} {
		inNamespace(t, where, func() (err error) {
			local[where], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8125})
			return err
		})
		t.Cleanup(func() { local[where].Close() })
	}
	script := `import socket, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); two = one if sys.argv[2] == "one" else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(500):
	n = one.sendto(b"here.%d:1|c" % i, ("127.0.0.1", 8125)) + two.sendto(b"there.%d:1|c" % i, (sys.argv[1], 8125))
	if i % 20 == 0: time.sleep(0.002)
one.sendto(b"end", ("127.0.0.1", 8125)); two.sendto(b"end", (sys.argv[1], 8125))
`
	count := func(conn *net.UDPConn) string {
		seen := map[string]int{}
		data := make([]byte, 100)
		for {
			conn.SetReadDeadline(time.Now().Add(patience))
			n, err := conn.Read(data)
			if err != nil {
				return fmt.Sprintf("%v: %v", seen, err)
			}
			name, _, _ := strings.Cut(string(data[:n]), ".")
			if name == "end" {
				return fmt.Sprint(seen)
			}
			seen[name]++
		}
	}
	for _, conn := range append([]*net.UDPConn{remote}, local[u.origin], local[u.egress]) {
		conn.SetReadBuffer(4 << 20)
	}
	for _, sockets := range []string{"one", "two"} {
		for route, via := range u.routes() {
			t.Run(sockets+"/"+route, func(t *testing.T) {
				u.lab.t = t
				args := []string{needProgram(t, python), "-c", script, serverAddr, sockets}
				check := func(how, where string, cmd *exec.Cmd) {
					if code, out := status(t, cmd); code != 0 {
						t.Errorf("%s: exit status %d\n%s", how, code, out)
						return
					}
					if here, there := count(local[where]), count(remote); here != "map[here:500]" || there != "map[there:500]" {
						t.Errorf("%s: at 127.0.0.1 came %s, at the server %s", how, here, there)
					}
				}
				check("natively", u.egress, u.in(u.egress, args...))
				cmd, _ := u.via(via, args...)
				check("under upconv", u.origin, cmd)
			})
		}
	}
	u.lab.t = t
}

// TestPing pings with an ICMP datagram socket, as an ordinary user, and with a raw one as root.
func TestPing(t *testing.T) {
	needUsers(t)
	u := newUDPLab(t)
	ping := needProgram(t, "ping")
	// A copy has no capabilities of the file: a datagram socket is all that it can have.
	plain := filepath.Join(scratch, "ping")
	copyFile(t, plain, ping)
	output(t, u.in(u.serverName, "ip", "route", "add", "unreachable", "203.0.113.78"))
	output(t, u.in(u.serverName, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"))
	times := regexp.MustCompile(`ttl=\d+|time=[0-9.]+ ms|time \d+ms|rtt .*|ipg/ewma.*|pipe \d+`)
	for name, c := range map[string]struct {
		args   []string
		want   string
		routes []string
	}{
		"echo":        {[]string{"-n", "-c", "3", "-i", "0.2", "-W", "5", serverAddr}, "64 bytes from " + serverAddr + ": icmp_seq=3 … …\n3 packets transmitted, 3 received, 0% packet loss", nil},
		"large":       {[]string{"-n", "-c", "2", "-i", "0.2", "-W", "5", "-s", "3000", serverAddr}, "3008 bytes from " + serverAddr + ": icmp_seq=2", []string{"netns"}}, // tayga does not translate fragments of ICMP
		"options":     {[]string{"-n", "-c", "2", "-i", "0.2", "-W", "5", "-Q", "0x28", "-t", "33", "-p", "ab", serverAddr}, "64 bytes from " + serverAddr + ": icmp_seq=2", nil},
		"unreachable": {[]string{"-n", "-c", "1", "-W", "2", "203.0.113.78"}, "Destination Host Unreachable", []string{"netns"}},
		"loopback":    {[]string{"-n", "-c", "1", "127.0.0.1"}, "64 bytes from 127.0.0.1", nil},
	} {
		for kind, group := range map[string]string{"datagram": "0 65534", "raw": "1 0"} {
			for route, via := range u.routes() {
				if c.routes != nil && !slices.Contains(c.routes, route) || kind == "raw" && route == "nat64" && name != "loopback" {
					continue
				}
				t.Run(name+"/"+kind+"/"+route, func(t *testing.T) {
					u.lab.t = t
					u.pingGroups(group)
					args := append([]string{ping}, c.args...)
					if kind == "datagram" {
						args = append(append(ordinaryUser(t), plain), c.args...)
					}
					_, native := status(t, u.in(u.egress, args...))
					native = times.ReplaceAllString(native, "…")
					for line := range strings.SplitSeq(c.want, "\n") {
						if !strings.Contains(native, line) {
							t.Fatalf("natively it does not say %q but\n%s", line, native)
						}
					}
					cmd, _ := u.via(via, args...)
					_, under := status(t, cmd)
					sameOutput(t, native, times.ReplaceAllString(under, "…"))
				})
			}
		}
	}
	u.lab.t = t
}

// pingGroups says who may make ICMP datagram sockets.
func (u *udpLab) pingGroups(value string) {
	u.lab.t.Helper()
	for _, where := range []string{u.origin, u.egress} {
		output(u.lab.t, u.in(where, "sh", "-c", `echo "$0" >/proc/sys/net/ipv4/ping_group_range`, value))
	}
}

// TestPings sends several ICMP messages at a time, some of which are no echo requests.
func TestPings(t *testing.T) {
	u := newUDPLab(t)
	u.pingGroups("0 0")
	for name, route := range u.routes() {
		for abi, flags := range udpABIs {
			t.Run(name+"/"+abi, func(t *testing.T) {
				u.compare(t, route, nil, compileC(t, "udp_probe.c", flags...), udpCase{
					args: []string{"pings"}, want: "another type: 2; another type: -1 EINVAL; too short: 2; and a bad control message: 2; 16 bytes, number 2",
				})
			})
		}
	}
	u.lab.t = t
}

// TestOwnHeaders has raw sockets that are in the egress begin to send headers of their own making,
// which could say anything: they are taken back to the program's namespace.
func TestOwnHeaders(t *testing.T) {
	u := newUDPLab(t)
	got := output(t, upconv(t, "run", "--netns", u.origin, "--rule", "203.0.113.77=reject:EACCES", "--via", "netns:"+u.egress, "--",
		needProgram(t, python), "-c", `
import errno, socket, struct, sys
SO_NETNS_COOKIE = 71
home = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
echo = bytes.fromhex("0800f7fd00010001")
def packet(to): return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 1, 0, b"\0" * 4, socket.inet_aton(to)) + echo
def say(what, to, call, connects=False):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    if connects: s.connect((sys.argv[1], 0))
    else: s.sendto(echo, (sys.argv[1], 0))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    try: result = call(s, to)
    except OSError as e: result = errno.errorcode[e.errno]
    at = s.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    print(what, to, result, "at home" if at == home else "elsewhere", s.getsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL))
for to in "127.0.0.1", sys.argv[1], "203.0.113.77":
    say("sendto", to, lambda s, to: s.sendto(packet(to), (to, 0)))
    say("connect", to, lambda s, to: s.connect((to, 0)))
say("sendmsg", sys.argv[1], lambda s, to: s.sendmsg([packet(to)]), True)
`, serverAddr))
	if want := `sendto 127.0.0.1 28 at home 1
connect 127.0.0.1 None at home 1
sendto 203.0.113.10 ENETUNREACH at home 1
connect 203.0.113.10 ENETUNREACH at home 1
sendto 203.0.113.77 EACCES elsewhere 1
connect 203.0.113.77 EACCES elsewhere 1
sendmsg 203.0.113.10 28 elsewhere 1
`; got != want {
		t.Errorf("it says\n%s, want\n%s", got, want)
	}
}

// TestTraceroute asks for the way to a host that is two hops from the egress. That takes IP_TTL,
// IP_RECVERR and IP_RECVTTL, and path MTU discovery that is the program's own affair.
func TestTraceroute(t *testing.T) {
	u := newUDPLab(t)
	const far = "203.0.113.130"
	farName := u.serverName + "f"
	makeNamespace(t, farName)
	link(t, farName, far+"/26", u.serverName, "203.0.113.129/26", "0.0.0.0/0")
	output(t, u.in(u.serverName, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"))
	for _, where := range []string{farName, u.egress} {
		output(t, u.in(where, "sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_ratemask=0"))
	}
	traceroute := []string{needProgram(t, "traceroute"), "-n", "-m", "8", "-q", "1", "-w", "3"}
	times := regexp.MustCompile(`[0-9.]+ ?ms`)
	hop := regexp.MustCompile(`(?m)^ ?\d+: +([0-9.]+)|^ ?\d+  ([0-9.]+)`)
	hops := func(out string) (addrs []string) {
		for _, m := range hop.FindAllStringSubmatch(out, -1) {
			addrs = append(addrs, m[1]+m[2])
		}
		return slices.Compact(addrs) // tracepath asks the first one twice
	}
	for name, c := range map[string]struct {
		args   []string
		routes []string
	}{
		"UDP":       {append(slices.Clip(traceroute), far), nil},
		"UDP, -e":   {append(slices.Clip(traceroute), "-e", "-U", "-p", "5353", far), nil},
		"tracepath": {[]string{needProgram(t, "tracepath"), "-n", "-m", "8", far}, nil},
		"ICMP":      {append(slices.Clip(traceroute), "-I", far), []string{"netns"}},
	} {
		for route, via := range u.routes() {
			if c.routes != nil && !slices.Contains(c.routes, route) {
				continue
			}
			t.Run(name+"/"+route, func(t *testing.T) {
				u.lab.t = t
				native := times.ReplaceAllString(output(t, u.in(u.egress, c.args...)), "…")
				if got := hops(native); !slices.Equal(got, []string{"192.0.2.2", far}) {
					t.Fatalf("natively %q\n%s", got, native)
				}
				cmd, _ := u.via(via, c.args...)
				under := times.ReplaceAllString(output(t, cmd), "…")
				if route == "netns" {
					sameOutput(t, native, under)
				} else if got := hops(under); len(got) < 3 || got[0] != "192.0.0.8" || !slices.Equal(got[len(got)-2:], []string{"192.0.2.2", far}) {
					// The first hops have no IPv4 address.
					t.Errorf("%q\n%s", got, under)
				}
			})
		}
	}
	u.lab.t = t
}

// TestUDPProxy has nginx pass the datagrams of many clients at loopback on to a server beyond the
// egress, from one event loop for each of two processes, and send its log there too.
func TestUDPProxy(t *testing.T) {
	u := newUDPLab(t)
	nginx := needProgram(t, "nginx")
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		skip(t, "needs nginx's stream module: %v", err)
	}
	syslog := u.packets(u.server, serverAddr+":0")
	syslog.SetReadBuffer(1 << 20)
	_, logPort := split(t, syslog.LocalAddr().String())
	dir := publicDir(t)
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `load_module %s;
daemon off; worker_processes 2; user root; pid %s/pid; error_log stderr error;
events { worker_connections 512; }
stream {
	log_format plain '$status $bytes_received $bytes_sent';
	access_log syslog:server=%s:%s plain;
	server { listen 127.0.0.1:5300 udp reuseport; proxy_pass %[3]s:%[5]s; proxy_responses 1; proxy_timeout 20s; }
}
`, module, dir, serverAddr, logPort, u.port), 0o644); err != nil {
		t.Fatal(err)
	}
	const clients = 100
	talk := []string{needProgram(t, python), "-c", `import socket, sys, time
all = []
for i in range(int(sys.argv[1])):
	s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.1", 5300)); s.settimeout(3)
	all.append(s)
for _ in range(60): # until nginx is there
	try: all[0].send(b"echo"); all[0].recv(100); break
	except ConnectionRefusedError: time.sleep(0.05)
for i, s in enumerate(all): s.send(b"echo %d" % i)
again = 0
for i, s in enumerate(all):
	while again < 5:
		try: print(str(s.recv(100)) + " " if i == len(all) - 1 else "", end=""); break
		except TimeoutError: again += 1; s.send(b"echo %d" % i)
print("asked again", again)
`, fmt.Sprint(clients)}
	logged := func(t *testing.T) {
		t.Helper()
		data := make([]byte, 2000)
		for lines := 0; lines < clients+1; {
			syslog.SetReadDeadline(time.Now().Add(patience))
			n, err := syslog.Read(data)
			if err != nil {
				t.Errorf("%d lines of the log, then: %v", lines, err)
				return
			}
			if strings.Contains(string(data[:n]), "nginx: 200 ") {
				lines++
			}
		}
	}
	run := func(t *testing.T, where string, beneath ...string) {
		t.Helper()
		proxy := u.start(where, append(beneath, nginx, "-e", "stderr", "-c", conf)...)
		t.Cleanup(func() { // its workers would outlive a kill
			proxy.Process.Signal(unix.SIGTERM)
			proxy.Wait()
		})
		lost := u.badChecksums()
		got := output(t, u.in(where, talk...))
		if lost = u.badChecksums() - lost; got != fmt.Sprintf("b'echo %d' asked again %d\n", clients-1, lost) {
			t.Errorf("the clients say %q; the translator has lost %d datagrams", got, lost)
		}
		logged(t)
	}
	t.Run("native", func(t *testing.T) {
		u.lab.t = t
		run(t, u.egress)
	})
	for route, via := range u.routes() {
		t.Run(route, func(t *testing.T) {
			u.lab.t = t
			run(t, u.origin, bin, "run", "--netns", u.origin, "--via", via, "--")
		})
	}
	u.lab.t = t
}

// TestUDPPeers is the way of user-space WireGuard: one bound socket that is read all the time, many
// peers, both directions.
func TestUDPPeers(t *testing.T) {
	u := newUDPLab(t)
	exe := compileGo(t, "udp_peers.go")
	var peers []string
	for i := range 5 {
		addr := fmt.Sprintf("203.0.113.%d", 20+i)
		output(t, u.in(u.serverName, "ip", "address", "add", addr+"/32", "dev", "lo"))
		for range 4 {
			conn := u.packets(u.server, addr+":0")
			conn.SetReadBuffer(1 << 20)
			peers = append(peers, conn.LocalAddr().String())
			go func() {
				data := make([]byte, 100)
				for i := 0; ; i++ {
					n, from, err := conn.ReadFromUDP(data)
					if err != nil {
						return
					}
					if i%2 == 0 { // every other is an answer
						conn.WriteToUDP(data[:n], from)
					} else {
						conn.WriteToUDP(fmt.Appendf(nil, "unasked %d", i), from)
					}
				}
			}()
		}
	}
	for route, via := range u.routes() {
		t.Run(route, func(t *testing.T) {
			u.program(t, via, append([]string{exe, "51820"}, peers...), peers[0]+" 50 of which answers 25\n"+peers[19]+" 50 of which answers 25\n20 peers")
		})
	}
	u.lab.t = t
}
