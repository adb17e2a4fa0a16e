package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upconv/upconv/nsdial"
)

// TestSwapBind is about sockets that are bound before they are connected.
func TestSwapBind(t *testing.T) {
	const own = "192.0.2.50" // the egress's second address
	o := newOutskirts(t)
	o.tag(t)
	output(t, command(t, "ip", "-n", o.egress, "addr", "add", own+"/32", "dev", "lo"))
	second := o.listen(serverAddr + ":0")
	say(second, "second")
	_, port2 := split(t, second.Addr().String())
	compareSwaps(t, o.lab, "swap_bind.c", serverAddr+":"+o.port, []swapCase{
		{name: "list", args: []string{"list", "20000", own}, want: "bind 192.0.2.1: 0; greeting: hello " + own + "; in the range: 1; connected: the port; connected: a port"},
		{name: "one port, two destinations", args: []string{"pair", "20100", port2}, want: "connect: -1 EADDRNOTAVAIL"},
		{name: "retry", args: []string{"retry", "20200", o.closed}, want: "refused: -1 ECONNREFUSED; port: the port; bind 0.0.0.0: EINVAL; connect: 0"},
	})

	probe := compileC(t, "swap_bind.c", "gcc", "-static", "-pthread")
	run := func(addr, port string) (out, events string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "events")
		_, out = status(t, upconv(t, "run", "--netns", o.origin, "--via", "netns:"+o.egress, "--events", file, "--", probe, "only", serverAddr, o.port, addr, port))
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return out, string(text)
	}
	t.Run("an address that only the origin has", func(t *testing.T) {
		const home = "198.51.100.77"
		output(t, command(t, "ip", "-n", o.origin, "addr", "add", home+"/32", "dev", "lo"))
		out, events := run(home, "20301")
		if want := "bind 198.51.100.77: 0\nconnect: 0\nport: the port\ngreeting: hello " + egressAddr + "\n"; !strings.HasPrefix(out, want) {
			t.Errorf("got\n%swant\n%s", out, want)
		}
		if !strings.Contains(events, home) {
			t.Errorf("no event says that %s is not the address any more:\n%s", home, events)
		}
	})
	t.Run("a port that somebody has in the egress", func(t *testing.T) {
		egress, err := nsdial.OpenName(o.egress)
		if err != nil {
			t.Fatal(err)
		}
		defer egress.Close()
		listener, err := egress.Listen(context.Background(), "tcp", "0.0.0.0:20302")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		out, events := run("0.0.0.0", "20302")
		if !strings.Contains(out, "connect: -1 EADDRINUSE\nport: the port\n") && !strings.Contains(out, "bind 0.0.0.0: EADDRINUSE\n") {
			t.Errorf("got\n%swant EADDRINUSE and the socket as it was", out)
		}
		if strings.Contains(out, "connect: ") && !strings.Contains(events, "EADDRINUSE") {
			t.Errorf("no event with EADDRINUSE:\n%s", events)
		}
	})
}
