package integration

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upconv/upconv/nsdial"
)

// TestSwapAtSocket compares stream sockets natively, in the egress or in the origin, with those of
// --swap-at socket.
func TestSwapAtSocket(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	output(t, command(t, "ip", "-n", l.origin, "addr", "add", "198.51.100.77/32", "dev", "lo"))
	host, port := split(t, l.greet())
	// What only the egress has.
	egress, err := nsdial.OpenName(l.egress)
	if err != nil {
		t.Fatal(err)
	}
	defer egress.Close()
	there, err := egress.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	go say(there, "never")
	_, only := split(t, there.Addr().String())

	for _, c := range []struct {
		name string
		home bool // compare with the origin, instead of the egress
		goes bool // it goes to the egress by itself
		port string
		udp  string // --udp
		want string // lines that there must be natively, separated by "; "
	}{
		{name: "flags", want: "the lowest: 1 F_GETFL 2 F_GETFD 0 mode 140777 owner 0 0; the lowest: 1 F_GETFL 802 F_GETFD 1 mode 140777 owner 0 0; owner 12346 12345"},
		{name: "limit", want: "no room: -1 EMFILE; room for one: 1; no room again: -1 EMFILE"},
		{name: "protocols", want: "2 1 0: 2 1 6; 2 1 262: 2 1 262; 2 2 0: 2 2 17; 2 1 99: EPROTONOSUPPORT; flags unknown: -1 EINVAL"},
		{name: "client", want: "connect: 0; the same socket: 1 1; epoll_wait: 1; again: -1 EISCONN; greeting: hello 192.0.2.1; connect in the child: 0"},
		{name: "exec", want: "closed: 1; connect what was given: 0; greeting: hello 192.0.2.1"},
		{name: "server", home: true, want: "bind: 0; listen: 0; the same port: 1, F_GETFL 2 F_GETFD 0; here: 1; bind again: -1 EINVAL; greeting: from here"},
		{name: "back", want: "option 4: 0; port 0, poll 14; connect: 0; greeting: hello 192.0.2.1"},
		{name: "binds", home: true, want: "192.0.2.1: -1 EADDRNOTAVAIL; 198.51.100.77: 0; AF_INET6: -1 EAFNOSUPPORT; AF_UNSPEC: 0; again: -1 EINVAL; bad: -1 EFAULT"},
		{name: "interfaces", home: true, want: "SIOCGIFCONF: 0; SIOCGIFADDR: 0; SO_BINDTODEVICE: 0; SO_BINDTODEVICE: -1 ENODEV; here: 1"},
		{name: "refused", home: true, port: only, want: "loopback: -1 ECONNREFUSED; any: -1 ECONNREFUSED; bad: -1 EFAULT; mapped: -1 EAFNOSUPPORT; here: 1; MSG_FASTOPEN, no header: -1 EFAULT"},
		{name: "refused", home: true, port: only, udp: "off", want: "MSG_FASTOPEN: -1 ECONNREFUSED"},
		{name: "changing", home: true, port: only, want: "connected: 0"},
		{name: "server", goes: true, want: "bind: 0; listen: 0; the same port: 1, F_GETFL 2 F_GETFD 0; here: 1; greeting: from here"},
		{name: "binds", goes: true, want: "192.0.2.1: 0; 198.51.100.77: -1 EADDRNOTAVAIL; here: 1"},
		{name: "interfaces", goes: true, want: "SIOCGIFCONF: 0; SIOCGIFADDR: 0; here: 1"},
		{name: "refused", goes: true, port: only, want: "loopback: 0; here: 1; datagrams: 0; datagrams, sendto: 1"},
		{name: "unshared", home: true, want: "unshare: 0; here: 1"},
	} {
		for _, abi := range []string{"amd64", "i386", "socketcall"} {
			for _, sees := range []bool{true, false} {
				name := c.name + c.udp + "/" + abi
				if c.goes {
					name = c.name + " in the egress/" + abi
				}
				if !sees {
					name += "/by system calls"
				}
				t.Run(name, func(t *testing.T) {
					if c.name == "flags" {
						needUsers(t) // owners
					}
					if c.port == "" {
						c.port = port
					}
					probe := compileC(t, "atsocket_probe.c", udpABIs[abi]...)
					args := []string{probe, c.name, host, c.port}
					native := l.in(l.egress, args...)
					if c.home {
						native = l.plain(args...)
					}
					if c.goes { // when others have been given sockets of it
						args = append([]string{"sh", "-c", `"$0" client "$1" "$2" >/dev/null && shift 2 && exec ip netns exec "$@"`, probe, host, port, l.egress}, args...)
					}
					want := output(t, native)
					for line := range strings.SplitSeq(c.want, "; ") {
						if !slices.Contains(strings.Split(want, "\n"), line) {
							t.Errorf("natively it did not say %q: this test cannot tell anything\n%s", line, want)
						}
					}
					run := []string{bin, "run", "--udp", cmp.Or(c.udp, "full"), "--netns", l.origin, "--via", "netns:" + l.egress, "--swap-at", "socket", "--"}
					if !sees {
						run = append(hideBTF(t), run...)
					}
					_, got := status(t, command(t, run[0], append(slices.Clip(run[1:]), args...)...))
					sameOutput(t, want, got)
				})
			}
		}
	}

	// A server is reached by others, where it is.
	link(t, l.origin, "198.51.100.1/30", l.serverName, "198.51.100.2/30", "198.18.0.0/24")
	for _, how := range []string{"stream", "datagram"} {
		t.Run("from outside/"+how, func(t *testing.T) {
			cmd := upconv(t, "run", "--netns", l.origin, "--rule", "198.51.100.0/30=direct", "--via", "netns:"+l.egress, "--swap-at", "socket", "--",
				compileC(t, "atsocket_probe.c", udpABIs["amd64"]...), how, host, port)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			if line, _ := lines.ReadString('\n'); line != "ready\n" {
				t.Errorf("it says %q", line)
			}
			network := map[string]string{"stream": "tcp", "datagram": "udp"}[how]
			conn, err := l.server.DialContext(context.Background(), network, "198.51.100.1:23997")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprint(conn, "hello")
			got := make([]byte, 5)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
				t.Errorf("it answers %q, %v", got, err)
			}
			rest, _ := io.ReadAll(lines)
			if cmd.Wait(); string(rest) != "from 198.51.100.2\nend\n" {
				t.Errorf("then it says %q", rest)
			}
		})
	}
	l.t = t
}

