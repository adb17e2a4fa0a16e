package integration

import (
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A case is a small program that does what a real one did when it went wrong. It takes the address
// of a server, which has an echo at port echoPort (TCP and UDP) and something that accepts at port
// acceptPort.
const (
	echoPort   = "7000"
	acceptPort = "7080"
)

// A caseWay is one way to run a case: a route, a user, and whether upconv can look at sockets with
// BPF. Its lab is its own, with the servers running; it is the origin's and the egress's names and
// addresses that a case may need besides.
type caseWay struct {
	*lab
	route string // "netns", "nat64" or "isolate"
	user  bool   // an ordinary user runs upconv and the case, with user ID 65534; otherwise root
	bpf   bool   // upconv has CAP_BPF, CAP_PERFMON and BTF; an ordinary user never has
	// under is the command line that starts upconv, up to "run" and the flags of the route.
	under []string
}

// forEachWay runs a test once in every way, each a subtest with a lab of its own:
//
//	netns/bpf     netns/no bpf     root, from a namespace with IPv6 only to one with IPv4
//	nat64/bpf     nat64/no bpf     root, through tayga
//	nat64/user                     an ordinary user, who has no BPF
//	isolate/bpf                    root
//	isolate/user                   an ordinary user; the egress is where upconv was started
//
// A case looks like this:
//
//	forEachWay(t, func(t *testing.T, w *caseWay) {
//		got := output(t, w.upconv(nil, staticC(t, "case_bindzero.c"), serverAddr, "100"))
//		...
//	})
//
// Whatever is started by w.upconv and w.native is over when the subtest is, or fails it. Labs go
// away with it.
func forEachWay(t *testing.T, test func(t *testing.T, w *caseWay)) {
	t.Helper()
	needRoot(t)
	for _, name := range []string{"netns/bpf", "netns/no bpf", "nat64/bpf", "nat64/no bpf", "nat64/user", "isolate/bpf", "isolate/user"} {
		t.Run(name, func(t *testing.T) {
			route, kind, _ := strings.Cut(name, "/")
			test(t, newCaseWay(t, route, kind))
		})
	}
}

// newCaseWay makes the lab and the servers of a way. kind is "bpf", "no bpf" or "user".
func newCaseWay(t *testing.T, route, kind string) *caseWay {
	t.Helper()
	w := &caseWay{route: route, user: kind == "user", bpf: kind == "bpf"}
	var flags []string
	switch route {
	case "netns":
		w.lab = newLab(t)
		flags = []string{"--netns", w.origin, "--via", "netns:" + w.egress}
	case "nat64":
		w.lab = newNAT64(t).lab
		w.under = enter(w.origin)
		flags = []string{"--via", "nat64:" + nat64Prefix}
	case "isolate":
		w.lab = newLab(t)
		w.under = enter(w.egress)
		flags = []string{"--isolate"}
	}
	w.tag(t)
	switch {
	case w.user:
		w.under = append(w.under, ordinaryUser(t)...)
	case !w.bpf:
		w.under = append(w.under, hideBTF(t)...)
	}
	w.under = append(append(w.under, bin, "run"), flags...)
	w.checkBPF(t)
	w.serveCases(t)
	return w
}

// enter is a command line that starts another one in a network namespace.
func enter(namespace string) []string { return []string{"ip", "netns", "exec", namespace} }

// ordinaryUser is a command line that starts another one as a user without any rights.
func ordinaryUser(t testing.TB) []string {
	t.Helper()
	needUsers(t)
	return []string{needProgram(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "env", "HOME=/nonexistent"}
}

// hideBTF is a command line that starts another one without the kernel's types, which upconv's BPF
// program needs. Capabilities would not do: root without CAP_SYS_ADMIN cannot enter namespaces, and
// with it may use BPF.
func hideBTF(t testing.TB) []string {
	t.Helper()
	return []string{needProgram(t, "unshare"), "-m", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$@"`, "sh"}
}

// checkBPF fails the test unless upconv finds BPF to be there, or not, as the way says.
func (w *caseWay) checkBPF(t testing.TB) {
	t.Helper()
	if w.bpf {
		needBPF(t)
	}
	at := slices.Index(w.under, bin)
	out, err := w.place(command(t, w.under[0], append(slices.Clone(w.under[1:at+1]), "doctor")...)).Output()
	if strings.Contains(string(out), "looks at sockets in the kernel") != w.bpf {
		t.Fatalf("BPF should be usable: %v, but doctor (%v) says\n%s", w.bpf, err, out)
	}
}

// serveCases starts the servers of the cases.
func (w *caseWay) serveCases(t testing.TB) {
	t.Helper()
	each(w.listen(net.JoinHostPort(serverAddr, echoPort)), func(conn net.Conn) { io.Copy(conn, conn) })
	each(w.listen(net.JoinHostPort(serverAddr, acceptPort)), func(conn net.Conn) { io.Copy(io.Discard, conn) })
	packets := w.packets(w.server, net.JoinHostPort(serverAddr, echoPort))
	go func() {
		data := make([]byte, 1<<16)
		for {
			n, from, err := packets.ReadFromUDPAddrPort(data)
			if err != nil {
				return
			}
			packets.WriteToUDPAddrPort(data[:n], from)
		}
	}()
}

// upconv prepares a program to be run under upconv, with further flags, rules first.
func (w *caseWay) upconv(flags []string, args ...string) *exec.Cmd {
	line := append(append(slices.Clone(w.under), flags...), "--")
	return w.place(command(w.t, line[0], append(line[1:], args...)...))
}

// native prepares a program to be run by the same user in the egress, which has IPv4, without
// upconv.
func (w *caseWay) native(args ...string) *exec.Cmd {
	line := enter(w.egress)
	if w.user {
		line = append(line, ordinaryUser(w.t)...)
	}
	return w.place(command(w.t, line[0], append(line[1:], args...)...))
}

// place has an ordinary user's command run in a directory that every user may enter.
func (w *caseWay) place(cmd *exec.Cmd) *exec.Cmd {
	if w.user {
		cmd.Dir = "/"
	}
	return cmd
}

// TestCaseWays shows that every way is what it says: natively and under upconv the program reaches
// both servers, as the right user, and without upconv the origin reaches neither.
func TestCaseWays(t *testing.T) {
	const script = `import os, socket, sys
host = sys.argv[1]
s = socket.create_connection((host, 7000), 10); s.sendall(b'stream'); print(s.recv(100).decode())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(10); u.sendto(b'datagram', (host, 7000)); print(u.recv(100).decode())
socket.create_connection((host, 7080), 10); print(os.getuid())
`
	forEachWay(t, func(t *testing.T, w *caseWay) {
		client := []string{needProgram(t, python), "-c", script, serverAddr}
		want := "stream\ndatagram\n0\n"
		if w.user {
			want = "stream\ndatagram\n65534\n"
		}
		for name, cmd := range map[string]*exec.Cmd{"native": w.native(client...), "upconv": w.upconv(nil, client...)} {
			if got := output(t, cmd); got != want {
				t.Errorf("%s: it says %q, want %q", name, got, want)
			}
		}
		without := w.plain(client...)
		if w.route == "isolate" {
			without = w.upconv([]string{"--via", "direct"}, client...)
		}
		if code, out := status(t, without); code == 0 || !strings.Contains(out, unreachable) {
			t.Errorf("without a route to IPv4: status %d, want it to fail with %q\n%s", code, unreachable, out)
		}
	})
}
