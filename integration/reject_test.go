package integration

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
)

// refusing has upconv refuse one port of the server, in a namespace where natively it could be
// reached. arrived counts the connections that have been made to it.
func (o *outskirts) refusing(t testing.TB) (flags []string, host, port string, arrived *atomic.Int32) {
	t.Helper()
	listener := o.listen(serverAddr + ":0")
	arrived = new(atomic.Int32)
	each(listener, func(net.Conn) { arrived.Add(1) })
	host, port = split(t, listener.Addr().String())
	output(t, o.in(o.egress, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_fastopen"))
	return []string{"run", "--netns", o.egress, "--rule", host + ":" + port + "=reject", "--"}, host, port, arrived
}

// crossing has upconv see to sockets of other families as well, and look at sockets in the kernel.
var crossing = []string{"run", "--rule", "198.51.100.99=unix:/nonexistent"}

// TestRejectSays compares what a destination says that is refused with what one says that there is
// no route to: what is wrong with the descriptor or the socket comes first.
func TestRejectSays(t *testing.T) {
	o := newOutskirts(t)
	o.tag(t)
	flags, host, port, arrived := o.refusing(t)
	probe := compileC(t, "reject_probe.c", "gcc", "-static", "-pthread")
	for _, what := range []string{"states", "states, looked at", "waits"} {
		t.Run(what, func(t *testing.T) {
			flags := flags
			what, looks := strings.CutSuffix(what, ", looked at")
			if looks {
				flags = slices.Concat(crossing, flags[1:])
			}
			arguments := func(host, port string) (args []string, arrive func()) {
				late := fmt.Sprintf("203.0.113.%d", 100+o.late.Add(1))
				return []string{probe, what, host, port, serverAddr, o.port, o.closed, dropped, late},
					func() { loopback(t, o.serverName, netlink.AddrAdd, late) }
			}
			args, arrive := arguments(noRoute, "80")
			native := o.run(t, o.in(o.egress, args...), arrive)
			args, arrive = arguments(host, port)
			under := o.run(t, upconv(t, append(flags, args...)...), arrive)
			if !strings.HasSuffix(native, "end\n") || !strings.Contains(native, "ENETUNREACH") && what == "states" {
				t.Fatalf("natively it did not come to an end\n%s", native)
			}
			if native != under {
				a, b := strings.Split(native, "\n"), strings.Split(under, "\n")
				for i := range max(len(a), len(b)) {
					if i >= len(a) || i >= len(b) || a[i] != b[i] {
						t.Errorf("differ from line %d on\nnative:\n%s\nupconv:\n%s", i+1, native, under)
						break
					}
				}
			}
		})
	}
	if n := arrived.Load(); n != 0 {
		t.Errorf("%d connections arrived where none may", n)
	}
}

// TestRejectHolds has one thread put sockets under a number that others connect to a destination
// that is refused. None may arrive there, whatever upconv found under the number.
func TestRejectHolds(t *testing.T) {
	o := newOutskirts(t)
	o.tag(t)
	flags, host, port, arrived := o.refusing(t)
	probe := compileC(t, "reject_probe.c", "gcc", "-static", "-pthread")
	for what, want := range map[string]string{
		"connected": "EISCONN", "connected, non-blocking": "EISCONN", "connecting": "", "connecting, non-blocking": "EALREADY", "listening": "EISCONN",
		"other family": "EINVAL", "unix": "EINVAL", "UDP": "", "file": "ENOTSOCK", "nothing": "EBADF", "IPV6_V6ONLY": "",
		"disconnected": "EISCONN", "disconnected, non-blocking": "",
	} {
		for _, how := range []string{"connect", "connect, looked at", "mapped", "sendto"} {
			if how == "mapped" && (what == "connecting" || what == "connecting, non-blocking" || what == "UDP" || strings.HasPrefix(what, "connected")) ||
				how == "sendto" && (what == "other family" || what == "unix" || what == "UDP" || what == "nothing") {
				continue
			}
			t.Run(what+"/"+how, func(t *testing.T) {
				flags := flags
				if strings.HasSuffix(how, "looked at") {
					flags = slices.Concat(crossing, flags[1:])
				}
				args := append(flags, probe, what, host, port, serverAddr, o.port, o.closed, dropped, "200", how)
				_, out := status(t, upconv(t, args...))
				numbers := numbersOf(t, out)
				t.Logf("%v", numbers)
				if n := arrived.Swap(0); n != 0 {
					t.Errorf("%d connections arrived where none may, in %d calls", n, numbers["calls"])
				}
				if what == "UDP" && numbers["success"] != 0 {
					t.Errorf("%d datagram sockets were connected: the rule is about those too", numbers["success"])
				}
				if how == "connect" && want != "" && numbers[want] == 0 {
					t.Errorf("nobody met %s: this test cannot tell anything", want)
				}
				if numbers["ENETUNREACH"] == 0 {
					t.Errorf("nothing was refused: this test cannot tell anything")
				}
			})
		}
	}
}

// TestRejectHoldsForTCP is TestRejectHolds for a destination that is refused to TCP alone: what
// goes for datagram sockets must not go for the TCP socket that is put under the number.
func TestRejectHoldsForTCP(t *testing.T) {
	o := newOutskirts(t)
	o.tag(t)
	_, host, port, arrived := o.refusing(t)
	probe := compileC(t, "reject_probe.c", "gcc", "-static", "-pthread")
	for what, want := range map[string]string{"UDP": "success", "unix datagrams": "EINVAL"} {
		for _, how := range []string{"connect", "connect, looked at"} {
			t.Run(what+"/"+how, func(t *testing.T) {
				rules := []string{"--rule", host + ":" + port + "/tcp=reject", "--rule", "198.51.100.77/udp=reject"}
				args := slices.Concat([]string{"run", "--netns", o.egress}, rules, []string{"--"})
				if strings.HasSuffix(how, "looked at") {
					args = slices.Concat(crossing, []string{"--netns", o.egress}, rules, []string{"--"})
				}
				args = append(args, probe, what, host, port, serverAddr, o.port, o.closed, dropped, "500", how)
				_, out := status(t, upconv(t, args...))
				numbers := numbersOf(t, out)
				t.Logf("%v", numbers)
				if n := arrived.Swap(0); n != 0 {
					t.Errorf("%d connections arrived where none may, in %d calls", n, numbers["calls"])
				}
				if numbers[want] == 0 || numbers["ENETUNREACH"] == 0 {
					t.Errorf("nobody met %s and a refusal: this test cannot tell anything", want)
				}
			})
		}
	}
}
