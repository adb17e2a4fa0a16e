package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newUserSocket serves a Unix socket, streams or datagrams, with a mode and a group in a directory
// that everybody may search. It tells those who connect or send which user it sees them as. It is
// one of the namespace, where it finds who has sent.
func newUserSocket(t *testing.T, namespace, name, network string, mode os.FileMode, group int) string {
	t.Helper()
	dir := filepath.Join(scratch, t.Name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	address := &net.UnixAddr{Name: path, Net: network}
	if network == "unixgram" {
		var conn *net.UnixConn
		inNamespace(t, namespace, func() (err error) {
			conn, err = net.ListenUnixgram(network, address)
			return err
		})
		t.Cleanup(func() { conn.Close(); os.Remove(path) })
		go answerSenders(t, conn)
	} else {
		listener, err := net.ListenUnix(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		each(listener, func(conn net.Conn) {
			raw, _ := conn.(*net.UnixConn).SyscallConn()
			raw.Control(func(fd uintptr) {
				if who, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
					fmt.Fprintf(conn, "user %d group %d", who.Uid, who.Gid)
				}
			})
			conn.(*net.UnixConn).CloseWrite()
			io.Copy(io.Discard, conn)
		})
	}
	if err := os.Chown(path, 0, group); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// answerSenders tells the senders of datagrams which user they are, until the socket is closed.
func answerSenders(t *testing.T, conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	}
	if err != nil {
		t.Error(err)
		return
	}
	data, control := make([]byte, 100), make([]byte, 100)
	for {
		_, n, _, from, err := conn.ReadMsgUnix(data, control)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(control[:n])
		for i := range messages {
			if who, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
				conn.WriteTo(fmt.Appendf(nil, "user %d group %d", who.Uid, who.Gid), from)
			}
		}
	}
}

// TestUnixUser has programs of another user than upconv's, which is root, connect and send along
// routes to Unix sockets. They reach those that they may reach themselves, wherever links lead that
// they have put there, and are seen as who they are.
func TestUnixUser(t *testing.T) {
	w := newCaseWay(t, "nat64", "bpf")
	own := filepath.Join(t.TempDir(), "own") // a directory of the program's
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := own; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	if err := os.Chown(own, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	const group = 12345
	const script = `import socket, sys
kind = {"unix": socket.SOCK_STREAM, "unixgram": socket.SOCK_DGRAM}[sys.argv[2]]
s = socket.socket(socket.AF_INET, kind)
s.settimeout(5)
try:
    if kind == socket.SOCK_DGRAM:
        s.sendto(b"who", (sys.argv[1], 80))
    else:
        s.connect((sys.argv[1], 80))
    print(s.recv(100).decode())
except OSError as e:
    print(e.strerror)
`
	const denied = "Permission denied"
	users := map[string][]string{
		"root":          nil,
		"nobody":        {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"},
		"group":         {"setpriv", "--reuid=65534", "--regid=65534", "--groups=12345"},
		"nobody itself": {"setpriv", "--ruid=0", "--euid=65534", "--regid=65534", "--clear-groups"},
	}
	sockets := []struct {
		name  string
		mode  os.FileMode
		group int
		want  map[string]string
	}{
		{"everybody's", 0o666, 0, map[string]string{"root": "user 0 group 0", "nobody": "user 65534 group 65534", "group": "user 65534 group 65534", "nobody itself": "user 65534 group 65534"}},
		{"root's", 0o600, 0, map[string]string{"root": "user 0 group 0", "nobody": denied, "group": denied, "nobody itself": denied}},
		{"a group's", 0o660, group, map[string]string{"root": "user 0 group 0", "nobody": denied, "group": "user 65534 group 65534"}},
	}
	for _, network := range []string{"unix", "unixgram"} {
		for _, s := range sockets {
			path := newUserSocket(t, w.origin, network+strings.ReplaceAll(s.name, " ", ""), network, s.mode, s.group)
			link := filepath.Join(own, filepath.Base(path))
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			for user, want := range s.want {
				for _, route := range []string{link, link + "?root=target"} {
					cmd := w.upconv([]string{"--rule", serverAddr + "=unix:" + route}, append(users[user], needProgram(t, python), "-c", script, serverAddr, network)...)
					if got := strings.TrimSpace(output(t, cmd)); got != want {
						t.Errorf("%s, %s socket, %s, %s: %q, want %q", network, s.name, user, strings.TrimPrefix(route, filepath.Dir(own)), got, want)
					}
				}
			}
		}
	}
}
