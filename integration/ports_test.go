package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/upconv/upconv/nsdial"
)

// away is the namespace that the sockets of a way are in once they are connected, and so the one
// whose ports count.
func (w *caseWay) away() string {
	if w.route == "nat64" {
		return w.origin
	}
	return w.egress
}

// TestPortZero has many sockets at a time that were bound to port 0 before they are connected. Of
// the thousand ports that the kernel may choose from, 400 are in TIME_WAIT already.
func TestPortZero(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		for _, namespace := range []string{w.origin, w.egress} {
			output(t, w.in(namespace, "sysctl", "-w", "net.ipv4.ip_local_port_range=40000 40999"))
		}
		probe := staticC(t, "ports_probe.c")
		for _, proto := range []string{"tcp", "udp"} {
			t.Run(proto, func(t *testing.T) {
				for range 2 {
					checkZero(t, w, probe, "zero", proto, "0.0.0.0", "400", serverAddr, acceptPort)
				}
			})
		}
	})
}

// checkZero runs the probe, which must not fail, and compares how many ports have changed with the
// events that say so.
func checkZero(t *testing.T, w *caseWay, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events")
	flags := []string{"--events", file}
	if w.user { // who cannot write there
		flags = nil
	}
	code, out := status(t, w.upconv(flags, args...))
	if code != 0 || !strings.Contains(out, "0 failed\n") {
		t.Errorf("status %d\n%s", code, out)
	}
	if w.user {
		return
	}
	events, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	told := strings.Count(string(events), "from another port: ")
	if want := fmt.Sprintf("%d have another port than they were told\n", told); !strings.HasPrefix(out, want) {
		t.Errorf("%d events tell of another port, but\n%s", told, out)
	}
}

// TestPortScan goes through port after port until bind(2) is content, and asks for ports that are
// in use with all kinds of options.
func TestPortScan(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		probe := staticC(t, "ports_probe.c")
		from := 20000
		next := func() string { from += 500; return fmt.Sprint(from) }
		for _, proto := range []string{"tcp", "udp"} {
			for _, how := range []string{"scan", "bind", "threads"} {
				if how == "threads" && proto == "udp" { // whose companions have the ports in the origin
					continue
				}
				t.Run(how+" "+proto, func(t *testing.T) {
					want := output(t, w.native(probe, how, proto, next(), serverAddr, acceptPort))
					if how == "bind" {
						want = replaceLines(want, w.otherBinds(proto))
					}
					if _, got := status(t, w.upconv(nil, probe, how, proto, next(), serverAddr, acceptPort)); got != want {
						t.Errorf("got\n%s\nwant, as natively,\n%s", got, want)
					}
				})
			}
		}
	})
}

// otherBinds are the lines of "ports_probe bind" that docs/fidelity.md says are others.
func (w *caseWay) otherBinds(proto string) []string {
	switch {
	case w.route == "nat64" && proto == "udp":
		return []string{"AF_INET6, IPv4-mapped: ok, again: EINVAL; after close: ok", "AF_INET6, only: EADDRINUSE; after close: ok"}
	case w.route == "nat64":
		return []string{"AF_INET6, only: EADDRINUSE; after close: ok"}
	case proto == "udp":
		return []string{"127.0.0.1: EADDRINUSE; after close: ok"}
	}
	return nil
}

// replaceLines replaces the lines of a text that begin as the others do, up to the colon.
func replaceLines(text string, others []string) string {
	for _, other := range others {
		name, _, _ := strings.Cut(other, ":")
		text = regexp.MustCompile(`(?m)^`+name+`:.*$`).ReplaceAllString(text, other)
	}
	return text
}

// TestPortRefused has a connect(2) fail and then another one succeed, with a port that was asked
// for and with one that was not.
func TestPortRefused(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		probe := staticC(t, "ports_probe.c")
		want := output(t, w.native(probe, "refused", "tcp", "20000", "7999", serverAddr, acceptPort))
		if _, got := status(t, w.upconv(nil, probe, "refused", "tcp", "20500", "7999", serverAddr, acceptPort)); got != want {
			t.Errorf("got\n%s\nwant, as natively,\n%s", got, want)
		}
	})
}

