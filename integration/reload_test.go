package integration

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReload changes the policy file under a program that goes on running.
func TestReload(t *testing.T) {
	l := newLab(t)
	python3 := needProgram(t, python)
	dir := t.TempDir()
	file, events := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "events")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("version: 1\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	through := fmt.Sprintf("egress:\n  - {to: 203.0.113.0/24, via: netns:%s}\n", l.egress)
	write(through)
	host, port := split(t, l.greet())
	cmd := upconv(t, "run", "--netns", l.origin, "--config", file, "--rule", "198.51.100.7=reject:EPERM", "--events", events, "--", python3, "-uc", `
import socket, sys
for line in sys.stdin:
    try:
        s = socket.create_connection((line.split()[0], int(sys.argv[1])), 10); print(s.makefile().read().split()[0]); s.close()
    except OSError as e: print(e.errno)
`, port)
	stdin, lines, complaints := converse(t, cmd)
	ask := func(addr, want string) {
		t.Helper()
		fmt.Fprintln(stdin, addr)
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("%s: %q, want %q\n%s", addr, lines.Text(), want, complaints.String())
		}
	}
	reloads := 0
	reload := func(result string) {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads++
		var text []byte
		if !soon(func() bool {
			text, _ = os.ReadFile(events)
			return strings.Count(string(text), `"call":"reload"`) == reloads
		}) {
			t.Fatalf("no event\n%s\n%s", text, complaints.String())
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		if last := all[len(all)-1]; !strings.Contains(last, `"result":"`+result+`"`) {
			t.Errorf("%s, want %s", last, result)
		}
	}

	ask(host, "hello")
	write("egress:\n  - {to: 203.0.113.0/24, via: reject:EHOSTUNREACH}\n")
	ask(host, "hello") // nobody has said anything yet
	reload("ok")
	ask(host, fmt.Sprint(int(syscall.EHOSTUNREACH)))

	write("egress:\n  - {to: 203.0.113.0/33, via: direct}\n")
	reload("EINVAL")
	ask(host, fmt.Sprint(int(syscall.EHOSTUNREACH)))
	if !soon(func() bool { return strings.Contains(complaints.String(), "policy.yaml:3:") }) {
		t.Errorf("it does not say what is wrong and where: %s", complaints.String())
	}
	write("egress:\n  - {to: 203.0.113.0/24, via: 'netns:no-such-namespace'}\n")
	reload("EINVAL")
	write("egress:\n  - {to: 203.0.113.0/24, via: 'nat64:2001:db8:64::/96'}\n")
	reload("EINVAL") // the filter is not made for it
	write("udp: connected\n" + through)
	reload("EINVAL") // nor for this
	write("swapAt: socket\n" + through)
	reload("EINVAL")
	if !soon(func() bool {
		text := complaints.String()
		return strings.Contains(text, "its udp is connected") && strings.Contains(text, "its swapAt is socket")
	}) {
		t.Errorf("it does not say what cannot be changed: %s", complaints.String())
	}
	os.Remove(file)
	reload("EINVAL")
	ask(host, fmt.Sprint(int(syscall.EHOSTUNREACH)))

	write("udp: full\n" + through)
	reload("ok")
	ask(host, "hello")
	ask("198.51.100.7", fmt.Sprint(int(syscall.EPERM))) // a flag's rule stays
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, complaints.String())
	}
}

