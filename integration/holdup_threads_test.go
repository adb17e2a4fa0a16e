package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// greedyClient has more threads wait in calls for each of which upconv needs a thread than there
// can be. Each is a connect(2) to a rejected address with a socket that is connecting already.
// Another process then makes one such call.
const greedyClient = `
import os, socket, struct, subprocess, sys, threading, time
host, threads = sys.argv[1], int(sys.argv[2])
def wait(s):
    s.setblocking(True)
    try: s.connect(("192.0.2.99", 9))
    except OSError as e: return e
def connecting():
    s = socket.socket(); s.setblocking(False); s.connect_ex((host, 7001)); return s
if threads == 1:
    s = connecting(); s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200000)); wait(s)
    print("the other one has waited", flush=True)
    sys.exit()
threading.stack_size(65536)
sockets = [connecting() for i in range(threads)]
for s in sockets: threading.Thread(target=wait, args=(s,), daemon=True).start()
def states(): return [open("/proc/self/task/%s/syscall" % t).read().split()[0] for t in os.listdir("/proc/self/task")]
connect = sys.argv[3]
while states().count(connect) < threads: time.sleep(0.2)
print("all wait", flush=True)
try: subprocess.run([sys.executable, "-c", sys.argv[4], host, "1"], timeout=20)
finally: os._exit(0)
`

// listenWithoutRoom has the server listen with a backlog that is full, so that it answers nobody.
func (l *lab) listenWithoutRoom(addr string) {
	l.t.Helper()
	conn, err := l.listen(addr).(*net.TCPListener).SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { unix.Listen(int(fd), 0) })
	}
	if err != nil {
		l.t.Fatal(err)
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if conn, err := l.server.DialContext(ctx, "tcp", addr); err == nil {
			l.t.Cleanup(func() { conn.Close() })
		}
	}
}

// TestHoldupThreads has one process wait in more calls than upconv has threads for. Another one
// gets a thread all the same.
func TestHoldupThreads(t *testing.T) {
	needRoot(t)
	w := newCaseWay(t, "netns", "no bpf")
	w.listenWithoutRoom(serverAddr + ":7001")
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("version: 1\negress: [{to: 192.0.2.99, via: reject}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := w.upconv([]string{"--config", file}, needProgram(t, python), "-c", greedyClient, serverAddr, "600", fmt.Sprint(unix.SYS_CONNECT), greedyClient)
	_, lines, complaints := converse(t, cmd)
	for _, want := range []string{"all wait", "the other one has waited"} {
		if !lines.Scan() || lines.Text() != want {
			cmd.Process.Signal(syscall.SIGKILL)
			t.Fatalf("it says %q, want %q\n%s", lines.Text(), want, complaints.String())
		}
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
