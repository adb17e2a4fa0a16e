package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/upconv/upconv/nsdial"
)

// A nat64Lab is three hosts: the origin, which has IPv6 only, the server, which has IPv4 only, and
// between them one with a NAT64, tayga. Its namespace is the lab's egress: there the server can be
// reached natively.
//
//	origin 2001:db8:1::2 --- 2001:db8:1::1 (NAT64 2001:db8:64::/96) 192.0.2.1 --- 192.0.2.2 server 203.0.113.10
type nat64Lab struct {
	*lab
	middle *nsdial.Namespace
}

const (
	nat64Prefix = "2001:db8:64::/96"
	middleAddr6 = "2001:db8:1::1"
	natAddr     = "198.51.100.2" // what the server sees: the first of the pool
)

func newNAT64(t testing.TB) *nat64Lab {
	t.Helper()
	needRoot(t)
	needProgram(t, "tayga")
	tag := fmt.Sprintf("uc%d-%d", os.Getpid(), labs.Add(1))
	n := &nat64Lab{lab: &lab{t: t, origin: tag + "o", egress: tag + "n", serverName: tag + "s"}}
	for _, name := range []string{n.origin, n.egress, n.serverName} {
		makeNamespace(t, name)
	}
	link(t, n.origin, "2001:db8:1::2/64", n.egress, middleAddr6+"/64", "::/0")
	link(t, n.serverName, "192.0.2.2/24", n.egress, "192.0.2.1/24", "0.0.0.0/0")
	loopback(t, n.serverName, netlink.AddrAdd, serverAddr)
	open := func(name string) *nsdial.Namespace {
		ns, err := nsdial.OpenName(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		return ns
	}
	n.server, n.middle = open(n.serverName), open(n.egress)

	n.tayga(n.egress, "nat64", "tun-device nat64\nipv4-addr 198.51.100.1\nipv6-addr 2001:db8:1:ffff::1\nprefix "+nat64Prefix+"\ndynamic-pool 198.51.100.0/24\n")
	for _, line := range []string{
		"ip route add 203.0.113.0/24 via 192.0.2.2",
		"ip route add 198.51.100.0/24 dev nat64",
		"ip route add " + nat64Prefix + " dev nat64",
		"sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
	} {
		output(t, n.in(n.egress, strings.Fields(line)...))
	}
	probe := n.listen(serverAddr + ":0")
	say(probe, "hello")
	_, port := split(t, probe.Addr().String())
	originNS := open(n.origin)
	if !soon(func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err := originNS.DialContext(ctx, "tcp", "[2001:db8:64::203.0.113.10]:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}) {
		t.Fatal("the NAT64 does not work")
	}
	return n
}

// tayga starts a translator in a namespace, with its interface.
func (n *nat64Lab) tayga(where, device, text string) {
	n.t.Helper()
	dir := n.t.TempDir()
	conf := filepath.Join(dir, "tayga.conf")
	if err := os.WriteFile(conf, []byte(text+"data-dir "+dir+"\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
	program := needProgram(n.t, "tayga")
	output(n.t, n.in(where, program, "-c", conf, "--mktun"))
	// A queue long enough for 1,024 datagrams at once: sendmmsg(2) may bring so many.
	output(n.t, n.in(where, "ip", "link", "set", device, "txqueuelen", "4096", "up"))
	n.start(where, program, "-c", conf, "-d")
}

// start starts a program in a namespace, which ends with the test, however long that takes.
func (n *nat64Lab) start(where string, args ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", where}, args...)...)
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if n.t.Failed() {
			n.t.Logf("%v:\n%s", cmd, out.String())
		}
	})
	return cmd
}

// via prepares args to be run in the origin under upconv with a route, and a file for events.
func (n *nat64Lab) via(route string, args ...string) (cmd *exec.Cmd, events func() []event) {
	n.t.Helper()
	return n.flags([]string{"--netns", n.origin, "--via", route}, args...)
}

func (n *nat64Lab) flags(flags []string, args ...string) (cmd *exec.Cmd, events func() []event) {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "events")
	flags = append([]string{"run", "--events", file}, flags...)
	return upconv(n.t, append(append(flags, "--"), args...)...), func() []event { return readEvents(n.t, file) }
}

// unixServer serves a Unix socket that everybody may connect to: with the greeting, or otherwise.
func unixServer(t testing.TB, serve func(net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(scratch, fmt.Sprintf("unix-%d", unixServers.Add(1)))
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	go keep(listener, serve)
	return path
}

var unixServers atomic.Int64

// keep serves the connections of a listener, and closes none of them before the listener is closed.
func keep(listener net.Listener, serve func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		go serve(conn)
	}
}

func greetUnix(conn net.Conn) {
	defer conn.Close()
	io.WriteString(conn, "hello unix\n")
	conn.(*net.UnixConn).CloseWrite()
	io.Copy(io.Discard, conn)
}

// TestFamilyLooks compares what a socket looks like to a program natively, where there is IPv4, and
// under upconv, where it really is another one.
func TestFamilyLooks(t *testing.T) {
	n := newNAT64(t)
	silent := n.listen(serverAddr + ":0")
	go keep(silent, func(net.Conn) {})
	host, port := split(t, silent.Addr().String())
	closed := n.listen(serverAddr + ":0")
	_, closedPort := split(t, closed.Addr().String())
	closed.Close()
	for abi, flags := range map[string][]string{"amd64": {"-static"}, "i386": {"-static", "-m32"}} {
		probe := compileC(t, "family_probe.c", append([]string{"gcc"}, flags...)...)
		for route, what := range map[string][]string{
			"nat64:" + nat64Prefix:                     {"names", "options", "sharing", "again"},
			"inet6:2001:db8:64::cb00:710a":             {"names"},
			"unix:" + unixServer(t, func(net.Conn) {}): {"names", "options", "sharing", "again"},
			"unix:@" + n.abstract("looks"+abi):         {"names"},
		} {
			for _, what := range what {
				t.Run(abi+"/"+strings.SplitN(route, ":", 2)[0]+"/"+what, func(t *testing.T) {
					args := []string{probe, what, host, port}
					if what == "again" && !strings.HasPrefix(route, "unix") {
						args = append(args, closedPort)
					}
					native := output(t, n.in(n.egress, args...))
					cmd, _ := n.via(route, args...)
					under := output(t, cmd)
					if !strings.HasSuffix(native, "end\n") || strings.Count(native, "\n") < 2 {
						t.Fatalf("natively it said\n%s", native)
					}
					a, b := strings.Split(native, "\n"), strings.Split(under, "\n")
					for i := range max(len(a), len(b)) {
						if i >= len(a) || i >= len(b) || a[i] != b[i] {
							t.Fatalf("differ from line %d on\nnative: %s\nupconv: %s", i+1, a[min(i, len(a)-1)], b[min(i, len(b)-1)])
						}
					}
				})
			}
		}
	}
}

// TestUnixPeers connects to one destination again and again, and to others in between: each socket
// has its own names, and tells them when others are open as well.
func TestUnixPeers(t *testing.T) {
	n := newLab(t)
	n.tag(t)
	path := unixServer(t, func(net.Conn) {})
	const script = `import socket
def peers():
    for i in range(40): yield socket.AF_INET, "203.0.113.1", 80
    for i in range(40): yield socket.AF_INET, "203.0.113.%d" % (1 + i % 2), 80
    for i in range(40): yield socket.AF_INET, "203.0.113.1", 80 + i // 8
    for i in range(40): yield (socket.AF_INET, "203.0.113.1", 80) if i // 6 % 2 else (socket.AF_INET6, "::ffff:203.0.113.1", 80)
    for i in range(40): yield socket.AF_INET, "198.51.100.1" if i // 6 % 2 else "203.0.113.1", 80
    for i in range(40): yield socket.AF_INET, "203.0.113.1", 80
wrong, ports, all = 0, set(), []
for i, (family, addr, port) in enumerate(peers()):
    s = socket.socket(family)
    if i >= 200 and i % 5 == 2: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    s.connect((addr, port)); all.append((i, s, addr, port)); ports.add(s.getsockname()[1])
for i, s, addr, port in all:
    wrong += s.getpeername()[:2] != (addr, port)
    wrong += s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) != (77 if i >= 200 and i % 5 == 2 else 7200)
print(wrong, len(all) - len(ports))
`
	under := upconv(t, "run", "--netns", n.origin, "--rule", "198.51.100.0/24=unix:@"+n.abstract("peers"), "--via", "unix:"+path, "--",
		needProgram(t, python), "-c", script)
	if out := output(t, under); out != "0 0\n" {
		t.Errorf("wrong names and ports that are not their own: %s", out)
	}
}

// TestFamilyConnect compares connect(2) natively, where there is IPv4, with what it is like over
// other families. What differs is only the program's own address; and a Unix socket is connected at
// once.
func TestFamilyConnect(t *testing.T) {
	n := newNAT64(t)
	host, port := split(t, n.greet())
	closed := n.listen(serverAddr + ":0")
	_, closedPort := split(t, closed.Addr().String())
	closed.Close()
	output(t, command(t, "ip", "-n", n.serverName, "route", "add", "blackhole", dropped))
	path := unixServer(t, func(conn net.Conn) {
		defer conn.Close()
		fmt.Fprintf(conn, "hello peer\n")
		conn.(*net.UnixConn).CloseWrite()
		io.Copy(io.Discard, conn)
	})
	address := regexp.MustCompile(`192\.0\.[02]\.[12]|hello \S+`)
	probe := compileC(t, "connect_probe.c", "gcc", "-static", "-pthread")
	bound := 21000
	for _, test := range []struct {
		args string
		unix bool
	}{
		{"blocking SERVER OPEN", true}, {"blocking SERVER CLOSED", false}, {"blocking " + dropped + " 80 syncnt", false},
		{"flags SERVER CLOSED", false}, {"nonblocking SERVER OPEN poll", false}, {"nonblocking SERVER OPEN select", false},
		{"nonblocking SERVER OPEN epoll", false}, {"nonblocking SERVER CLOSED epoll", false}, {"result-by-connect SERVER OPEN", false},
		{"result-by-connect SERVER CLOSED", false}, {"pending " + dropped + " 80", false}, {"epoll-before SERVER OPEN", false},
		{"epoll-before SERVER CLOSED", false}, {"signal " + dropped + " 80 restart 0 thread", false}, {"signal " + dropped + " 80 no 0 thread", false},
		{"signal " + dropped + " 80 no 5000 single", false}, {"sndtimeo " + dropped + " 80 300", false}, {"sndtimeo SERVER OPEN 5000", true},
		{"bad SERVER OPEN", true}, {"inet6 SERVER OPEN", true}, {"connected SERVER OPEN", false}, {"then SERVER CLOSED OPEN", false},
		{"options SERVER OPEN", false}, {"bound SERVER OPEN BOUND", true}, {"fastopen SERVER OPEN", false}, {"garbage SERVER OPEN", true},
		{"int80 SERVER OPEN", true},
	} {
		for _, route := range []string{"nat64:" + nat64Prefix, "unix:" + path} {
			if route[0] == 'u' && !test.unix {
				continue
			}
			bound += 10
			own := fmt.Sprint(bound)
			t.Run(test.args+"/"+route[:5], func(t *testing.T) {
				t.Parallel()
				line := strings.NewReplacer("SERVER", host, "OPEN", port, "CLOSED", closedPort, "BOUND", own).Replace(test.args)
				args := append([]string{probe}, strings.Fields(line)...)
				native := address.ReplaceAllString(output(t, n.in(n.egress, args...)), "ADDRESS")
				cmd := upconv(t, append([]string{"run", "--netns", n.origin, "--via", route, "--"}, args...)...)
				under := address.ReplaceAllString(output(t, cmd), "ADDRESS")
				if !strings.HasSuffix(native, "end\n") || native != under {
					t.Errorf("native:\n%s\nupconv:\n%s", native, under)
				}
			})
		}
	}
}

// abstract serves the greeting on an abstract Unix socket of the origin and returns its name.
func (l *lab) abstract(name string) string {
	l.t.Helper()
	name = fmt.Sprintf("%s-%s", l.origin, name)
	var listener net.Listener
	inNamespace(l.t, l.origin, func() (err error) {
		listener, err = net.Listen("unix", "@"+name)
		return err
	})
	l.t.Cleanup(func() { listener.Close() })
	go keep(listener, greetUnix)
	return name
}

// familyClients say whom they are connected to, and who they are.
func familyClients(t *testing.T) map[string]struct {
	args []string // with HOST and PORT
	want string
} {
	golang := filepath.Join(scratch, "family_go") // where ordinary users can execute it
	if err := os.Rename(compileGo(t, "family_go.go"), golang); err != nil {
		t.Fatal(err)
	}
	return map[string]struct {
		args []string
		want string
	}{
		"curl": {[]string{needProgram(t, "curl"), "-sS", "-v", "--http0.9", "-m", "20", "http://HOST:PORT/"}, "Connected to HOST (HOST) port PORT"},
		"Python": {[]string{needProgram(t, python), "-c",
			`import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); print(s.getpeername(), s.getsockname()[0], s.makefile().read())`,
			"HOST", "PORT"}, "('HOST', PORT) 192.0.0.2 hello"},
		"Python IPv4-mapped": {[]string{python, "-c",
			`import socket, sys; s = socket.socket(socket.AF_INET6); s.connect(("::ffff:" + sys.argv[1], int(sys.argv[2]))); print(s.getpeername()[:2], s.getsockname()[0], s.makefile().read())`,
			"HOST", "PORT"}, "('::ffff:HOST', PORT) ::ffff:192.0.0.2 hello"},
		"Python asyncio": {[]string{python, "-c", `import asyncio, sys
async def main():
	r, w = await asyncio.wait_for(asyncio.open_connection(sys.argv[1], int(sys.argv[2])), 20)
	print(w.get_extra_info("peername"), w.get_extra_info("sockname")[0], (await r.read()).decode())
asyncio.run(main())`, "HOST", "PORT"}, "('HOST', PORT) 192.0.0.2 hello"},
		"Java": {[]string{needProgram(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", publicCopy(t, "family_java.java"), "HOST", "PORT"},
			"Socket /HOST PORT 192.0.0.2 hello\nSocketChannel /HOST:PORT 192.0.0.2 hello"},
		"Go": {[]string{golang, "HOST:PORT"}, "HOST:PORT 192.0.0.2 hello"},
		"Node": {[]string{needProgram(t, "node"), "-e",
			`const s = require("net").connect(Number(process.argv[2]), process.argv[1], () => { console.log(s.remoteFamily, s.remoteAddress, s.remotePort, s.localAddress); s.pipe(process.stdout) })`,
			"HOST", "PORT"}, "IPv4 HOST PORT 192.0.0.2\nhello"},
		"Perl": {[]string{needProgram(t, "perl"), "-MIO::Socket::INET", "-e",
			`my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0]) or die "$@\n"; print $s->peerhost, " ", $s->peerport, " ", $s->sockhost, " ", <$s>`, "HOST:PORT"},
			"HOST PORT 192.0.0.2 hello"},
		"socat": {[]string{needProgram(t, "socat"), "-d", "-d", "-u", "TCP4:HOST:PORT", "STDOUT"}, "AF=2 HOST:PORT"},
	}
}

// TestFamilyClients has programs say whom they think they are connected to: as root, and as an
// ordinary user.
func TestFamilyClients(t *testing.T) {
	n := newNAT64(t)
	host, port := split(t, n.greet())
	path := unixServer(t, greetUnix)
	list := familyClients(t)
	replace := strings.NewReplacer("HOST", host, "PORT", port)
	for name, c := range list {
		args := make([]string, len(c.args))
		for i, arg := range c.args {
			args[i] = replace.Replace(arg)
		}
		want := replace.Replace(c.want)
		for _, route := range []string{"nat64:" + nat64Prefix, "inet6:2001:db8:64::cb00:710a", "unix:" + path} {
			t.Run(name+"/"+strings.SplitN(route, ":", 2)[0], func(t *testing.T) {
				n.lab.t = t
				cmd, events := n.via(route, args...)
				status, out := status(t, cmd)
				saysAll(t, status, out, want)
				list := events()
				if len(list) == 0 {
					t.Fatal("no event")
				}
				for _, e := range list {
					if e.Dst != host+":"+port {
						continue
					}
					local, err := netip.ParseAddrPort(e.Local)
					if e.Route != route || e.Result != "ok" || strings.HasPrefix(route, "unix") != (e.Local == "") || e.Local != "" && (err != nil || local.Addr().String() != originAddr6) {
						t.Errorf("event %+v", e)
					}
				}
			})
		}
		t.Run(name+"/unprivileged", func(t *testing.T) {
			user := append(ordinaryUser(t), append([]string{bin, "run", "--via", "nat64:" + nat64Prefix, "--"}, args...)...)
			status, out := status(t, n.in(n.origin, user...))
			saysAll(t, status, out, want)
		})
	}
	n.lab.t = t
}

// saysAll checks that a program has succeeded and said everything that want has a line for.
func saysAll(t *testing.T, status int, out, want string) {
	t.Helper()
	for line := range strings.SplitSeq(want, "\n") {
		if status != 0 || !strings.Contains(out, line) {
			t.Errorf("status %d; not in the output: %q\n%s", status, line, out)
		}
	}
}

func TestNAT64Redis(t *testing.T) {
	n := newNAT64(t)
	n.serve(serverAddr+":6379", needProgram(t, "redis-server"), "--bind", serverAddr, "--port", "6379", "--protected-mode", "no", "--save", "", "--dir", t.TempDir())
	cmd, _ := n.via("nat64:"+nat64Prefix, needProgram(t, "redis-cli"), "-h", serverAddr, "client", "list")
	if out := output(t, cmd); !strings.Contains(out, "laddr="+serverAddr+":6379") {
		t.Errorf("redis-cli: %s", out)
	}
}

// TestNAT64SSH logs in with ssh, which says whom it has authenticated to.
func TestNAT64SSH(t *testing.T) {
	needRealRoot(t, "sshd reads /etc/shadow")
	n := newNAT64(t)
	dir := t.TempDir()
	for _, name := range []string{"host", "user"} {
		output(t, command(t, needProgram(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)))
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	n.serve(serverAddr+":2222", needProgram(t, "sshd"), "-D", "-e", "-f", "/dev/null", "-h", dir+"/host", "-p", "2222", "-o", "ListenAddress="+serverAddr,
		"-o", "PidFile=none", "-o", "AuthorizedKeysFile="+dir+"/user.pub", "-o", "StrictModes=no", "-o", "UsePAM=no")
	cmd, _ := n.via("nat64:"+nat64Prefix, needProgram(t, "ssh"), "-v", "-F", "none", "-i", dir+"/user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-p", "2222", "root@"+serverAddr, "echo $SSH_CONNECTION")
	status, out := status(t, cmd)
	saysAll(t, status, out, "Authenticated to "+serverAddr+" (["+serverAddr+"]:2222)\n "+serverAddr+" 2222\n198.51.100.")
}

// TestNAT64Postgres asks a PostgreSQL server whom it is, and psql whom it is connected to.
func TestNAT64Postgres(t *testing.T) {
	n := newNAT64(t)
	psql := needProgram(t, "psql")
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		skip(t, "needs a PostgreSQL server")
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		skip(t, "needs the user postgres: %v", err)
	}
	needUsers(t)
	dir := filepath.Join(scratch, "postgres")
	uid, _ := strconv.Atoi(owner.Uid)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, uid, -1)); err != nil {
		t.Fatal(err)
	}
	as := []string{"setpriv", "--reuid", owner.Uid, "--regid", owner.Gid, "--clear-groups"}
	run := func(args ...string) *exec.Cmd { return command(t, as[0], append(as[1:len(as):len(as)], args...)...) }
	output(t, run(found[0]+"/initdb", "-D", dir, "-A", "trust", "--no-sync", "--no-instructions"))
	access, err := os.OpenFile(dir+"/pg_hba.conf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(access, "host all all 0.0.0.0/0 trust")
	access.Close()
	n.serve(serverAddr+":5432", append(as, found[0]+"/postgres", "-D", dir, "-h", serverAddr, "-k", dir, "-F")...)
	cmd, _ := n.via("nat64:"+nat64Prefix, psql, "-h", serverAddr, "-U", "postgres", "-At", "-c", "select inet_server_addr(), inet_client_addr()", "-c", `\conninfo`)
	status, out := status(t, cmd)
	saysAll(t, status, out, serverAddr+"|198.51.100.\n"+`on host "`+serverAddr+`"`)
}

// TestFamilyIsolated is in a namespace that only root can enter from outside.
func TestFamilyIsolated(t *testing.T) {
	script := `import socket
l = socket.socket(socket.AF_INET6); l.bind(("::1", 0)); l.listen(5)
port = l.getsockname()[1]
for family, addr in (socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "::ffff:203.0.113.1"):
	for _ in range(3):
		s = socket.socket(family); s.settimeout(20); s.connect((addr, port)); print(s.getpeername()[0], l.accept()[1][0])
s.close(); s = socket.socket(socket.AF_INET6); s.settimeout(20); s.connect(("::1", port)); print(s.getpeername()[0])
`
	want := strings.Repeat("203.0.113.1 ::1\n", 3) + strings.Repeat("::ffff:203.0.113.1 ::1\n", 3) + "::1\n"
	for name, as := range map[string]func(*exec.Cmd) *exec.Cmd{"root": func(cmd *exec.Cmd) *exec.Cmd { return cmd }, "user": asNobody} {
		t.Run(name, func(t *testing.T) {
			if needRoot(t); name == "user" {
				needUsers(t)
			}
			for _, flags := range [][]string{{"--via", "inet6:::1"}, {"--rule", "203.0.113.1=inet6:::1", "--via", "netns:host"}} {
				cmd := as(upconv(t, append(append([]string{"run", "--isolate"}, flags...), "--", needProgram(t, python), "-c", script)...))
				if out := output(t, cmd); out != want {
					t.Errorf("%v: %s", flags, out)
				}
			}
		})
	}
}

// TestNAT64Errors is about connections that cannot be made: what the program is told, and what the
// event says besides.
func TestNAT64Errors(t *testing.T) {
	n := newNAT64(t)
	closed := n.listen(serverAddr + ":0")
	host, port := split(t, closed.Addr().String())
	closed.Close()
	run := func(where string, args ...string) {
		output(t, command(t, "ip", append([]string{"-n", where}, args...)...))
	}
	run(n.origin, "-6", "route", "del", "default")
	run(n.origin, "-6", "route", "add", nat64Prefix, "via", middleAddr6)
	run(n.origin, "-6", "route", "add", "prohibit", "2001:db8:98::/64")
	run(n.origin, "-6", "route", "add", "unreachable", "2001:db8:97::/64")
	run(n.serverName, "route", "add", "unreachable", "203.0.113.78")
	output(t, n.in(n.serverName, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0"))
	for name, test := range map[string]struct{ dst, route, errno, note string }{
		"well-known prefix":   {"", "nat64:64:ff9b::/96", "ENETUNREACH", "not global"},
		"no route":            {"", "inet6:2001:db8:99::1", "ENETUNREACH", ""},
		"prohibited":          {"", "inet6:2001:db8:98::1", "EACCES", ""},
		"unreachable":         {"", "inet6:2001:db8:97::1", "EHOSTUNREACH", ""},
		"no neighbour":        {"", "inet6:2001:db8:1::77", "EHOSTUNREACH", ""},
		"refused":             {"", "nat64:" + nat64Prefix, "ECONNREFUSED", ""},
		"unreachable by ICMP": {"203.0.113.78", "nat64:" + nat64Prefix, "EHOSTUNREACH", ""},
		"no such interface":   {"", "inet6:fe80::1%nonesuch", "ENODEV", "inet6"},
		"no such socket":      {"", "unix:/nonexistent/socket", "ECONNREFUSED", "ENOENT"},
		"not a socket":        {"", "unix:/dev/null", "ECONNREFUSED", ""},
		"no abstract socket":  {"", "unix:@" + n.origin + "-nonesuch", "ECONNREFUSED", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dst := test.dst
			if dst == "" {
				dst = host
			}
			for _, timeout := range []string{"None", "20"} { // blocking and not
				n.lab.t = t
				cmd, _ := n.via(test.route, python, "-c", `import errno, socket, sys
try: socket.create_connection((sys.argv[1], int(sys.argv[2])), eval(sys.argv[3])); print("connected")
except OSError as e: print(errno.errorcode[e.errno])
`, dst, port, timeout)
				// "Host unreachable" and "net unreachable" are one in ICMPv6, and the kernel's own
				// wait says so: docs/fidelity.md.
				if out := output(t, cmd); out != test.errno+"\n" && !(timeout == "None" && test.dst != "" && out == "ENETUNREACH\n") {
					t.Errorf("timeout %s: %s, want %s", timeout, out, test.errno)
				}
				file := cmd.Args[3]
				if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), test.note) {
					t.Errorf("%v: not in the event: %q: %s", err, test.note, text)
				}
			}
		})
	}
	n.lab.t = t
}

// resolver answers the question for ipv4only.arpa at the middle host; asked tells of every
// question.
func (n *nat64Lab) resolver(ttl uint32, prefixes ...string) (asked chan struct{}, goOn chan struct{}) {
	n.t.Helper()
	conn, err := n.middle.ListenPacket(context.Background(), "udp", "["+middleAddr6+"]:53")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	asked, goOn = make(chan struct{}, 100), make(chan struct{}, 100)
	go func() {
		buf := make([]byte, 1500)
		for {
			length, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:length]) != nil || len(m.Questions) != 1 {
				continue
			}
			asked <- struct{}{}
			<-goOn
			m.Response, m.RecursionAvailable = true, true
			for _, prefix := range prefixes {
				base := netip.MustParsePrefix(prefix).Addr().As16()
				copy(base[12:], []byte{192, 0, 0, 170}) // of /96
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: ttl},
					Body:   &dnsmessage.AAAAResource{AAAA: base},
				})
			}
			if out, err := m.Pack(); err == nil {
				conn.WriteTo(out, from)
			}
		}
	}()
	return asked, goOn
}

