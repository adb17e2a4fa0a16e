package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nft runs nft in a namespace. ip-netns(8) would put another /sys in place, and nft looks cgroups
// up there.
func nft(t *testing.T, namespace string, args ...string) string {
	t.Helper()
	return output(t, command(t, needProgram(t, "nsenter"), append([]string{"--net=/run/netns/" + namespace, needProgram(t, "nft")}, args...)...))
}

// A tally is the packets that the egress has seen go to a port: all, the first of each connection,
// and of both those that belong to a cgroup.
type tally struct{ all, syn, allOwn, synOwn int }

// tallyPackets counts the packets to a port of the server, and which of them match what nft has to
// say of a cgroup.
func (l *lab) tallyPackets(t *testing.T, port, match string) (read func() tally) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules")
	rules := fmt.Sprintf(`table inet tally {
	counter to_all {}
	counter to_syn {}
	counter to_all_own {}
	counter to_syn_own {}
	chain out {
		type filter hook output priority 0;
		tcp dport != %[1]s return
		counter name to_all
		tcp flags & (syn | ack) == syn counter name to_syn
		%[2]s counter name to_all_own
		%[2]s tcp flags & (syn | ack) == syn counter name to_syn_own
	}
}
`, port, match)
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	nft(t, l.egress, "-f", file)
	return func() tally {
		t.Helper()
		var list struct {
			Nftables []struct {
				Counter *struct {
					Name    string
					Packets int
				}
			}
		}
		text := nft(t, l.egress, "-j", "list", "counters", "table", "inet", "tally")
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		n := map[string]int{}
		for _, item := range list.Nftables {
			if item.Counter != nil {
				n[item.Counter.Name] = item.Counter.Packets
			}
		}
		return tally{n["to_all"], n["to_syn"], n["to_all_own"], n["to_syn_own"]}
	}
}

// join returns a command line that enters a cgroup and goes on with args.
func join(file string, args ...string) []string {
	return append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, file}, args...)
}

// mounted returns where a file system of this type, and with this option if any, is mounted.
func mounted(t *testing.T, kind, option string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(after)
		if fields[0] == kind && (option == "" || strings.Contains(","+fields[2]+",", ","+option+",")) {
			return strings.Fields(before)[4]
		}
	}
	return ""
}

func makeCgroup(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "upconv-test-")
	if err != nil {
		needRealRoot(t, "it makes cgroups")
		skip(t, "needs to make cgroups: %v", err)
	}
	t.Cleanup(func() {
		if !soon(func() bool { return os.Remove(dir) == nil }) {
			t.Errorf("cannot remove the cgroup %s", dir)
		}
	})
	return dir
}

// compareTallies runs a client natively and under upconv, and wants the packets of both to belong
// to the cgroup, the first ones included.
func (l *lab) compareTallies(t *testing.T, read func() tally, want string, native, under *exec.Cmd) {
	t.Helper()
	// A connection is four packets at least: SYN, ACK, an ACK of the greeting, FIN. What the kernel
	// may send when the socket is gone is nobody's, so there can be more than the cgroup's own.
	good := func(connections int) (last tally, ok bool) {
		ok = soon(func() bool {
			last = read()
			return last.syn == connections && last.synOwn == connections && last.allOwn >= 4*connections
		})
		return last, ok
	}
	if got := output(t, native); got != want {
		t.Fatalf("natively got %q", got)
	}
	first, ok := good(1)
	if !ok {
		t.Fatalf("natively %+v: this test cannot tell anything", first)
	}
	if got := output(t, under); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, ok := good(2); !ok {
		t.Errorf("%+v: not all packets belong to the target's cgroup; natively alone %+v", got, first)
	}
}

