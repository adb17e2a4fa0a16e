package integration

import (
	"io"
	"net"
	"strings"
	"testing"
)

// TestErrorQueue compares what comes out of the error queue of a TCP socket natively and over IPv6.
func TestErrorQueue(t *testing.T) {
	n := newNAT64(t)
	server := n.listen(serverAddr + ":0")
	go keep(server, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	_, port := split(t, server.Addr().String())
	closed := n.listen(serverAddr + ":0")
	_, closedPort := split(t, closed.Addr().String())
	closed.Close()
	for abi, flags := range map[string][]string{"amd64": {"-static"}, "i386": {"-static", "-m32"}} {
		probe := compileC(t, "errqueue_probe.c", append([]string{"gcc"}, flags...)...)
		args := []string{probe, serverAddr, port, closedPort}
		for _, route := range []string{"nat64:" + nat64Prefix, "inet6:2001:db8:64::cb00:710a"} {
			t.Run(abi+"/"+strings.SplitN(route, ":", 2)[0], func(t *testing.T) {
				native := output(t, n.in(n.egress, args...))
				for _, line := range []string{"empty: -1 EAGAIN", "zero copy: 0  flags 2000", "  level 0 type 11 length 32: 0 origin 5", "timestamp: 0  flags 2000"} {
					if !strings.Contains("\n"+native, "\n"+line) {
						t.Errorf("natively it did not say %q: this test cannot tell anything\n%s", line, native)
					}
				}
				cmd, _ := n.via(route, args...)
				sameOutput(t, native, output(t, cmd))
			})
		}
	}
}
