package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// caseEpoll is the program of these tests.
func caseEpoll(t testing.TB) string { return compileC(t, "case_epoll.c", "gcc", "-static", "-pthread") }

// TestEpollNumbers puts sockets into an epoll set before they connect or send, under every number
// that upconv may use for something of its own.
func TestEpollNumbers(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		for _, proto := range []string{"tcp", "udp"} {
			if _, out := status(t, w.upconv(nil, caseEpoll(t), "numbers", proto, serverAddr, "4", "430")); !strings.HasSuffix(out, "427 numbers, 0 lost\n") {
				t.Errorf("%s: %s", proto, out)
			}
		}
	})
}

// TestEpollCases has sockets come into epoll sets in all ways.
func TestEpollCases(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) { w.epollCases(t) })
}

func (w *caseWay) epollCases(t *testing.T) {
	t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		args := []string{caseEpoll(t), "cases", proto, serverAddr}
		_, native := status(t, w.native(args...))
		if strings.Count(native, ": 1 of 1\n") != 15 {
			t.Fatalf("natively: %s", native)
		}
		_, under := status(t, w.upconv(nil, args...))
		sameOutput(t, native, under)
	}
}

// TestEpollWithoutKcmp runs upconv under a filter as podman's and CRI-O's, which refuses kcmp(2)
// and bpf(2).
func TestEpollWithoutKcmp(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
			filtered := *w
			at := slices.Index(w.under, bin)
			filtered.under = slices.Insert(slices.Clone(w.under), at, refuse(t, "kcmp,bpf", errno)...)
			filtered.epollCases(t)
		}
	})
}

// TestEpollAboveLimit has a socket with a number that upconv itself may not have a descriptor with:
// below its hard RLIMIT_NOFILE it helps itself, above that the event says what is lost.
func TestEpollAboveLimit(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		const number, limit = 700, 600
		for _, c := range []struct {
			name string
			hard uint64
			lost bool
		}{
			{name: "soft limit", hard: 2000},
			{name: "hard limit", hard: limit, lost: true},
		} {
			t.Run(c.name, func(t *testing.T) {
				cmd := w.upconv([]string{"--events", "-"}, caseEpoll(t), "number", "tcp", serverAddr, fmt.Sprint(number))
				stdin, lines, events := converse(t, cmd)
				defer cmd.Wait()
				defer stdin.Close()
				if !lines.Scan() || lines.Text() != "ready" {
					t.Fatalf("it says %q\n%s", lines.Text(), events.String())
				}
				if c.lost && !w.user {
					needRealRoot(t, "it raises limits")
				}
				supervisor := supervisorOf(t, cmd.Process.Pid)
				prlimit := []string{needProgram(t, "prlimit"), "--pid", fmt.Sprint(supervisor), fmt.Sprintf("--nofile=%d:%d", limit, c.hard)}
				if w.user { // whose process it is
					prlimit = append(ordinaryUser(t), prlimit...)
				}
				output(t, command(t, prlimit[0], prlimit[1:]...))
				lost := c.lost && !mayRaiseLimits(t, supervisor)
				fmt.Fprintln(stdin)
				last := ""
				for lines.Scan() {
					last = lines.Text()
				}
				if want := map[bool]string{false: "1 numbers, 0 lost", true: "1 numbers, 1 lost"}[lost]; last != want {
					t.Errorf("it says %q, want %q", last, want)
				}
				cmd.Wait()
				if is := strings.Contains(events.String(), "lost to an epoll set: upconv's RLIMIT_NOFILE is below its number 700"); is != lost {
					t.Errorf("the event says that it is lost: %v, want %v\n%s", is, lost, events.String())
				}
			})
		}
	})
}

// mayRaiseLimits reports whether a process has CAP_SYS_RESOURCE.
func mayRaiseLimits(t testing.TB, pid int) bool {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var effective uint64
	_, rest, _ := strings.Cut(string(status), "\nCapEff:")
	if _, err := fmt.Sscanf(rest, "%x", &effective); err != nil {
		t.Fatal(err)
	}
	return effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
