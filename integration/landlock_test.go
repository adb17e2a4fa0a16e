package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// needLandlock skips the test where programs cannot restrict the ports that they connect to.
func needLandlock(t *testing.T) {
	t.Helper()
	const askVersion = 1 // LANDLOCK_CREATE_RULESET_VERSION
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, askVersion)
	if errno != 0 || version < 4 {
		skip(t, "needs Landlock with rules for TCP ports (Linux 6.7): version %d, %v", version, errno)
	}
}

// landlockProbe is the command line of landlock_probe, allowed to connect to echoPort and not to
// acceptPort.
func landlockProbe(t *testing.T, words ...string) []string {
	t.Helper()
	return append([]string{compileC(t, "landlock_probe.c", "gcc", "-static", "-pthread"), serverAddr, echoPort, acceptPort}, words...)
}

// TestLandlock compares what a program that has restricted itself reaches, natively and under
// upconv: sockets of all kinds, from before and after, in threads, children and orphans, with
// signals all the while.
func TestLandlock(t *testing.T) {
	needLandlock(t)
	args := landlockProbe(t, "fresh", "after", "threads", "children", "binds", "own", "signals", "stops")
	forEachWay(t, func(t *testing.T, w *caseWay) {
		want := output(t, w.native(args...))
		for _, refused := range []string{"a child, AF_INET, denied port: EACCES", "an orphan, AF_INET, denied port: EACCES"} {
			if !strings.Contains(want, refused) {
				t.Fatalf("natively it does not say %q:\n%s", refused, want)
			}
		}
		sameOutput(t, want, output(t, w.upconv(nil, args...)))
	})
}

// TestLandlock32 is TestLandlock for a 32-bit program.
func TestLandlock32(t *testing.T) {
	needLandlock(t)
	args := landlockProbe(t, "fresh", "after", "signals")
	args[0] = compileC(t, "landlock_probe.c", "gcc", "-static", "-m32", "-pthread")
	for _, route := range []string{"netns", "nat64"} {
		t.Run(route, func(t *testing.T) {
			w := newCaseWay(t, route, "bpf")
			sameOutput(t, output(t, w.native(args...)), output(t, w.upconv(nil, args...)))
		})
	}
}

// TestLandlockAtSocket is TestLandlock where sockets are of the egress from the beginning.
func TestLandlockAtSocket(t *testing.T) {
	needLandlock(t)
	args := landlockProbe(t, "fresh", "after", "children", "own")
	w := newCaseWay(t, "netns", "bpf")
	sameOutput(t, output(t, w.native(args...)), output(t, w.upconv([]string{"--swap-at", "socket"}, args...)))
}

// TestLandlockStricter sends with MSG_FASTOPEN, which connects, and uses MPTCP. Kernels up to 6.18
// do not ask Landlock about these; upconv does, as for TCP.
func TestLandlockStricter(t *testing.T) {
	needLandlock(t)
	forEachWay(t, func(t *testing.T, w *caseWay) {
		want := ""
		for _, call := range []string{"sendto", "sendmsg", "sendmmsg"} {
			want += call + " with MSG_FASTOPEN, allowed port: ok\n" + call + " with MSG_FASTOPEN, denied port: EACCES\n"
		}
		want += "MPTCP, allowed port: ok\nMPTCP, denied port: EACCES\n"
		sameOutput(t, want, output(t, w.upconv(nil, landlockProbe(t, "opens", "multipath")...)))
	})
}

// TestLandlockRace has a thread change the port while a connect(2) to it is decided. None may reach
// the server at the port that is denied, whose count is shown to work.
func TestLandlockRace(t *testing.T) {
	needLandlock(t)
	forEachWay(t, func(t *testing.T, w *caseWay) {
		var arrived atomic.Int32
		counter := w.listen(serverAddr + ":0")
		each(counter, func(conn net.Conn) { arrived.Add(1); io.Copy(io.Discard, conn) })
		args := landlockProbe(t, "plain")
		_, args[3] = split(t, counter.Addr().String())
		output(t, w.upconv(nil, args...))
		if !soon(func() bool { return arrived.Load() == 1 }) {
			t.Fatal("the counter does not work")
		}
		args[4] = "race"
		if got := output(t, w.upconv(nil, args...)); got != "some connected: 1, some refused: 1\n" {
			t.Errorf("it says %q", got)
		}
		output(t, w.upconv(nil, landlockProbe(t, "plain")...)) // by now all that was sent before has come
		if n := arrived.Load(); n != 1 {
			t.Errorf("%d connections have reached the denied port", n-1)
		}
	})
}

