package integration

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// hold accepts connections, reads what comes and says nothing, until the client is done.
func hold(listener net.Listener) {
	each(listener, func(conn net.Conn) { io.Copy(io.Discard, conn) })
}

// TestOptions sets every option there is, one by one and all at once, and sees that every option
// reads as it does natively when the socket is connected.
func TestOptions(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	listener := l.listen(serverAddr + ":0")
	hold(listener)
	host, port := split(t, listener.Addr().String())
	probe := compileC(t, "options_probe.c", "gcc", "-static")
	for _, user := range []struct {
		name    string
		isolate bool // as an ordinary user; otherwise as root
		// want are some of the options that must be among those it finds.
		want []string
	}{
		{"root", false, []string{"SO_MARK", "SO_PRIORITY", "IP_TRANSPARENT", "TCP_REPAIR"}},
		{"user isolated", true, nil},
	} {
		for _, family := range []string{"inet", "inet6"} {
			for _, proto := range []string{"tcp", "mptcp"} {
				t.Run(fmt.Sprintf("%s/%s %s", user.name, family, proto), func(t *testing.T) {
					args := []string{probe, family, proto, host, port}
					native, under := l.in(l.egress, args...), l.under(args...)
					if user.isolate {
						native = l.in(l.egress, append(ordinaryUser(t), args...)...)
						under = l.in(l.egress, append(append(ordinaryUser(t), bin, "run", "--isolate", "--"), args...)...)
					}
					native.Dir, under.Dir = "/", "/"
					want := output(t, native)
					for _, name := range append([]string{"SO_KEEPALIVE", "SO_LINGER", "SO_SNDTIMEO", "SO_RCVBUF", "IP_TOS", "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_CONGESTION"}, user.want...) {
						if proto == "tcp" && !strings.Contains(want, "\n"+name+"=") {
							t.Errorf("natively %s was not found: this test cannot tell anything", name)
						}
					}
					if !strings.HasSuffix(want, "options\nend\n") {
						t.Errorf("natively it did not come to an end")
					}
					got := output(t, under)
					// First which options it is about; then the lines.
					var names []string
					for _, line := range differences(want, got) {
						if name, _, ok := strings.Cut(line[1:], "="); ok && !slices.Contains(names, name) {
							names = append(names, name)
						}
					}
					if len(names) > 0 {
						t.Errorf("not as natively after these were set: %s", strings.Join(names, " "))
					}
					sameOutput(t, want, got)
				})
			}
		}
	}
}
