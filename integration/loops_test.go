package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
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

// TestNginxProxy has nginx, which registers a socket before it connects it, be the way from IPv6 to an IPv4
// upstream: one request after the other, many at once, and with connections that are kept.
func TestNginxProxy(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	web := l.listen(serverAddr + ":0")
	page(t, web)
	nginx := needProgram(t, "nginx")
	for _, keep := range []string{"", "keepalive 4;"} {
		t.Run("upstream "+keep, func(t *testing.T) {
			dir := t.TempDir()
			conf := fmt.Sprintf(`daemon off;
worker_processes 2;
pid %[1]s/pid;
error_log stderr;
user root;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	upstream legacy { server %[2]s; %[3]s }
	server {
		listen [%[4]s]:8080;
		location / {
			proxy_pass http://legacy;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_connect_timeout 5s;
			proxy_read_timeout 5s;
		}
	}
}
`, dir, web.Addr(), keep, originAddr6)
			file := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := l.under(nginx, "-e", "stderr", "-c", file)
			var errs buffer
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				cmd.Process.Signal(os.Interrupt) // nginx stops at once
				cmd.Wait()
			}()
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
					return l.server.DialContext(ctx, "tcp", addr)
				},
				DisableKeepAlives: true,
			}}
			get := func() string {
				resp, err := client.Get("http://[" + originAddr6 + "]:8080/")
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
			want := "200 OK " + greeting
			if !soon(func() bool {
				conn, err := l.server.DialContext(context.Background(), "tcp", "["+originAddr6+"]:8080")
				if err == nil {
					conn.Close()
				}
				return err == nil
			}) {
				t.Fatalf("nginx does not listen\n%s", errs.String())
			}
			for range 10 {
				if got := get(); got != want {
					t.Fatalf("got %q, want %q\n%s", got, want, errs.String())
				}
			}
			var running sync.WaitGroup
			for range 8 {
				running.Go(func() {
					for range 10 {
						if got := get(); got != want {
							t.Errorf("got %q, want %q\n%s", got, want, errs.String())
							return
						}
					}
				})
			}
			running.Wait()
		})
	}
}