// plain prepares an upconv command line to be run in the origin, with the middle host for a
// resolver.
func (n *nat64Lab) plain(user bool, args ...string) *exec.Cmd {
	n.t.Helper()
	conf := filepath.Join(n.t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+middleAddr6+"\noptions timeout:2 attempts:1\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
	line := `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	all := []string{"unshare", "-m", "sh", "-c", line, conf}
	if user {
		all = append(all, ordinaryUser(n.t)...)
	}
	return n.in(n.origin, append(append(all, bin), args...)...)
}

// TestNAT64Auto is the plain upconv run, without flags and privileges: the first connect waits for
// the resolver, later ones do not.
func TestNAT64Auto(t *testing.T) {
	n := newNAT64(t)
	host, port := split(t, n.greet())
	script := `import socket, sys
for line in sys.stdin:
	s = socket.socket()
	try: s.connect((sys.argv[1], int(sys.argv[2]))); print(s.getpeername()[0], s.makefile().readline().strip(), flush=True)
	except OSError as e: print(e, flush=True)
`
	for _, user := range []bool{false, true} {
		t.Run(map[bool]string{false: "root", true: "user"}[user], func(t *testing.T) {
			n.lab.t = t
			asked, goOn := n.resolver(3600, nat64Prefix)
			cmd := n.plain(user, "run", "--", python, "-c", script, host, port)
			in, out := pipes(t, cmd)
			select {
			case <-asked:
			case <-time.After(patience):
				t.Fatal("the resolver is not asked before the first connect")
			}
			fmt.Fprintln(in)
			lines := make(chan string)
			go func() {
				for out.Scan() {
					lines <- out.Text()
				}
				close(lines)
			}()
			select {
			case line := <-lines:
				t.Fatalf("did not wait: %s", line)
			case <-time.After(100 * time.Millisecond): // long enough for one that does not wait
			}
			goOn <- struct{}{}
			want := host + " hello 198.51.100."
			if line := <-lines; !strings.HasPrefix(line, want) {
				t.Fatalf("%q, want %q", line, want)
			}
			fmt.Fprintln(in)
			if line := <-lines; !strings.HasPrefix(line, want) {
				t.Errorf("%q, want %q", line, want)
			}
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if len(asked) > 0 {
				t.Error("asked again")
			}
		})
	}
	n.lab.t = t
	t.Run("none", func(t *testing.T) {
		n.lab.t = t
		asked, goOn := n.resolver(60)
		goOn <- struct{}{}
		cmd := n.plain(true, "run", "--", "curl", "-sS", "-m", "20", "http://"+host+":"+port+"/")
		status, out := status(t, cmd)
		<-asked
		for _, want := range []string{"no NAT64 prefix found", "ipv4only.arpa", "--via netns:NAME", "--via unix:/PATH"} {
			if !strings.Contains(out, want) {
				t.Errorf("it does not say %q:\n%s", want, out)
			}
		}
		if status != 7 {
			t.Errorf("status %d\n%s", status, out)
		}
	})
	for name, call := range map[string]string{
		"connect, datagrams": "s.connect(dst); s.send(b'echo')",
		"sendto":             "s.sendto(b'echo', dst)",
		"sendmsg":            "s.sendmsg([b'ec', b'ho'], [], 0, dst)",
		"sendto, bound":      "s.bind(('0.0.0.0', 0)); s.sendto(b'echo', dst)",
		"sendto, AF_INET6":   "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(b'echo', ('::ffff:' + dst[0], dst[1]))",
		"MSG_FASTOPEN":       "t = socket.socket(); t.sendto(b'', socket.MSG_FASTOPEN, tcp); s.sendto(t.recv(2) * 2, dst)",
	} {
		t.Run(name, func(t *testing.T) {
			n.lab.t = t
			asked, goOn := n.resolver(60, nat64Prefix)
			dst, _, _ := n.serveUDP(serverAddr)
			cmd := n.plain(true, "run", "--", python, "-uc", `import socket, sys
s, dst, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), (sys.argv[1], int(sys.argv[2])), (sys.argv[1], int(sys.argv[3]))
print("begins")
`+call+`
print("goes on")
print(s.recv(10).decode())
`, host, dst, port)
			_, out := pipes(t, cmd)
			<-asked
			if !out.Scan() || out.Text() != "begins" {
				t.Fatalf("%q", out.Text())
			}
			time.AfterFunc(50*time.Millisecond, func() { goOn <- struct{}{} }) // until then it waits, mostly
			want := []string{"goes on", "echo"}
			if name == "MSG_FASTOPEN" {
				want[1] = "hehe"
			}
			for _, want := range want {
				if !out.Scan() || out.Text() != want {
					t.Fatalf("%q, want %q", out.Text(), want)
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("signal while waiting", func(t *testing.T) {
		n.lab.t = t
		asked, _ := n.resolver(60)
		cmd := n.plain(true, "run", "--", python, "-c", `import signal, socket, sys
class Alarm(Exception): pass
def handler(*_): raise Alarm
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try: socket.socket().connect((sys.argv[1], 80))
except Alarm: print("alarm")
`, host)
		if out := output(t, cmd); out != "alarm\n" {
			t.Errorf("%s", out)
		}
		<-asked
	})
	n.lab.t = t
}

func pipes(t testing.TB, cmd *exec.Cmd) (io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return in, bufio.NewScanner(out)
}

// TestUnixBacklog fills the backlog of a server that does not accept, and has it accept.
func TestUnixBacklog(t *testing.T) {
	n := newNAT64(t)
	path := filepath.Join(scratch, fmt.Sprintf("unix-%d", unixServers.Add(1)))
	server := command(t, python, "-c", `import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(0)
held = socket.socket(socket.AF_UNIX); held.connect(sys.argv[1])
print("full", flush=True)
for line in sys.stdin:
	c, _ = s.accept(); c.sendall(b"hello\n"); c.close(); print("accepted", flush=True)
`, path)
	accept, said := pipes(t, server)
	said.Scan()
	client := func(what string) (*exec.Cmd, *bufio.Scanner) {
		cmd, _ := n.via("unix:"+path, python, "-c", `import errno, signal, socket, struct, sys, time
class Alarm(Exception): pass
def alarm(*_): raise Alarm
what = sys.argv[1]
s = socket.socket()
if what == "nonblocking": s.setblocking(False)
if what == "timeout": s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100000))
if what == "signal": signal.signal(signal.SIGALRM, alarm); signal.setitimer(signal.ITIMER_REAL, 0.1)
print("connecting", flush=True)
began = time.monotonic()
try: s.connect(("198.51.100.77", 80)); print("connected", s.getpeername()[0], s.makefile().read().strip(), flush=True)
except Alarm: print("alarm", flush=True)
except OSError as e: print(errno.errorcode[e.errno], time.monotonic() - began >= 0.1, flush=True)
`, what)
		_, out := pipes(t, cmd)
		out.Scan()
		return cmd, out
	}
	line := func(out *bufio.Scanner) string {
		out.Scan()
		return out.Text()
	}
	_, out := client("nonblocking")
	if got := line(out); got != "ECONNREFUSED False" {
		t.Errorf("non-blocking: %s", got)
	}
	_, out = client("timeout")
	if got := line(out); got != "EINPROGRESS True" {
		t.Errorf("SO_SNDTIMEO: %s", got)
	}
	_, out = client("signal")
	if got := line(out); got != "alarm" {
		t.Errorf("signal: %s", got)
	}
	killed, _ := client("killed")
	killed.Process.Kill()
	killed.Wait()
	var waiting []*bufio.Scanner
	for range 5 {
		_, out := client("blocking")
		waiting = append(waiting, out)
	}
	for range 1 + len(waiting) {
		fmt.Fprintln(accept)
	}
	for _, out := range waiting {
		if got := line(out); got != "connected 198.51.100.77 hello" {
			t.Errorf("blocking: %s", got)
		}
	}
}

// TestUnixWaitsAside has more threads wait for a server with a full backlog than the supervisor has
// workers. All the same there is somebody to serve others of the same program.
func TestUnixWaitsAside(t *testing.T) {
	n := newNAT64(t)
	full := filepath.Join(scratch, fmt.Sprintf("unix-%d", unixServers.Add(1)))
	server := command(t, python, "-c", `import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(0)