// TestReloadWaits has a file that nobody writes be read again: other signals are passed on all the
// same.
func TestReloadWaits(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("version: 1\negress: [{to: 203.0.113.0/24, via: reject}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	origin := fmt.Sprintf("uc%d-reload", os.Getpid())
	makeNamespace(t, origin)
	cmd := upconv(t, "run", "--netns", origin, "--config", file, "--", "sh", "-c", "echo ready; exec sleep 60")
	_, lines, complaints := converse(t, cmd)
	lines.Scan()
	os.Remove(file)
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	if !soon(func() bool { // is it being read?
		fd, err := syscall.Open(file, syscall.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			t.Cleanup(func() { syscall.Close(fd) })
		}
		return err == nil
	}) {
		t.Fatalf("the file is not read again\n%s", complaints.String())
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Errorf("%v\n%s", cmd.ProcessState, complaints.String())
	}
}

// TestReloadUnderLoad takes a namespace out of the policy, again and again, while the program sends
// there: what has been decided by the one policy is carried out under the other.
func TestReloadUnderLoad(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	file, events := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "events")
	through := fmt.Sprintf("version: 1\negress:\n  - {to: 203.0.113.0/24, via: netns:%s}\n", l.egress)
	refused := "version: 1\negress:\n  - {to: 203.0.113.0/24, via: reject:EPERM}\n"
	if err := os.WriteFile(file, []byte(through), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := upconv(t, "run", "--netns", l.origin, "--config", file, "--events", events, "--", needProgram(t, python), "-uc", `
import errno, os, socket, sys, threading
def send():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        try:
            s.sendto(b"", ("203.0.113.10", 9))
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.ECONNREFUSED): print(e); os._exit(1)
threading.Thread(target=send, daemon=True).start()
print("ready")
sys.stdin.read()
`)
	stdin, lines, complaints := converse(t, cmd)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("%q\n%s", lines.Text(), complaints.String())
	}
	for i := range 100 {
		if err := os.WriteFile(file, []byte([]string{refused, through}[i%2]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if !soon(func() bool {
			text, _ := os.ReadFile(events)
			return strings.Count(string(text), `"call":"reload"`) > i
		}) {
			t.Fatalf("no event of reload %d\n%s", i, complaints.String())
		}
	}
	stdin.Close()
	for lines.Scan() {
		t.Errorf("the program: %s", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, complaints.String())
	}
}

// TestReloadSwapAt refuses a policy that cannot be followed where sockets are swapped, and keeps
// the one in force.
func TestReloadSwapAt(t *testing.T) {
	l := newLab(t)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("version: 1\negress:\n  - {to: 203.0.113.0/24, via: "+text+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	through := "netns:" + l.egress
	write(through)
	host, port := split(t, l.greet())
	cmd := upconv(t, "run", "--netns", l.origin, "--config", file, "--swap-at", "socket", "--", needProgram(t, python), "-uc", `
import socket, sys
for line in sys.stdin:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); print(s.makefile().read().split()[0]); s.close()
`, host, port)
	stdin, lines, log := converse(t, cmd)
	ask := func() {
		t.Helper()
		fmt.Fprintln(stdin)
		if !lines.Scan() || lines.Text() != "hello" {
			t.Fatalf("%q\n%s", lines.Text(), log.String())
		}
	}
	ask()
	for text, want := range map[string]string{
		through + "}\n  - {to: 198.51.100.0/24, via: 'netns:" + l.origin + "'": "a second namespace after " + l.egress,
		"direct":                   "no route is to a network namespace",
		"'nat64:2001:db8:64::/96'": "a socket of another family",
	} {
		write(text)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if !soon(func() bool { return strings.Contains(log.String(), want) }) {
			t.Errorf("%s: it does not say that %s\n%s", text, want, log.String())
		}
		ask()
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
}

// TestReloadSwapAtSocket refuses a policy that needs sockets at socket(2) of a kind which the
// filter does not stop. And of a kind that the policy in force has no namespace for, none are made
// there any more.
func TestReloadSwapAtSocket(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	rule := func(proto, via string) string {
		return fmt.Sprintf("  - {to: 203.0.113.0/24, proto: %s, via: '%s'}\n", proto, via)
	}
	write := func(rules string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("version: 1\negress:\n"+rules), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	through := "netns:" + l.egress
	both := rule("tcp", through) + rule("udp", through)
	for name, c := range map[string]struct{ before, after, made, want, then string }{
		"datagrams": {rule("tcp", through) + rule("udp", "reject"), both, "True False", "it has datagram sockets made in the egress at socket(2)", "True False"},
		"streams":   {rule("tcp", "reject") + rule("udp", through), both, "False True", "it has stream sockets made in the egress at socket(2)", "False True"},
		"fewer":     {both, rule("tcp", through) + rule("udp", "direct"), "True True", "policy reloaded", "True False"},
	} {
		t.Run(name, func(t *testing.T) {
			write(c.before)
			events := filepath.Join(dir, name)
			// 71 is SO_NETNS_COOKIE, and AF_INET6 sockets are made in the origin.
			cmd := upconv(t, "run", "--netns", l.origin, "--config", file, "--swap-at", "socket", "--udp", "connected", "--events", events, "--", needProgram(t, python), "-uc", `
import socket, sys
def cookie(*what): return socket.socket(*what).getsockopt(socket.SOL_SOCKET, 71, 8)
for line in sys.stdin:
    print(*(cookie(socket.AF_INET, kind) != cookie(socket.AF_INET6, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)))
`)
			stdin, lines, log := converse(t, cmd)
			ask := func(want string) {
				t.Helper()
				fmt.Fprintln(stdin)
				if !lines.Scan() || lines.Text() != want {
					t.Errorf("%q, want %q\n%s", lines.Text(), want, log.String())
				}
			}
			ask(c.made)
			write(c.after)
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			var text []byte
			if !soon(func() bool {
				text, _ = os.ReadFile(events)
				return strings.Contains(string(text), `"call":"reload"`)
			}) || !strings.Contains(string(text), c.want) {
				t.Errorf("it does not say that %s\n%s%s", c.want, text, log.String())
			}
			ask(c.then)
			stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, log.String())
			}
		})
	}
}

// converse starts a command that answers lines with lines, and ends it with the test. stderr is
// what it complains of.
func converse(t *testing.T, cmd *exec.Cmd) (stdin io.WriteCloser, lines *bufio.Scanner, stderr *buffer) {
	t.Helper()
	stderr = &buffer{}
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return stdin, bufio.NewScanner(stdout), stderr
}
