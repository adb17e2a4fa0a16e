package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tunnelAddr is what a namespace gains when a VPN client's tunnel is up.
const tunnelAddr = "10.97.0.2"

// TestStickySource has a program answer from the address that it was reached at, before its
// namespace gains an address, while it has that, and when it has lost it again.
func TestStickySource(t *testing.T) {
	probe := staticC(t, "pktinfo_probe.c")
	forEachWay(t, func(t *testing.T, w *caseWay) {
		args := []string{probe, serverAddr, echoPort}
		want := stickySource(t, w.native(args...))
		if w.route == "nat64" {
			args = append(args, tunnelAddr, "192.0.0.2")
		}
		sameOutput(t, want, stickySource(t, w.upconv(nil, args...)))
	})
}

// stickySource runs pktinfo_probe, changes its namespace when it says so, and returns what it says
// of its sends.
func stickySource(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	pid := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		change := ""
		switch line := lines.Text(); {
		case pid == "":
			pid = line
		case line == "the namespace gains an address":
			change = "add"
		case line == "it loses the address":
			change = "del"
		default:
			fmt.Fprintln(&said, line)
		}
		if change != "" {
			output(t, command(t, "nsenter", "-t", pid, "-n", "ip", "addr", change, tunnelAddr+"/32", "dev", "lo"))
			fmt.Fprintln(in)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s%s", err, said.String(), errs.String())
	}
	return said.String()
}

// TestWireGuard joins two real WireGuard peers, one of them under upconv, and pings through the
// tunnel once that has given the namespace its address.
func TestWireGuard(t *testing.T) {
	needProgram(t, "wireguard-go")
	for _, route := range []string{"netns", "nat64"} {
		t.Run(route, func(t *testing.T) {
			w := newCaseWay(t, route, "bpf")
			served, client := newWireGuard(t, "ucs"), newWireGuard(t, "ucc")
			served.start(w.in(w.serverName, "wireguard-go", "-f", served.device), w.in(w.serverName))
			client.start(w.upconv(nil, "wireguard-go", "-f", client.device), w.in(w.origin))
			const port = "51820"
			served.set("listen-port", port, "peer", client.public, "allowed-ips", tunnelAddr+"/32")
			served.ip("10.97.0.1/24")
			client.set("peer", served.public, "endpoint", serverAddr+":"+port, "allowed-ips", "10.97.0.0/24", "persistent-keepalive", "1")
			output(t, w.in(w.origin, "ip", "link", "set", client.device, "up"))
			if !soon(func() bool {
				fields := strings.Fields(output(t, client.there("wg", "show", client.device, "latest-handshakes")))
				return len(fields) == 2 && fields[1] != "0"
			}) {
				t.Fatal("there was no handshake")
			}
			client.ip(tunnelAddr + "/24")
			output(t, w.in(w.origin, "ping", "-c", "3", "-i", "0.2", "-W", "5", "10.97.0.1"))
		})
	}
}

// wireGuard is one peer: a process with a device in a namespace.
type wireGuard struct {
	t                   *testing.T
	device, key, public string
	namespace           []string // a command line that enters it
}

func newWireGuard(t *testing.T, prefix string) *wireGuard {
	t.Helper()
	// wireguard-go's sockets are named after the devices, for all namespaces.
	g := &wireGuard{t: t, device: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), labs.Add(1)), key: filepath.Join(t.TempDir(), "key")}
	private := output(t, command(t, needProgram(t, "wg"), "genkey"))
	if err := os.WriteFile(g.key, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	public := command(t, "wg", "pubkey")
	public.Stdin = strings.NewReader(private)
	g.public = strings.TrimSpace(output(t, public))
	return g
}

// start starts the process by a command line, and waits for its device. enter is an empty command
// line in the device's namespace.
func (g *wireGuard) start(cmd, enter *exec.Cmd) {
	g.t.Helper()
	g.namespace = enter.Args
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // so that it removes its device and its socket
		timer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if g.t.Failed() {
			g.t.Logf("%v:\n%s", cmd, out.String())
		}
	})
	if !soon(func() bool { return g.there("wg", "show", g.device).Run() == nil }) {
		g.t.Fatalf("there is no device %s", g.device)
	}
	g.set("private-key", g.key)
}

// there prepares a command in the device's namespace.
func (g *wireGuard) there(args ...string) *exec.Cmd {
	return command(g.t, g.namespace[0], append(g.namespace[1:len(g.namespace):len(g.namespace)], args...)...)
}

func (g *wireGuard) set(args ...string) {
	g.t.Helper()
	output(g.t, g.there(append([]string{"wg", "set", g.device}, args...)...))
}

// ip gives the device an address, and brings it up.
func (g *wireGuard) ip(prefix string) {
	g.t.Helper()
	output(g.t, g.there("ip", "addr", "add", prefix, "dev", g.device))
	output(g.t, g.there("ip", "link", "set", g.device, "up"))
}
