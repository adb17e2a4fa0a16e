package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// holdups are the stopped calls that wait for memory that never comes, and on which routes they do.
var holdups = []struct {
	call    string
	crossed bool // only where sockets are ones of another family
}{
	{"connect", false}, {"connect6", false}, {"sendto", false}, {"senddata", false}, {"sendmsg", false}, {"sendmmsg", false},
	{"msgname", false}, {"msgdata", false}, {"msgvectors", false}, {"msgcontrol", false}, {"fastopen", false}, {"bind", false},
	{"lock", false}, {"getsockname", true}, {"getpeername", true}, {"getsockopt", true}, {"setsockopt", true},
	{"recvfrom", true}, {"recvdata", true}, {"recvmsg", true},
	{"move", false}, {"wait", true}, {"expiry", true}, {"interrupted", true},
}

// holdupClient starts one process for each call that it is given, whose eight threads wait for
// memory that never comes. Beside them it connects and sends to the server a hundred times each
// time it is told to, and has a signal interrupt a call that waits.
const holdupClient = `
import select, signal, socket, struct, subprocess, sys, time
host, probe, calls = sys.argv[1], sys.argv[2], sys.argv[3:]
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGALRM, alarm)
signal.signal(signal.SIGUSR1, lambda *_: print("signalled", flush=True))
holders = [subprocess.Popen([probe, host, call, "8"], stdout=subprocess.PIPE) for call in calls]
for holder in holders: assert holder.stdout.readline() == b"held\n"
print("held", flush=True)
def echo(u): # the translator of the tests makes wrong checksums of some datagrams, and would of the same one again
    for text in b"one", b"two", b"three":
        u.sendto(text, (host, 7000))
        try: return u.recvfrom(9)[0] == text
        except BlockingIOError: assert not select.select([u], [], [], 0)[0]
def serve():
    for i in range(100): # not with settimeout(), which would have it poll, and never wait to receive
        s = socket.create_connection((host, 7000), 20); s.sendall(b"x"); assert s.recv(1) == b"x"; s.close()
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
        assert echo(u)
    began = time.monotonic(); signal.setitimer(signal.ITIMER_REAL, 0.02)
    try: u.recvfrom(9)
    except Alarm: assert time.monotonic() - began < 5
for line in iter(sys.stdin.readline, ""): serve(); print("served", flush=True)
for holder in holders:
    assert holder.poll() is None
    holder.kill(); holder.wait()
`

// TestHoldup has a process for every stopped call hold workers with memory that never comes. Other
// programs go on being served, the policy is read again, signals are passed on, and the command
// ends with the front process.
func TestHoldup(t *testing.T) {
	needRealRoot(t, "userfaultfd(2) that the kernel waits for")
	forEachWay(t, func(t *testing.T, w *caseWay) {
		if w.user {
			return // an ordinary user's userfaultfd(2) has the kernel fail, so nothing waits for it
		}
		probe := compileC(t, "holdup_probe.c", "gcc", "-pthread")
		var calls []string
		for _, h := range holdups {
			if !h.crossed || w.route == "nat64" {
				calls = append(calls, h.call)
			}
		}
		dir := t.TempDir()
		file, events := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "events")
		if err := os.WriteFile(file, []byte("version: 1\negress: [{to: 192.0.2.99, via: reject}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		client := append([]string{needProgram(t, python), "-c", holdupClient, serverAddr, probe}, calls...)
		cmd := w.upconv([]string{"--config", file, "--events", events}, client...)
		cmd.Env = append(os.Environ(), "GOGC=1") // the collector runs all the time
		stdin, lines, complaints := converse(t, cmd)
		expect := func(want string) {
			t.Helper()
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("it says %q, want %q\n%s", lines.Text(), want, complaints.String())
			}
		}
		expect("held")
		for reloads := 1; reloads <= 5; reloads++ {
			fmt.Fprintln(stdin, "serve")
			expect("served")
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			if !soon(func() bool {
				text, _ := os.ReadFile(events)
				return bytes.Count(text, []byte(`"call":"reload"`)) == reloads
			}) {
				t.Fatalf("the policy is not read again\n%s", complaints.String())
			}
		}
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		expect("signalled")
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // the command and all that it has started had the other end of the pipe
			if !strings.Contains("served signalled", lines.Text()) {
				t.Errorf("after the front process was killed: %q", lines.Text())
			}
		}
		cmd.Wait()
	})
}