held = socket.socket(socket.AF_UNIX); held.connect(sys.argv[1])
print("full", flush=True)
sys.stdin.readline()
while True: s.accept()
`, full)
	accept, said := pipes(t, server)
	said.Scan()
	cmd, _ := n.flags([]string{"--netns", n.origin, "--rule", "203.0.113.1=unix:" + full, "--via", "unix:" + unixServer(t, greetUnix)},
		python, "-c", `import socket, sys, threading
def wait(): socket.socket().connect(("203.0.113.1", 80))
threads = [threading.Thread(target=wait) for _ in range(40)]
for t in threads: t.start()
for _ in range(3):
	s = socket.socket(); s.connect(("198.51.100.77", 80)); print(s.makefile().readline(), end="", flush=True)
sys.stdin.readline()
for t in threads: t.join()
print("all")
`)
	in, out := pipes(t, cmd)
	for range 3 {
		if out.Scan(); out.Text() != "hello unix" {
			t.Fatalf("%q", out.Text())
		}
	}
	fmt.Fprintln(accept)
	fmt.Fprintln(in)
	if out.Scan(); out.Text() != "all" {
		t.Errorf("%q", out.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestUnixProxy has nginx log the addresses of a PROXY header.
func TestUnixProxy(t *testing.T) {
	n := newNAT64(t)
	dir := filepath.Join(scratch, "nginx")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off;
master_process off;
user root;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	log_format proxy "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
	access_log %[1]s/log proxy;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen unix:%[1]s/socket proxy_protocol;
		location / { return 200 "served by nginx"; }
	}
}
`, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start(n.origin, needProgram(t, "nginx"), "-e", "stderr", "-c", conf)
	if !soon(func() bool {
		conn, err := net.Dial("unix", dir+"/socket")
		if err == nil {
			conn.Close()
		}
		return err == nil
	}) {
		t.Fatal("nginx does not serve")
	}
	cmd, _ := n.via("unix:"+dir+"/socket?proxy=v2", needProgram(t, "curl"), "-sS", "-m", "20", "-w", " %{local_ip}:%{local_port} %{remote_ip}:%{remote_port}", "http://198.51.100.77:8080/")
	got, ok := strings.CutPrefix(output(t, cmd), "served by nginx ")
	if !ok || !strings.HasPrefix(got, "192.0.0.2:") || !strings.HasSuffix(got, " 198.51.100.77:8080") {
		t.Fatalf("curl: %s", got)
	}
	if !soon(func() bool {
		log, _ := os.ReadFile(dir + "/log")
		return strings.Contains("\n"+string(log), "\n"+got+"\n")
	}) {
		log, _ := os.ReadFile(dir + "/log")
		t.Errorf("curl says %s, nginx %s", got, log)
	}
}

