package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
)

// python is the distribution's interpreter, and not one that a version manager has put before it.
const python = "/usr/bin/python3"

// testdata returns the absolute path of a file of testdata/.
func testdata(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// compileGo compiles a Go program of testdata/, without cgo, and returns the executable.
func compileGo(t testing.TB, source string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), strings.TrimSuffix(source, ".go"))
	build := exec.Command("go", "build", "-trimpath", "-o", exe, filepath.Join("testdata", source))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	return exe
}

func split(t testing.TB, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// peers records the addresses that a server has seen.
type peers struct {
	mu   sync.Mutex
	seen []string
}

func (p *peers) add(addr net.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, addr.String())
}

func (p *peers) has(addr string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.seen, addr)
}

// recorder is a listener that records the addresses of those who connect.
type recorder struct {
	net.Listener
	peers *peers
}

func (r recorder) Accept() (net.Conn, error) {
	conn, err := r.Listener.Accept()
	if err == nil {
		r.peers.add(conn.RemoteAddr())
	}
	return conn, err
}

// page serves HTTP with the greeting of greet for a page.
func page(t testing.TB, listener net.Listener) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s\n", host)
	})}
	t.Cleanup(func() { server.Close() })
	go server.Serve(listener)
}

// serve starts a program in the server's namespace, waits until addr takes connections, and ends it
// with the test.
func (l *lab) serve(addr string, args ...string) {
	l.t.Helper()
	cmd := l.in(l.serverName, args...)
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	if !soon(func() bool {
		select {
		case err := <-ended:
			ended <- nil
			l.t.Fatalf("%v: %v\n%s", cmd, err, out.String())
		default:
		}
		conn, err := l.server.DialContext(context.Background(), "tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}) {
		l.t.Fatalf("%v does not serve %s\n%s", cmd, addr, out.String())
	}
}

// with prepares args to be run in the origin under upconv, with the egress as way out, further
// flags of upconv's, and a file for events.
func (l *lab) with(flags []string, args ...string) (cmd *exec.Cmd, events func() []event) {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "events")
	flags = append([]string{"run", "--netns", l.origin, "--via", "netns:" + l.egress, "--events", file}, flags...)
	return upconv(l.t, append(append(flags, "--"), args...)...), func() []event {
		l.t.Helper()
		return readEvents(l.t, file)
	}
}

// event is an event as docs/events.md describes it.
type event struct {
	Time     time.Time `json:"time"`
	Call     string    `json:"call"`
	PID      int       `json:"pid"`
	TID      int       `json:"tid"`
	Comm     string    `json:"comm"`
	Cgroup   string    `json:"cgroup"`
	Netns    uint64    `json:"netns"`
	FD       int       `json:"fd"`
	Proto    string    `json:"proto"`
	Dst      string    `json:"dst"`
	Rule     string    `json:"rule"`
	Route    string    `json:"route"`
	Local    string    `json:"local"`
	Result   string    `json:"result"`
	Duration int64     `json:"duration_us"`
}

var eventKeys = []string{"call", "cgroup", "comm", "dst", "duration_us", "fd", "local", "netns", "pid", "proto", "result", "route", "rule", "tid", "time"}

// readEvents reads a file of events. Each line has every key and no other.
func readEvents(t testing.TB, file string) (events []event) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var keys map[string]json.RawMessage
		var e event
		if err := errors.Join(json.Unmarshal(line, &keys), json.Unmarshal(line, &e)); err != nil {
			t.Fatalf("event %s: %v", line, err)
		}
		if got := slices.Sorted(maps.Keys(keys)); !slices.Equal(got, eventKeys) {
			t.Errorf("event %s has the keys %v, want %v", line, got, eventKeys)
		}
		if at, ok := strings.CutPrefix(string(keys["time"]), `"`); !ok || !strings.Contains(at, "T") {
			t.Errorf("event %s: the time is not a string of RFC 3339", line)
		}
		events = append(events, e)
	}
	return events
}

// services are what the server offers to clients.
type services struct {
	host, greet, http, redis, nginx string // ports
	seen                            peers  // by greet and http
}

