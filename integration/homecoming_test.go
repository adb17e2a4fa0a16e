package integration

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/upconv/upconv/nsdial"
)

// TestHomecoming has sockets of an egress be disconnected, fail to connect, be bound and listen:
// none stays there.
func TestHomecoming(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		if w.route == "nat64" {
			return // its sockets are ones of the origin
		}
		got := output(t, w.upconv(nil, staticC(t, "homecoming_probe.c"), "steps", serverAddr, echoPort, "9"))
		want := `disconnected, length 0: Invalid argument, elsewhere
disconnected, length 1: Invalid argument, elsewhere
disconnected, length 2: 0, origin
disconnected, length 3: 0, origin
disconnected, length 15: 0, origin
disconnected, length 16: 0, origin
disconnected, length 17: 0, origin
disconnected, length 28: 0, origin
disconnected, length 128: 0, origin
refused, then bind: 0, origin
and listen: 0, origin
refused, then listen: 0, origin
refused over AF_INET6, then bind: 0, origin
and listen: 0, origin
datagrams, disconnected, then bind: 0, origin
an answer to another send: 5
`
		if got != want {
			t.Errorf("it says\n%s\nwant\n%s", got, want)
		}
	})
}

// TestHomecomingRace has a thread put a socket that is, or was, in an egress under the number of a
// direct connect. The egress's loopback has a server, which nobody reaches.
func TestHomecomingRace(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		if w.route == "nat64" {
			return
		}
		egress, err := nsdial.OpenName(w.egress)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { egress.Close() })
		loop, err := egress.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { loop.Close() })
		var arrived atomic.Int64
		each(loop, func(net.Conn) { arrived.Add(1) })
		_, port := split(t, loop.Addr().String())
		probe := compileC(t, "homecoming_probe.c", "gcc", "-pthread")
		for _, kind := range []string{"disconnected", "refused", "datagrams"} {
			got := output(t, w.upconv(nil, probe, "dup", serverAddr, acceptPort, port, "10000", kind))
			if strings.TrimSpace(got) != "moved: yes; reached: 0" || arrived.Load() != 0 {
				t.Errorf("%s: it says %q, and %d connections arrived", kind, got, arrived.Load())
			}
		}
	})
}