// TestUnixTargetRoot has a path looked up in the root directory of the program, from which links do
// not lead out.
func TestUnixTargetRoot(t *testing.T) {
	n := newNAT64(t)
	path := unixServer(t, greetUnix)
	root := t.TempDir()
	text, err := os.ReadFile(static(t, "client_connect.c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/client", text, 0o755); err != nil {
		t.Fatal(err)
	}
	inside, err := net.Listen("unix", root+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inside.Close() })
	go keep(inside, greetUnix)
	for link, to := range map[string]string{"inner": "/socket", "outer": path, "dots": "../../../../../../.." + path} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	client := []string{"chroot", root, "/client", "connect", "198.51.100.77", "80"}
	for target, want := range map[string]bool{"/socket": true, "/inner": true, "/../socket": true, "/outer": false, "/dots": false, path: false} {
		cmd, _ := n.via("unix:"+target+"?root=target", client...)
		if status, out := status(t, cmd); want != strings.Contains(out, "hello unix") || want != (status == 0) {
			t.Errorf("%s: status %d, %s", target, status, out)
		}
	}
	cmd, _ := n.via("unix:"+path, client...)
	if out := output(t, cmd); !strings.Contains(out, "hello unix") {
		t.Errorf("as upconv sees it: %s", out)
	}
}