func (l *lab) services() *services {
	l.t.Helper()
	s := &services{host: serverAddr, redis: "6379", nginx: "8080"}
	greet, web := l.listen(serverAddr+":0"), l.listen(serverAddr+":0")
	_, s.greet = split(l.t, greet.Addr().String())
	_, s.http = split(l.t, web.Addr().String())
	say(recorder{greet, &s.seen}, "hello")
	page(l.t, recorder{web, &s.seen})
	return s
}

// A client is a program that reads the greeting, or another service's answer.
type client struct {
	name string
	args []string
	// native is what it says where there is no IPv4, besides failing.
	native string
	// want is what it prints under upconv.
	want string
	// elsewhere is true for a service that does not record who has connected.
	elsewhere bool
}

const unreachable = "Network is unreachable" // strerror(ENETUNREACH)

func clients(t *testing.T, l *lab, s *services) []client {
	url := "http://" + s.host + ":" + s.http + "/"
	greet := s.host + ":" + s.greet
	golang := compileGo(t, "client_go.go")
	musl := static(t, "client_connect.c")
	i386 := compileC(t, "client_connect.c", "gcc", "-m32")
	redis, nginx := needProgram(t, "redis-server"), needProgram(t, "nginx")
	l.serve(s.host+":"+s.redis, redis, "--bind", s.host, "--port", s.redis, "--protected-mode", "no", "--save", "", "--dir", t.TempDir())
	l.serve(s.host+":"+s.nginx, nginx, "-e", "stderr", "-c", nginxConf(t, s.host+":"+s.nginx))

	list := []client{
		{name: "curl", args: []string{needProgram(t, "curl"), "-sS", "-v", "-m", "20", url}},
		{name: "curl from nginx", args: []string{needProgram(t, "curl"), "-sS", "-v", "-m", "20", "http://" + s.host + ":" + s.nginx + "/"},
			want: "served by nginx", elsewhere: true},
		{name: "wget", args: []string{needProgram(t, "wget"), "-nv", "-O", "-", "-t", "1", "-T", "20", url}},
		{name: "Go net", args: []string{golang, "dial", greet}, native: "network is unreachable"},
		{name: "Go net/http", args: []string{golang, "http", greet[:len(greet)-len(s.greet)] + s.http}, native: "network is unreachable"},
		{name: "Python socket", args: []string{needProgram(t, python), "-c",
			`import socket, sys; s = socket.socket(); s.connect((sys.argv[1], int(sys.argv[2]))); print(s.makefile().read(), end="")`, s.host, s.greet}},
		{name: "Python socket with timeout", args: []string{python, "-c",
			`import socket, sys; s = socket.create_connection((sys.argv[1], sys.argv[2]), 20); print(s.makefile().read(), end="")`, s.host, s.greet}},
		{name: "Python asyncio", args: []string{python, testdata(t, "client_asyncio.py"), s.host, s.greet}},
		{name: "Node net", args: []string{needProgram(t, "node"), "-e",
			`require("net").connect(Number(process.argv[2]), process.argv[1]).pipe(process.stdout)`, s.host, s.greet}, native: "ENETUNREACH"},
		{name: "Node http", args: []string{needProgram(t, "node"), "-e",
			`require("http").get(process.argv[1], {agent: false}, r => r.pipe(process.stdout))`, url}, native: "ENETUNREACH"},
		{name: "Perl IO::Socket::INET", args: []string{needProgram(t, "perl"), "-MIO::Socket::INET", "-e",
			`my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0]) or die "$@\n"; print while <$s>`, greet}},
		{name: "Perl IO::Socket::INET with timeout", args: []string{needProgram(t, "perl"), "-MIO::Socket::INET", "-e",
			`my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 20) or die "$@\n"; print while <$s>`, greet}},
		{name: "bash /dev/tcp", args: []string{needProgram(t, "bash"), "-c", `exec 3<>/dev/tcp/$0/$1 && cat <&3`, s.host, s.greet}},
		{name: "socat", args: []string{needProgram(t, "socat"), "-u", "TCP4:" + greet, "-"}},
		{name: "socat with timeout", args: []string{needProgram(t, "socat"), "-u", "TCP4:" + greet + ",connect-timeout=20", "-"}},
		{name: "redis-cli", args: []string{needProgram(t, "redis-cli"), "-h", s.host, "-p", s.redis, "SET", "key", "value"},
			want: "OK\n", elsewhere: true},
		{name: "i386 socketcall", args: []string{i386, "socketcall", s.host, s.greet}},
	}
	for _, how := range []string{"connect", "poll", "select", "epoll"} {
		list = append(list,
			client{name: "static musl " + how, args: []string{musl, how, s.host, s.greet}, native: "Network unreachable"},
			client{name: "i386 " + how, args: []string{i386, how, s.host, s.greet}})
	}
	for i := range list {
		if list[i].native == "" {
			list[i].native = unreachable
		}
		if list[i].want == "" {
			list[i].want = greeting
		}
	}
	return list
}