// TestSwapAtSocketIsolated is for ordinary users, whose upconv has no privileges in the namespace
// of the program.
func TestSwapAtSocketIsolated(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	nobody := ordinaryUser(t)
	for _, what := range []string{"flags", "limit", "protocols", "client", "exec", "server", "back"} {
		for _, abi := range []string{"amd64", "socketcall"} {
			t.Run(what+"/"+abi, func(t *testing.T) {
				args := []string{compileC(t, "atsocket_probe.c", udpABIs[abi]...), what, host, port}
				native, under := l.in(l.egress, append(slices.Clip(nobody), args...)...),
					l.in(l.egress, append(append(slices.Clip(nobody), bin, "run", "--isolate", "--swap-at", "socket", "--"), args...)...)
				native.Dir, under.Dir = "/", "/"
				want := output(t, native)
				_, got := status(t, under)
				sameOutput(t, want, got)
			})
		}
	}
	// What it cannot do it says, where it makes a difference.
	for mode, says := range map[string]bool{"connected": true, "full": false, "off": false} {
		cmd := l.in(l.egress, append(slices.Clip(nobody), bin, "run", "--isolate", "--swap-at", "socket", "--udp", mode, "--", "true")...)
		cmd.Dir = "/"
		if _, got := status(t, cmd); strings.Contains(got, "without CAP_SYS_ADMIN only TCP sockets") != says {
			t.Errorf("--udp %s: it says %q", mode, got)
		}
	}
}
