package integration

import "testing"

// TestClosed closes sockets right after they are connected: then nobody else may have them open any
// more. The policy swaps loopback connections for others of the same namespace, so that one program
// is both ends.
func TestClosed(t *testing.T) {
	l := newLab(t)
	python3 := needProgram(t, python)
	const program = `
import socket, struct, sys
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(128)
closed = reset = free = 0
for i in range(200):
    c = socket.socket(); c.connect(listener.getsockname())
    if i % 2: c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
    a, _ = listener.accept(); a.setblocking(False)
    try: closed += a.recv(1) == b""
    except ConnectionResetError: reset += 1
    except BlockingIOError: pass
    a.close()
    c = socket.socket(); c.setblocking(False)
    c.connect_ex(listener.getsockname()); c.close()
    a, _ = listener.accept(); a.setblocking(False)
    try: free += a.recv(1) == b""
    except BlockingIOError: pass
    a.close()
print(closed, reset, free)
`
	const want = "100 100 200\n"
	if got := output(t, l.plain(python3, "-c", program)); got != want {
		t.Fatalf("natively %q, not %q: this test cannot tell anything", got, want)
	}
	got := output(t, upconv(t, "run", "--netns", l.origin, "--rule", "127.0.0.0/8=netns:"+l.origin, "--", python3, "-c", program))
	if got != want {
		t.Errorf("closed, reset, closed without waiting: %q, want %q", got, want)
	}
}