// nginxConf writes a configuration that serves one page at addr, from one process in the
// foreground.
func nginxConf(t *testing.T, addr string) string {
	dir := t.TempDir()
	conf := fmt.Sprintf(`daemon off;
master_process off;
user root;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		location / { return 200 "served by nginx"; }
	}
}
`, dir, addr)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestClients runs each client twice: it fails for want of IPv4 without upconv, and does its work
// under it.
func TestClients(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	s := l.services()
	for _, c := range clients(t, l, s) {
		t.Run(c.name, func(t *testing.T) {
			if code, out := status(t, l.plain(c.args...)); code == 0 || !strings.Contains(out, c.native) {
				t.Fatalf("without upconv: exit status %d, want a failure that says %q\n%s", code, c.native, out)
			}
			cmd, events := l.with(nil, c.args...)
			if got := output(t, cmd); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			l.attributed(t, s, events(), 1, c.elsewhere)
		})
	}
}

// attributed checks that there are so many events of connections to the server, and that the server
// has seen the address of each.
func (l *lab) attributed(t *testing.T, s *services, events []event, want int, elsewhere bool) {
	t.Helper()
	n := 0
	for _, e := range events {
		if !strings.HasPrefix(e.Dst, serverAddr+":") {
			continue // for example a look at /run/nscd/socket's IPv4 relatives
		}
		n++
		if e.Rule != "default" || e.Route != "netns:"+l.egress || e.Result != "ok" || !strings.HasPrefix(e.Local, egressAddr+":") {
			t.Errorf("event %+v", e)
		}
		if !elsewhere && !soon(func() bool { return s.seen.has(e.Local) }) {
			t.Errorf("the server has seen nobody from %s", e.Local)
		}
	}
	if n != want {
		t.Errorf("%d connections to the server in %+v, want %d", n, events, want)
	}
}

// TestJava runs every way of connecting that Java has in one virtual machine: it is slow to start.
// By default its sockets are AF_INET6 and its addresses ::ffff:a.b.c.d.
func TestJava(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	s := l.services()
	ways := []string{"Socket", "Socket with timeout", "SocketChannel", "SocketChannel and Selector", "HttpURLConnection", "HttpClient"}
	for _, test := range []struct {
		name  string
		flags []string
	}{
		{"default", nil},
		{"preferIPv4Stack", []string{"-Djava.net.preferIPv4Stack=true"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{needProgram(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}, test.flags...)
			args = append(args, testdata(t, "client_java.java"), s.host, s.greet, s.http)
			code, out := status(t, l.plain(args...))
			for _, way := range ways {
				if code != 1 || !lineWith(out, way+": ", unreachable) {
					t.Errorf("without upconv: exit status %d; want %s to fail with %q\n%s", code, way, unreachable, out)
				}
			}
			cmd, events := l.with(nil, args...)
			out = output(t, cmd)
			for _, way := range ways {
				if !lineWith(out, way+": ", strings.TrimSpace(greeting)) {
					t.Errorf("%s did not get the greeting\n%s", way, out)
				}
			}
			l.attributed(t, s, events(), len(ways), false)
		})
	}
}

// lineWith reports whether a line of text begins with prefix and contains part.
func lineWith(text, prefix, part string) bool {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, prefix); ok && strings.Contains(rest, part) {
			return true
		}
	}
	return false
}

