package integration

import (
	"slices"
	"testing"
)

// TestTraced has a thread wait on a UDP socket while another one sends the first datagram through
// it. The answer comes, also if the program has a tracer, and if it is another process with the
// same descriptor table that waits.
func TestTraced(t *testing.T) {
	probe := staticC(t, "traced_probe.c")
	strace := []string{needProgram(t, "strace"), "-f", "-qq", "-o", "/dev/null"}
	forEachWay(t, func(t *testing.T, w *caseWay) {
		for _, c := range []struct {
			who    string
			tracer []string
			waits  []string
		}{
			{"thread", nil, []string{"recvfrom"}},
			{"thread", strace, []string{"recvfrom", "recvmsg", "read", "poll", "select", "epoll"}},
			{"process", nil, []string{"recvfrom", "poll"}},
			{"process", strace, []string{"recvfrom", "select"}},
		} {
			for _, wait := range c.waits {
				cmd := w.upconv(nil, append(slices.Clone(c.tracer), probe, wait, c.who, serverAddr, echoPort)...)
				if got := output(t, cmd); got != "received 3\n" {
					t.Errorf("%v: it says %q", cmd, got)
				}
			}
		}
	})
}