// TestLandlockRoutes is about routes to Unix sockets, to one IPv6 address, and to nowhere.
func TestLandlockRoutes(t *testing.T) {
	needLandlock(t)
	w := newCaseWay(t, "nat64", "bpf")
	abstract, path := "@"+w.lab.origin, ""
	var arrived atomic.Int32
	serve := func(conn net.Conn) { arrived.Add(1); io.Copy(io.Discard, conn) }
	path = unixServer(t, serve)
	inNamespace(t, w.origin, func() error {
		listener, err := net.Listen("unix", abstract)
		if err == nil {
			t.Cleanup(func() { listener.Close() })
			go keep(listener, serve)
		}
		return err
	})
	const unrestricted = "plain, AF_INET, denied port: ok\nplain, AF_INET, allowed port: ok\n"
	for route, want := range map[string]string{
		"unix:" + path:                 "",
		"unix:" + abstract:             "",
		"inet6:2001:db8:64::cb00:710a": "",
		"reject:EHOSTUNREACH":          "EHOSTUNREACH",
	} {
		t.Run(route, func(t *testing.T) {
			flags := []string{"--rule", serverAddr + "=" + route}
			if want == "" {
				sameOutput(t, unrestricted, output(t, w.upconv(flags, landlockProbe(t, "plain")...)))
			}
			before := arrived.Load()
			got := output(t, w.upconv(flags, landlockProbe(t, "fresh")...))
			for line := range strings.Lines(got) {
				line = strings.TrimSpace(line)
				switch {
				case want != "" && strings.Contains(line, " port: ") && !strings.HasSuffix(line, want):
					t.Errorf("%q, want %s", line, want)
				case want == "" && strings.Contains(line, "denied port: ") && !strings.HasSuffix(line, "EACCES"):
					t.Errorf("%q, want EACCES", line)
				case want == "" && strings.Contains(line, "allowed port: ") && !strings.HasSuffix(line, "ok"):
					t.Errorf("%q, want it to be connected", line)
				}
			}
			if n := arrived.Load() - before; strings.HasPrefix(route, "unix:") && n > 5 {
				t.Errorf("%d connections have reached the Unix socket, want 5 of the allowed port", n)
			}
		})
	}
}

// TestLandlockAround runs upconv itself in a program's restrictions: they hold for what it starts
// as natively.
func TestLandlockAround(t *testing.T) {
	needLandlock(t)
	for _, route := range []string{"netns", "nat64"} {
		t.Run(route, func(t *testing.T) {
			w := newCaseWay(t, route, "bpf")
			at := slices.Index(w.under, bin)
			w.under = slices.Insert(slices.Clone(w.under), at, landlockProbe(t, "exec")...)
			const want = "plain, AF_INET, denied port: EACCES\nplain, AF_INET, allowed port: ok\n"
			sameOutput(t, want, output(t, w.upconv(nil, landlockProbe(t, "plain")...)))
		})
	}
}

// TestLandlockEvents looks at what is recorded of refusals: by the program's own rules, and because
// somebody traces it, so that the kernel cannot be asked.
func TestLandlockEvents(t *testing.T) {
	needLandlock(t)
	w := newCaseWay(t, "netns", "bpf")
	for word, note := range map[string]string{"children": "forbidden itself this port", "traced": "ptrace(2) says EPERM"} {
		file := fmt.Sprintf("%s/%s", t.TempDir(), word)
		got := output(t, w.upconv([]string{"--events", file}, landlockProbe(t, word)...))
		if word == "traced" && strings.Contains(got, "ok") {
			t.Errorf("a program that cannot be asked about has connected:\n%s", got)
		}
		events, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(events), note) {
			t.Errorf("%s: no event has a note %q:\n%s", word, note, events)
		}
	}
}