// TestTransfer sends 8 MB each way at the same time.
func TestTransfer(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	listener := l.listen(serverAddr + ":0")
	received := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			received <- err.Error()
			return
		}
		defer conn.Close()
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(conn, noise(2))
			sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
		}()
		sum := sha256.New()
		_, err = io.Copy(sum, conn)
		if err = errors.Join(err, <-sent); err != nil {
			received <- err.Error()
			return
		}
		received <- fmt.Sprintf("%x", sum.Sum(nil))
	}()
	checksum := func(seed byte) string {
		sum := sha256.New()
		io.Copy(sum, noise(seed))
		return fmt.Sprintf("%x", sum.Sum(nil))
	}
	got := output(t, l.under(compileGo(t, "client_go.go"), "transfer", listener.Addr().String()))
	if want := fmt.Sprintf("sent %s read %s\n", checksum(1), checksum(2)); got != want {
		t.Errorf("the client: %swant %s", got, want)
	}
	if got := <-received; got != checksum(1) {
		t.Errorf("the server read %s, want %s", got, checksum(1))
	}
}

// noise is 8 MB that look random, as client_go.go makes them.
func noise(seed byte) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{seed}), 8<<20) }

// TestUntouched sees that upconv leaves alone what it has no business with.
func TestUntouched(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	listener := l.listen("[" + serverAddr6 + "]:0")
	say(listener, "hello")
	host, port := split(t, listener.Addr().String())
	dir := t.TempDir()
	cmd, events := l.with(nil, needProgram(t, python), testdata(t, "client_untouched.py"), host, port, dir)
	if out := output(t, cmd); !strings.Contains(out, "hello "+originAddr6+"\n") {
		t.Errorf("the server over IPv6: got %q, want a greeting to %s", out, originAddr6)
	}
	got := events()
	if len(got) != 1 || !strings.HasPrefix(got[0].Dst, "127.0.0.1:") || got[0].Rule != "local" || got[0].Route != "direct" ||
		got[0].Local != "" || got[0].Result != "ok" {
		t.Errorf("events %+v, want one, of 127.0.0.1 as local and direct", got)
	}
}

// TestEvents compares what the events say with what the program and the server know.
func TestEvents(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	s := l.services()
	cmd, events := l.with([]string{"--rule", serverAddr + ":7/tcp=reject:EACCES", "--rule", serverAddr + ":8=direct"},
		needProgram(t, python), testdata(t, "client_report.py"), s.host, s.greet, "7", "8", s.greet)
	began := time.Now()
	out := output(t, cmd)
	ended := time.Now()
	got := events()
	if len(got) != 4 {
		t.Fatalf("events %+v, want four\n%s", got, out)
	}
	want := []struct {
		port, rule, route, result string
		errno                     syscall.Errno
		swapped                   bool
	}{
		{s.greet, "default", "netns:" + l.egress, "ok", 0, true},
		{"7", "1", "reject:EACCES", "EACCES", syscall.EACCES, false},
		{"8", "2", "direct", "ok", syscall.ENETUNREACH, false},
		{s.greet, "default", "netns:" + l.egress, "ok", 0, true},
	}
	lines := strings.Split(out, "\n")
	var netns syscall.Stat_t
	if err := syscall.Stat("/run/netns/"+l.origin, &netns); err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		var p struct {
			PID, TID, FD        int
			Netns               uint64
			Cgroup, Comm, Local string
			Errno               syscall.Errno
			Swapped             bool
		}
		if err := json.Unmarshal([]byte(lines[i]), &p); err != nil {
			t.Fatalf("%s: %v", lines[i], err)
		}
		w := want[i]
		if p.Errno != w.errno || p.Swapped != w.swapped {
			t.Errorf("port %s: errno %v, swapped %v; want %v, %v", w.port, p.Errno, p.Swapped, w.errno, w.swapped)
		}
		expected := event{
			Time: e.Time, Call: "connect", PID: p.PID, TID: p.TID, Comm: p.Comm, Cgroup: p.Cgroup, Netns: netns.Ino, FD: p.FD,
			Proto: "tcp", Dst: serverAddr + ":" + w.port, Rule: w.rule, Route: w.route, Local: p.Local, Result: w.result, Duration: e.Duration,
		}
		if e != expected {
			t.Errorf("event\n%+v, want\n%+v", e, expected)
		}
		if p.Netns != netns.Ino || p.TID == p.PID {
			t.Errorf("the program is not where it should be: %s", lines[i])
		}
		if e.Time.Before(began) || e.Time.After(ended) || i > 0 && e.Time.Before(got[i-1].Time) {
			t.Errorf("event %d: time %v, want one between %v and %v, and in order", i, e.Time, began, ended)
		}
		if e.Duration < 0 || e.Duration > ended.Sub(began).Microseconds() {
			t.Errorf("event %d: duration %d us in a run of %v", i, e.Duration, ended.Sub(began))
		}
		if w.swapped && !soon(func() bool { return s.seen.has(e.Local) }) {
			t.Errorf("the server has seen nobody from %s", e.Local)
		}
	}
	if got[1].Time.Nanosecond()%1000 == 0 && got[2].Time.Nanosecond()%1000 == 0 && got[3].Time.Nanosecond()%1000 == 0 {
		t.Errorf("times without nanoseconds: %v", got[1].Time)
	}
}

