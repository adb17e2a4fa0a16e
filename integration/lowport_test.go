package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lowPortClient binds a stream and a datagram socket to a port below 1024, and uses both. It says
// what bind(2) says, and whether the port is the same afterwards.
const lowPortClient = `
import errno, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    s = socket.socket(socket.AF_INET, kind); s.settimeout(10)
    try: s.bind(("0.0.0.0", port))
    except OSError as e: print(errno.errorcode[e.errno]); continue
    if kind == socket.SOCK_STREAM: s.connect((host, 7000)); s.sendall(b"hello")
    else: s.sendto(b"hello", (host, 7000))
    print(s.recv(9).decode(), "from the port" if s.getsockname()[1] == port else "from another port")
`

// TestLowPort has programs without CAP_NET_BIND_SERVICE bind to a low port, where
// net.ipv4.ip_unprivileged_port_start of the origin and of the egress are not the same: it is the
// origin's that counts.
func TestLowPort(t *testing.T) {
	const port = "601"
	set := func(w *caseWay, namespace, start string) {
		t.Helper()
		output(t, command(t, "ip", "netns", "exec", namespace, "sysctl", "-w", "net.ipv4.ip_unprivileged_port_start="+start))
	}
	client := func(t *testing.T) []string {
		return []string{needProgram(t, python), "-c", lowPortClient, serverAddr, port}
	}
	const permitted, other = "hello from the port\nhello from the port\n", "hello from another port\nhello from another port\n"
	for _, at := range []string{"connect", "socket"} {
		t.Run("swapped at "+at, func(t *testing.T) {
			needRoot(t)
			for _, c := range []struct{ name, origin, egress, want string }{
				{"permitted in the origin", "0", "1024", permitted},
				{"permitted in the egress", "1024", "0", "EACCES\nEACCES\n"},
			} {
				t.Run(c.name, func(t *testing.T) {
					w := newCaseWay(t, "netns", "no bpf")
					set(w, w.origin, c.origin)
					set(w, w.egress, c.egress)
					if got := output(t, w.upconv([]string{"--swap-at", at}, append(ordinaryUser(t), client(t)...)...)); got != c.want {
						t.Errorf("got\n%swant\n%s", got, c.want)
					}
				})
			}
			t.Run("upconv has no privilege either", func(t *testing.T) {
				w := newCaseWay(t, "netns", "no bpf")
				set(w, w.origin, "0")
				set(w, w.egress, "1024")
				unprivileged := []string{needProgram(t, "setpriv"), "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"}
				w.under = slices.Insert(w.under, slices.Index(w.under, bin), unprivileged...)
				file := filepath.Join(t.TempDir(), "events")
				if got := output(t, w.upconv([]string{"--swap-at", at, "--events", file}, client(t)...)); got != other {
					t.Errorf("got\n%swant\n%s", got, other)
				}
				if events, _ := os.ReadFile(file); strings.Count(string(events), "from another port: "+port+" takes a privilege in the egress") != 2 {
					t.Errorf("events do not say so:\n%s", events)
				}
			})
		})
	}
	t.Run("an ordinary user", func(t *testing.T) {
		needRoot(t)
		w := newCaseWay(t, "isolate", "user")
		set(w, w.egress, "0")
		if got, want := output(t, w.upconv(nil, client(t)...)), "EACCES\nEACCES\n"; got != want {
			t.Errorf("got %q, want %q, as natively in a new namespace", got, want)
		}
	})
}
