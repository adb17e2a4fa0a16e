package integration

import (
	"testing"
)

// TestSendWithoutPort sends where no port is left for a socket that has none: natively that is
// EAGAIN at once, and no reason to wait for room, which there is.
func TestSendWithoutPort(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		full := w.egress
		if w.route == "nat64" { // the sockets are of the origin
			full = w.origin
		}
		output(t, w.in(full, "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=40000 40003"))
		holder := w.in(full, needProgram(t, python), "-c", `import socket, sys
held = []
for port in range(40000, 40004):
	s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", port)); held.append(s)
print("full", flush=True)
sys.stdin.read()
`)
		in, out := pipes(t, holder)
		if out.Scan(); out.Text() != "full" {
			t.Fatal("the ports cannot be used up")
		}
		const send = `import errno, signal, socket, sys
signal.alarm(5)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: print(s.sendto(b"x", (sys.argv[1], int(sys.argv[2]))))
except OSError as e: print(errno.errorcode[e.errno])
`
		args := []string{python, "-c", send, serverAddr, echoPort}
		if w.route != "nat64" {
			if got := output(t, w.native(args...)); got != "EAGAIN\n" {
				t.Errorf("natively it says %q", got)
			}
		}
		if got := output(t, w.upconv(nil, args...)); got != "EAGAIN\n" {
			t.Errorf("it says %q", got)
		}
		in.Close()
		holder.Wait()
		if got := output(t, w.upconv(nil, args...)); got != "1\n" {
			t.Errorf("with free ports it says %q", got)
		}
	})
}
