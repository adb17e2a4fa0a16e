package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNotes sees that events say what upconv cannot do for a socket.
func TestNotes(t *testing.T) {
	l := newLab(t)
	python3 := needProgram(t, python)
	host, port := split(t, l.greet())
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for parent := filepath.Dir(dir); parent != "/tmp" && parent != "/"; parent = filepath.Dir(parent) {
		os.Chmod(parent, 0o755) // an ordinary user writes there
	}
	const connect = `
def connect(s):
    s.settimeout(10)
    try: s.connect((sys.argv[1], int(sys.argv[2])))
    except OSError as e: print(e.errno)
`
	for _, c := range []struct {
		name, program string
		user          bool
		want          []string // in the event
	}{
		{name: "a copy in another process", program: `
s = socket.socket(); r, w = os.pipe(); pid = os.fork()
if pid == 0: os.read(r, 1); os._exit(0)
connect(s); os.write(w, b"x"); os.waitpid(pid, 0)`,
			want: []string{`"result":"ok"`, "another process has a copy of the socket"}},
		{name: "an interface", program: `s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, 25, b"lo"); connect(s)`,
			want: []string{`"result":"ok"`, "not carried over: SO_BINDTODEVICE"}},
		{name: "nothing", program: `connect(socket.socket())`, want: []string{`"result":"ok"`, `"duration_us":`}},
		{name: "not dumpable", user: true, program: `
import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
connect(socket.socket())`,
			want: []string{`"result":"EPERM"`, "not served, the call stays native"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-"))
			program := []string{"--", python3, "-c", "import os, socket, sys" + connect + c.program, host, port}
			cmd := upconv(t, append([]string{"run", "--events", file, "--netns", l.origin, "--via", "netns:" + l.egress}, program...)...)
			if c.user {
				args := append(ordinaryUser(t), bin, "run", "--events", file, "--via", "netns:host")
				cmd = l.in(l.egress, append(args, program...)...)
			}
			output(t, cmd)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(string(text), want) {
					t.Errorf("no %s in %s", want, text)
				}
			}
			if c.name == "nothing" && strings.Contains(string(text), `"note"`) {
				t.Errorf("there is nothing to note: %s", text)
			}
		})
	}
}

// TestNoteCgroup has the program go to another cgroup of version 2 than upconv's.
func TestNoteCgroup(t *testing.T) {
	l := newLab(t)
	root := mounted(t, "cgroup2", "")
	group := makeCgroup(t, root)
	host, port := split(t, l.greet())
	file := filepath.Join(t.TempDir(), "events")
	client := join(filepath.Join(group, "cgroup.procs"), static(t, "client_connect.c"), "connect", host, port)
	output(t, upconv(t, append([]string{"run", "--events", file, "--netns", l.origin, "--via", "netns:" + l.egress, "--"}, client...)...))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "the new socket belongs to upconv's cgroup v2") {
		t.Errorf("no word of it: %s", text)
	}
}