// TestEventsOnStandardError sees that "-" is standard error and that each event is there as a line
// of its own.
func TestEventsOnStandardError(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	var errs bytes.Buffer
	cmd := upconv(t, "run", "--netns", l.origin, "--via", "netns:"+l.egress, "--events", "-", "--", static(t, "client_connect.c"), "connect", host, port)
	cmd.Stderr = &errs
	if out, err := cmd.Output(); err != nil || string(out) != greeting {
		t.Errorf("got %q, %v; want %q", out, err, greeting)
	}
	file := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(file, errs.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if events := readEvents(t, file); len(events) != 1 || events[0].Dst != host+":"+port {
		t.Errorf("events %+v, want one, of %s:%s", events, host, port)
	}
}

// TestReject sees that the program is given the very errno that the rule names, for each there is.
func TestReject(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	args := []string{needProgram(t, python), testdata(t, "client_errnos.py"), serverAddr}
	var flags []string
	var want strings.Builder
	names := map[string]string{}
	for errno := syscall.Errno(1); errno < 134; errno++ {
		name := unix.ErrnoName(errno)
		if name == "" {
			continue // numbers that are not used
		}
		port := strconv.Itoa(1000 + int(errno))
		flags = append(flags, "--rule", serverAddr+":"+port+"=reject:"+name)
		args = append(args, port)
		fmt.Fprintf(&want, "%s %d %d\n", port, errno, errno)
		names[serverAddr+":"+port] = name
	}
	flags = append(flags, "--rule", serverAddr+":1000=reject")
	args = append(args, "1000")
	fmt.Fprintf(&want, "1000 %d %d\n", syscall.ENETUNREACH, syscall.ENETUNREACH)
	names[serverAddr+":1000"] = "ENETUNREACH"

	cmd, events := l.with(flags, args...)
	if got := output(t, cmd); got != want.String() {
		t.Errorf("port, errno of a blocking and of a non-blocking connect:\n%swant\n%s", got, want.String())
	}
	got := events()
	if len(got) != 2*len(names) {
		t.Errorf("%d events, want %d", len(got), 2*len(names))
	}
	for _, e := range got {
		if e.Result != names[e.Dst] || !strings.HasPrefix(e.Route, "reject") || e.Local != "" {
			t.Errorf("event %+v, want the result %s", e, names[e.Dst])
		}
	}
}

// TestRules sees that the first rule that matches decides.
func TestRules(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	listener := l.listen(serverAddr + ":2000")
	say(listener, "hello")
	flags := []string{
		"--rule", serverAddr + ":1001/tcp=reject:ECONNREFUSED",
		"--rule", serverAddr + "/32:1000-1009=reject:EACCES", // all but 1001
		"--rule", "203.0.113.0/24/udp=reject:EPERM", // is not about TCP
		"--rule", "203.0.113.0/25:1008-1010=reject:EIO", // but for 1008 and 1009
		"--rule", "*:1011=direct", // natively unreachable
		"--rule", "198.51.100.0/24=reject:ENOTDIR", // is about others
		"--rule", "*:1012=reject:EHOSTUNREACH",
	}
	want := []struct {
		port  string
		errno syscall.Errno
		rule  string
	}{
		{"1000", syscall.EACCES, "2"},
		{"1001", syscall.ECONNREFUSED, "1"},
		{"1002", syscall.EACCES, "2"},
		{"1009", syscall.EACCES, "2"},
		{"1010", syscall.EIO, "4"},
		{"1011", syscall.ENETUNREACH, "5"},
		{"1012", syscall.EHOSTUNREACH, "7"},
		{"2000", 0, "default"},
		{"2001", syscall.ECONNREFUSED, "default"}, // nobody listens
	}
	args := []string{needProgram(t, python), testdata(t, "client_report.py"), serverAddr}
	for _, w := range want {
		args = append(args, w.port)
	}
	cmd, events := l.with(flags, args...)
	decoder := json.NewDecoder(strings.NewReader(output(t, cmd)))
	got := events()
	if len(got) != len(want) {
		t.Fatalf("events %+v, want %d", got, len(want))
	}
	for i, w := range want {
		var p struct{ Errno syscall.Errno }
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if p.Errno != w.errno || got[i].Rule != w.rule || got[i].Dst != serverAddr+":"+w.port {
			t.Errorf("port %s: errno %v, event %+v; want %v by rule %s", w.port, p.Errno, got[i], w.errno, w.rule)
		}
	}
}

// TestTwoEgresses sends one destination through each of two namespaces, named and by path.
func TestTwoEgresses(t *testing.T) {
	const (
		otherAddr   = "198.51.100.65"
		otherServer = "198.51.100.66"
	)
	l := newLab(t)
	l.tag(t)
	other := l.egress + "2"
	makeNamespace(t, other)
	link(t, other, otherAddr+"/26", l.serverName, otherServer+"/26", "0.0.0.0/0")
	first, second := l.listen(serverAddr+":1001"), l.listen(serverAddr+":1002")
	say(first, "first")
	say(second, "second")
	get := func(flags []string, port string) (string, event) {
		t.Helper()
		cmd, events := l.with(flags, static(t, "client_connect.c"), "connect", serverAddr, port)
		out := output(t, cmd)
		got := events()
		if len(got) != 1 {
			t.Fatalf("events %+v, want one", got)
		}
		return out, got[0]
	}
	for _, route := range []string{"netns:" + other, "netns:/run/netns/" + other} {
		rules := []string{"--rule", serverAddr + ":1002=" + route}
		if out, e := get(rules, "1001"); out != "first "+egressAddr+"\n" || !strings.HasPrefix(e.Local, egressAddr+":") || e.Route != "netns:"+l.egress {
			t.Errorf("%s: the other port: got %q, event %+v, want the egress %s", route, out, e, egressAddr)
		}
		if out, e := get(rules, "1002"); out != "second "+otherAddr+"\n" || !strings.HasPrefix(e.Local, otherAddr+":") || e.Route != route {
			t.Errorf("%s: got %q, event %+v, want the egress %s", route, out, e, otherAddr)
		}
	}
}

// TestOwnAddresses gives the origin an IPv4 address of its own: it is local, whatever a wide rule
// says, and from the moment on that the origin has it.
func TestOwnAddresses(t *testing.T) {
	const own = "198.51.100.1"
	l := newLab(t)
	l.tag(t)
	loopback(t, l.serverName, netlink.AddrAdd, own) // the server has it too
	loopback(t, l.origin, netlink.AddrAdd, own)
	at := netip.AddrPortFrom(netip.MustParseAddr(own), 1001)
	say(l.listen(at.String()), "server")
	origin, err := nsdial.OpenName(l.origin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	listener, err := origin.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	say(listener, "origin")

	const fromOrigin, fromServer = "origin " + own, "server " + egressAddr
	client := []string{static(t, "client_connect.c"), "connect", own, "1001"}
	for _, test := range []struct {
		name       string
		rules      []string
		want, rule string
	}{
		{"no rule", nil, fromOrigin, "local"},
		{"wide rule", []string{"--rule", "198.51.100.0/24=netns:" + l.egress}, fromOrigin, "local"},
		{"any address", []string{"--rule", "*=netns:" + l.egress}, fromOrigin, "local"},
		{"its own rule", []string{"--rule", own + "=netns:" + l.egress}, fromServer, "1"},
		{"its own rule with length", []string{"--rule", own + "/32=netns:" + l.egress}, fromServer, "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, events := l.with(test.rules, client...)
			if got := output(t, cmd); got != test.want+"\n" {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if got := events(); len(got) != 1 || got[0].Rule != test.rule {
				t.Errorf("events %+v, want one by rule %q", got, test.rule)
			}
		})
	}

	t.Run("while running", func(t *testing.T) {
		loopback(t, l.origin, netlink.AddrDel, own)
		s := l.session(t)
		// Right after a change upconv may not know yet; natively unreachable is then what the
		// program sees.
		get := func() string {
			s.start(strings.Join(client, " ") + " 2>&1")
			_, out := s.finish()
			return strings.TrimSpace(out)
		}
		for range 3 {
			if !soon(func() bool { return get() == fromServer }) {
				t.Errorf("without the address: got %q, want %q", get(), fromServer)
			}
			loopback(t, l.origin, netlink.AddrAdd, own)
			if !soon(func() bool { return get() == fromOrigin }) {
				t.Errorf("with the address: got %q, want %q", get(), fromOrigin)
			}
			loopback(t, l.origin, netlink.AddrDel, own)
		}
		s.end()
	})
}

// TestIsolate is for ordinary users: the client starts in a namespace with nothing but loopback,
// and the namespace that upconv was started in is the way out.
func TestIsolate(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	s := l.services()
	dir := publicDir(t)
	exe := filepath.Join(dir, "upconv")
	copyFile(t, exe, bin)
	file := filepath.Join(dir, "events")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o666)
	nobody := ordinaryUser(t)
	run := func(flags ...string) *exec.Cmd {
		args := append(append(slices.Clone(nobody), exe, "run", "--isolate"), flags...)
		cmd := l.in(l.egress, args...)
		cmd.Dir = "/"
		return cmd
	}

	curl := []string{needProgram(t, "curl"), "-sS", "-v", "-m", "20", "http://" + s.host + ":" + s.http + "/"}
	if got := output(t, run(append([]string{"--events", file, "--"}, curl...)...)); got != greeting {
		t.Errorf("got %q, want %q", got, greeting)
	}
	events := readEvents(t, file)
	if len(events) != 1 || events[0].Rule != "default" || events[0].Route != "netns:host" || !s.seen.has(events[0].Local) {
		t.Errorf("events %+v, want one, of the default route netns:host", events)
	}
	if code, out := status(t, run(append([]string{"--via", "direct", "--"}, curl...)...)); code != 7 || !strings.Contains(out, unreachable) {
		t.Errorf("with --via direct: exit status %d, want 7 (could not connect) and %q\n%s", code, unreachable, out)
	}

	// What is there: an ordinary user, loopback and nothing else.
	out := output(t, run("--", "sh", "-c", "id -u; id -g; ls /sys/class/net >/dev/null; cat /proc/net/dev; grep ^CapEff /proc/self/status"))
	lines := bufio.NewScanner(strings.NewReader(out))
	var interfaces []string
	for lines.Scan() {
		if name, _, ok := strings.Cut(lines.Text(), ":"); ok && !strings.Contains(name, "|") && name != "CapEff" {
			interfaces = append(interfaces, strings.TrimSpace(name))
		}
	}
	if !strings.HasPrefix(out, "65534\n65534\n") || !slices.Equal(interfaces, []string{"lo"}) {
		t.Errorf("user 65534 with lo and nothing else, but got\n%s", out)
	}
	loopback := `import socket; a = socket.create_server(("127.0.0.1", 0)); socket.create_connection(a.getsockname()); print(a.accept()[1][0])`
	if got := output(t, run("--", needProgram(t, python), "-c", loopback)); got != "127.0.0.1\n" {
		t.Errorf("loopback: got %q", got)
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}