// TestPortStranger has a port be taken in the egress by somebody else, after the program has used
// it there. It can be had in the origin, and for connections it cannot be had, which upconv itself
// has no complaint about.
func TestPortStranger(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		probe := staticC(t, "ports_probe.c")
		network, addr := "tcp4", "127.0.0.1:20000"
		if w.route == "nat64" {
			network, addr = "tcp6", "[::1]:20000"
		}
		for _, kind := range []string{"server", "client"} {
			t.Run(kind, func(t *testing.T) {
				cmd := w.upconv(nil, probe, "stranger", "tcp", "20000", serverAddr, acceptPort)
				stdin, out := start(t, cmd)
				waitFor(t, out, "ready")
				w.takePort(t, kind, network, addr)
				stdin.Close()
				rest, _ := io.ReadAll(out)
				if want := "bind: ok\nconnect: EADDRINUSE\nbind: ok\nlisten: ok\n"; strings.TrimPrefix(string(rest), "\n") != want {
					t.Errorf("got %q, want %q", rest, want)
				}
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// start starts a command, and returns its standard input and output. What it writes to the standard
// error fails the test.
func start(t *testing.T, cmd *exec.Cmd) (io.WriteCloser, io.Reader) {
	t.Helper()
	var errs buffer
	cmd.Stderr = &errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
		if text := errs.String(); text != "" {
			t.Errorf("on its standard error: %s", text)
		}
	})
	return stdin, out
}

// takePort has a server or a client have an address where the sockets of the way are, until the end
// of the test.
func (w *caseWay) takePort(t *testing.T, kind, network, addr string) {
	t.Helper()
	ns, err := nsdial.OpenName(w.away())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	local, err := net.ResolveTCPAddr(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	if kind == "client" {
		local.Port = 0
	}
	listener, err := ns.Listen(context.Background(), network, local.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if kind == "server" {
		return
	}
	hold(listener)
	onThread(t, func() error {
		if err := ns.Enter(); err != nil {
			return err
		}
		local, err := net.ResolveTCPAddr(network, addr)
		if err != nil {
			return err
		}
		conn, err := (&net.Dialer{LocalAddr: local}).Dial(network, listener.Addr().String())
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
}

// TestPortCycles uses the same ports again and again, each as soon as it is free. That leaves
// nothing behind.
func TestPortCycles(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		cmd := w.upconv(nil, staticC(t, "ports_probe.c"), "cycles", "tcp", "20000", "3000", serverAddr, acceptPort)
		stdin, out := start(t, cmd)
		var resident [2]float64
		var descriptors [2]int
		for i := range resident {
			if i > 0 {
				fmt.Fprintln(stdin)
			}
			waitFor(t, out, "done")
			supervisor := supervisorOf(t, cmd.Process.Pid)
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", supervisor))
			if err != nil {
				t.Fatal(err)
			}
			resident[i], descriptors[i] = residentMB(t, supervisor), len(entries)
		}
		if descriptors[1] > descriptors[0]+2 || resident[1] > resident[0]+2 {
			t.Errorf("descriptors %d, resident memory %.1f MB", descriptors, resident)
		}
	})
}

// TestPortPrograms runs programs that bind before they connect.
func TestPortPrograms(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		web := w.listen(serverAddr + ":0")
		page(t, web)
		url := "http://" + web.Addr().String() + "/"
		goClient := filepath.Join(scratch, "ports_go") // where every user can go
		if err := os.Rename(compileGo(t, "ports_go.go"), goClient); err != nil {
			t.Fatal(err)
		}
		repeat := func(times int, args ...string) []string {
			return append([]string{"sh", "-c", fmt.Sprintf(`for i in $(seq %d); do "$@" || exit; done`, times), "sh"}, args...)
		}
		for _, test := range []struct {
			name  string
			times int
			args  []string
		}{
			{"wget --bind-address", 20, []string{needProgram(t, "wget"), "-q", "-O", "-", "--tries=1", "--bind-address=0.0.0.0", url}},
			{"curl --local-port", 20, []string{needProgram(t, "curl"), "-sS", "--local-port", "21000-21099", url}},
		} {
			t.Run(test.name, func(t *testing.T) {
				code, out := status(t, w.upconv(nil, repeat(test.times, test.args...)...))
				if got := strings.Count(out, "hello "); code != 0 || got != test.times {
					t.Errorf("status %d, %d answers of %d\n%s", code, got, test.times, out)
				}
			})
		}
		t.Run("Go with LocalAddr", func(t *testing.T) {
			if got := output(t, w.upconv(nil, goClient, net.JoinHostPort(serverAddr, acceptPort))); got != "200\n" {
				t.Errorf("got %q", got)
			}
		})
		if !w.user { // bindresvport(3) is for root
			t.Run("rpcinfo", func(t *testing.T) {
				needRealRoot(t, "rpcbind(8) becomes another user")
				w.serveRPC(t)
				code, out := status(t, w.upconv(nil, repeat(5, needProgram(t, "rpcinfo"), "-T", "tcp", serverAddr, "portmapper")...))
				if got := strings.Count(out, "version 2 ready and waiting"); code != 0 || got != 5 {
					t.Errorf("status %d\n%s", code, out)
				}
			})
		}
	})
}

// serveRPC starts rpcbind(8) at the server, with a directory of its own for its sockets.
func (w *caseWay) serveRPC(t *testing.T) {
	t.Helper()
	w.serve(net.JoinHostPort(serverAddr, "111"), needProgram(t, "unshare"), "-m", "sh", "-c", "mount -t tmpfs none /run && exec rpcbind -f")
}