// TestCgroupV2 runs upconv in a cgroup of version 2: the sockets that it makes are the cgroup's.
func TestCgroupV2(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	root := mounted(t, "cgroup2", "")
	const sysfs = "/sys/fs/cgroup" // where nft looks
	if root != sysfs && !strings.HasPrefix(root, sysfs+"/") {
		skip(t, "needs cgroup2 mounted below %s", sysfs)
	}
	group := makeCgroup(t, root)
	host, port := split(t, l.greet())
	read := l.tallyPackets(t, port, fmt.Sprintf("socket cgroupv2 level 1 %q", strings.TrimPrefix(group, sysfs+"/")))
	client := []string{static(t, "client_connect.c"), "connect", host, port}
	file := filepath.Join(group, "cgroup.procs")
	native := join(file, append([]string{"ip", "netns", "exec", l.egress}, client...)...)
	under := join(file, append([]string{bin, "run", "--netns", l.origin, "--via", "netns:" + l.egress, "--"}, client...)...)
	l.compareTallies(t, read, greeting, command(t, native[0], native[1:]...), command(t, under[0], under[1:]...))
}

// TestCgroupNetCls has the target alone be in a cgroup of net_cls: every packet carries its class,
// from the first on.
//
// There is none like it for net_prio: its map of priorities takes interfaces of the initial
// namespace only, so that nothing can be seen of it in the namespaces of these tests.
func TestCgroupNetCls(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	group := makeCgroup(t, netCls(t))
	if err := os.WriteFile(filepath.Join(group, "net_cls.classid"), []byte("0x100001"), 0); err != nil {
		t.Fatal(err)
	}
	listener := l.listen(serverAddr + ":0")
	_, closed := split(t, listener.Addr().String())
	listener.Close()
	again := compileC(t, "swap_again.c", "gcc", "-static", "-pthread")
	for _, test := range []struct {
		name, want string
		args       func(host, port string) []string
	}{
		{"once", greeting, func(host, port string) []string {
			return []string{static(t, "client_connect.c"), "connect", host, port}
		}},
		// The second time the socket is one that upconv has made, which it must not have for its
		// own meanwhile.
		{"refused at first", "connect: -1 ECONNREFUSED\nconnect elsewhere: 0\ngreeting: " + greeting + "end\n", func(host, port string) []string {
			return []string{again, "elsewhere", host, closed, port}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			host, port := split(t, l.greet())
			read := l.tallyPackets(t, port, "meta cgroup 0x100001")
			client := join(filepath.Join(group, "tasks"), test.args(host, port)...)
			// Not by ip-netns(8), which would mount another /sys over the group.
			native := append([]string{"--net=/run/netns/" + l.egress}, client...)
			l.compareTallies(t, read, test.want, command(t, needProgram(t, "nsenter"), native...), l.under(client...))
			nft(t, l.egress, "delete", "table", "inet", "tally")
		})
	}
}

// netCls returns where the net_cls cgroups are mounted, and mounts them where they are not.
func netCls(t *testing.T) (root string) {
	t.Helper()
	root = mounted(t, "cgroup", "net_cls")
	if root == "" {
		root = t.TempDir()
		if err := unix.Mount("cgroup", root, "cgroup", 0, "net_cls"); err != nil {
			needRealRoot(t, "it mounts cgroups")
			skip(t, "needs cgroup v1 net_cls: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(root, 0); err != nil {
				t.Errorf("unmount %s: %v", root, err)
			}
		})
	}
	return root
}

// TestCgroupNetClsThreads has threads send both ways through one socket where there are net_cls
// cgroups, so that upconv gives a socket that it has looked at back to the program's: never one
// that another thread's send has just replaced.
func TestCgroupNetClsThreads(t *testing.T) {
	u := newUDPLab(t)
	makeCgroup(t, netCls(t))
	probe := compileC(t, "udp_probe.c", udpABIs["amd64"]...)
	args := append(ordinaryUser(t), bin, "run", "--isolate", "--", probe, "turning-threads", serverAddr, u.port, u.other, u.closed)
	for range 5 {
		if got := output(t, u.in(u.egress, args...)); got != "none failed\none port\nend\n" {
			t.Fatalf("it says %q", got)
		}
	}
}
