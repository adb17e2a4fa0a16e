package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestEventLoops runs event loops that have a socket registered with epoll before it is connected.
func TestEventLoops(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	addr := l.greet()
	host, port := split(t, addr)
	libevent := compileLibevent(t)
	want := strings.Repeat(greeting, 20)
	for _, c := range []struct {
		name string
		want string
		args []string
	}{
		{"libevent, registered before", want, []string{libevent, "before", host, port}},
		{"libevent, registered before, changelist", want, []string{"env", "EVENT_EPOLL_USE_CHANGELIST=1", libevent, "before", host, port}},
		{"libevent, own order", want, []string{libevent, "own", host, port}},
		{"Python selectors and asyncio", want + greeting, []string{needProgram(t, python), testdata(t, "client_selectors.py"), host, port}},
		{"Java Selector", want, []string{needProgram(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", testdata(t, "client_selector.java"), host, port}},
		{"Java Selector, preferIPv4Stack", want, []string{needProgram(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true",
			testdata(t, "client_selector.java"), host, port}},
		{"Go poller", want, []string{compileGo(t, "client_poller.go"), addr}},
		{"Node", want, []string{needProgram(t, "node"), "-e", `for (let i = 0; i < 20; i++) {
			let s = require("net").connect(Number(process.argv[2]), process.argv[1]), text = "";
			s.on("data", d => text += d).on("end", () => process.stdout.write(text));
		}`, host, port}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if native := output(t, l.in(l.egress, c.args...)); native != c.want {
				t.Fatalf("natively it said %q: this test cannot tell anything", native)
			}
			if code, got := status(t, l.under(c.args...)); code != 0 || got != c.want {
				t.Errorf("exit status %d, got\n%swant\n%s", code, got, c.want)
			}
		})
	}
}

func compileLibevent(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/include/event2/event.h"); err != nil {
		skip(t, "needs libevent's headers")
	}
	source, err := os.ReadFile(testdata(t, "client_libevent.c"))
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(scratch, "client_libevent")
	gcc := command(t, needProgram(t, "gcc"), "-O1", "-Wall", "-x", "c", "-o", exe, "-", "-levent")
	gcc.Stdin = bytes.NewReader(source)
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("client_libevent.c: %v\n%s", err, out)
	}
	return exe
}

// nginxProxy is nginx under upconv, the way from IPv6 to an IPv4 upstream. It registers a socket
// before it connects it.
type nginxProxy struct {
	l    *lab
	addr string
	errs buffer
}

// startNginxProxy starts nginx by a command line, which is to lead to it. settings are of its
// upstream.
func startNginxProxy(t *testing.T, l *lab, upstream, settings string, start func(args ...string) *exec.Cmd) *nginxProxy {
	t.Helper()
	p := &nginxProxy{l: l, addr: "[" + originAddr6 + "]:8080"}
	dir := t.TempDir()
	conf := fmt.Sprintf(`daemon off;
worker_processes 1;
worker_rlimit_nofile 16000;
pid %[1]s/pid;
error_log stderr;
user root;
events { worker_connections 15000; }
http {
	access_log off;
	client_header_timeout 300s;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	upstream legacy { server %[2]s; %[3]s }
	server {
		listen %[4]s backlog=4000;
		location / {
			proxy_pass http://legacy;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_connect_timeout 5s;
			proxy_read_timeout 5s;
		}
	}
}
`, dir, upstream, settings, p.addr)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := start(needProgram(t, "nginx"), "-e", "stderr", "-c", file)
	cmd.Stderr = &p.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // nginx stops at once
		cmd.Wait()
	})
	if !soon(func() bool {
		conn, err := p.dial()
		if err == nil {
			conn.Close()
		}
		return err == nil
	}) {
		t.Fatalf("nginx does not listen\n%s", p.errs.String())
	}
	return p
}

func (p *nginxProxy) dial() (net.Conn, error) {
	return p.l.server.DialContext(context.Background(), "tcp", p.addr)
}

// get returns the status and the body of a page.
func (p *nginxProxy) get() string {
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return p.dial() },
		DisableKeepAlives: true,
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: transport}).Get("http://" + p.addr + "/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return resp.Status + " " + string(body)
}

// want gets the page so often, and fails the test if it is not what the upstream has.
func (p *nginxProxy) want(t *testing.T, times int) {
	t.Helper()
	const page = "200 OK " + greeting
	for i := range times {
		if got := p.get(); got != page {
			t.Fatalf("request %d: got %q, want %q\n%s", i, got, page, p.errs.String())
		}
	}
}

// TestNginxProxy has nginx answer one request after the other, many at once, and with connections
// that are kept.
func TestNginxProxy(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	web := l.listen(serverAddr + ":0")
	page(t, web)
	for _, keep := range []string{"", "keepalive 4;"} {
		t.Run("upstream "+keep, func(t *testing.T) {
			p := startNginxProxy(t, l, web.Addr().String(), keep, l.under)
			p.want(t, 10)
			var running sync.WaitGroup
			for range 8 {
				running.Go(func() {
					for range 10 {
						if got, want := p.get(), "200 OK "+greeting; got != want {
							t.Errorf("got %q, want %q\n%s", got, want, p.errs.String())
							return
						}
					}
				})
			}
			running.Wait()
		})
	}
}

// TestNginxIdleClients has nginx proxy while clients are connected that say nothing: first so many
// that its sockets have the numbers that upconv uses itself, then thousands, which are all in its
// epoll set.
func TestNginxIdleClients(t *testing.T) {
	needRoot(t)
	for _, kind := range []string{"bpf", "no bpf"} {
		t.Run(kind, func(t *testing.T) { nginxIdleClients(t, newCaseWay(t, "netns", kind)) })
	}
}

func nginxIdleClients(t *testing.T, w *caseWay) {
	web := w.listen(serverAddr + ":0")
	page(t, web)
	p := startNginxProxy(t, w.lab, web.Addr().String(), "", func(args ...string) *exec.Cmd { return w.upconv(nil, args...) })
	idle := 0
	connect := func(clients int) {
		t.Helper()
		for ; idle < clients; idle++ {
			conn, err := p.dial()
			if err != nil {
				t.Fatalf("client %d: %v\n%s", idle, err, p.errs.String())
			}
			t.Cleanup(func() { conn.Close() })
		}
	}
	for clients := 230; clients < 330; clients++ {
		connect(clients)
		p.want(t, 1)
	}
	connect(5000)
	p.want(t, 100)
}
