package integration

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/upconv/upconv/nsdial"
)

// TestSwapAgain connects one socket more than once.
func TestSwapAgain(t *testing.T) {
	o := newOutskirts(t)
	o.tag(t)
	quiet := o.listen(serverAddr + ":0")
	hold(quiet)
	greet := serverAddr + ":" + o.port
	compareSwaps(t, o.lab, "swap_again.c", greet, []swapCase{
		{name: "retry", args: []string{"retry", o.closed}, need: needBPF, want: "refused: -1 ECONNREFUSED; port: the bound one; connect once more: -1 EISCONN; AF_UNSPEC: 0"},
		{name: "shutdown when connected", args: []string{"shutdown-connected"}, want: "connect after shutdown: -1 EISCONN; connect anew: 0"},
		{name: "steps, blocking", args: []string{"steps", "inet", "blocking", serverAddr, o.closed, serverAddr, o.port, serverAddr, o.port, "unspec", serverAddr, o.port, "shutdown", "unspec", serverAddr, o.closed},
			want: "connect: -1 ECONNREFUSED; connect: -1 EISCONN; epoll: 1 4; the other number: the same socket"},
		{name: "steps, non-blocking", args: []string{"steps", "inet6", "non-blocking", serverAddr, o.closed, serverAddr, o.port, serverAddr, o.port, "unspec", serverAddr, o.port},
			want: "connect: ECONNABORTED at first; connect: -1 EISCONN; epoll: 1 4"},
	})
	compareSwaps(t, o.lab, "swap_again.c", quiet.Addr().String(), []swapCase{
		{name: "shutdown before connect", args: []string{"shutdown"}, need: needBPF, want: "shutdown: -1 ENOTCONN; send: -1 EPIPE; recv: 0; recv: -1 EAGAIN"},
	})
	compareSwaps(t, o.lab, "swap_again.c", dropped+":80", []swapCase{
		{name: "pending", args: []string{"pending", serverAddr, o.port}, want: "again: -1 EALREADY; elsewhere: -1 EALREADY; elsewhere once more: -1 EISCONN; greeting: hello 192.0.2.1"},
		{name: "interrupted", args: []string{"interrupted"}, want: "connect: -1 EINTR; SO_ERROR: ETIMEDOUT"},
	})
}

// TestSwapRoutes takes one socket from one route to another and back to direct, with all that it
// has.
func TestSwapRoutes(t *testing.T) {
	const otherAddr, otherServer = "198.51.100.65", "198.51.100.66"
	o := newOutskirts(t)
	o.tag(t)
	other := o.egress + "2"
	makeNamespace(t, other)
	link(t, other, otherAddr+"/26", o.serverName, otherServer+"/26", "0.0.0.0/0")
	second := o.listen(serverAddr + ":0")
	say(second, "second")
	_, port2 := split(t, second.Addr().String())
	six := o.listen("[" + serverAddr6 + "]:0")
	say(six, "six")
	_, port6 := split(t, six.Addr().String())
	// The loopback of the origin, and not of an egress.
	origin, err := nsdial.OpenName(o.origin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	home, err := origin.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() })
	say(home, "home")
	_, port0 := split(t, home.Addr().String())

	rules := []string{
		"--rule", serverAddr + ":" + port2 + "=netns:" + other,
		"--rule", serverAddr + ":1001=reject:EACCES",
		"--rule", serverAddr + ":1002=direct",
	}
	// What can be done there, an egress must do natively, or the test cannot tell anything.
	egress, err := nsdial.OpenName(o.egress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { egress.Close() })
	native, err := egress.Listen(context.Background(), "tcp", "127.0.0.1:"+port0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { native.Close() })
	say(native, "native")

	const (
		refused   = "connect: -1 ECONNREFUSED"
		connected = "connect: -1 EISCONN"
		first     = "greeting: hello " + egressAddr
		another   = "greeting: second " + otherAddr
		local     = "greeting: home 127.0.0.1"
		bySix     = "greeting: six " + originAddr6
	)
	probe := compileC(t, "swap_again.c", "gcc", "-static", "-pthread")
	for _, test := range []struct {
		name  string
		inet6 bool     // only
		steps []string // HERE, CLOSED, THERE, HOME, REJECT, DIRECT, NOBODY, SIX are destinations
		want  []string // these lines and no other results and greetings
	}{
		{"refused, then by another egress", false, []string{"CLOSED", "THERE"}, []string{refused, another}},
		{"there and back", false, []string{"THERE", "unspec", "HERE", "unspec", "THERE"}, []string{another, first, another}},
		{"connected is connected", false, []string{"HERE", "THERE", "HOME", "DIRECT", "REJECT"}, []string{first, connected, connected, connected, connected}},
		{"refused, then direct", false, []string{"CLOSED", "HOME"}, []string{refused, local}},
		{"connected, then direct", false, []string{"HERE", "unspec", "HOME", "unspec", "HERE"}, []string{first, local, first}},
		{"refused, then direct where there is no IPv4", false, []string{"CLOSED", "DIRECT", "HERE"}, []string{refused, "connect: -1 ENETUNREACH", first}},
		{"direct first", false, []string{"DIRECT", "THERE", "unspec", "HOME"}, []string{"connect: -1 ENETUNREACH", another, local}},
		{"refused, then rejected", false, []string{"CLOSED", "REJECT", "THERE"}, []string{refused, "connect: -1 EACCES", another}},
		{"pending, then given up", false, []string{"NOBODY", "unspec", "THERE"}, []string{another}},
		{"IPv6 afterwards", true, []string{"CLOSED", "SIX"}, []string{refused, bySix}},
		{"IPv6 between", true, []string{"HERE", "unspec", "SIX", "unspec", "THERE"}, []string{first, bySix, another}},
	} {
		for _, family := range []string{"inet", "inet6"} {
			for _, how := range []string{"blocking", "non-blocking"} {
				if test.inet6 && family == "inet" || slices.Contains(test.steps, "NOBODY") && how == "blocking" {
					continue
				}
				t.Run(test.name+", "+family+" "+how, func(t *testing.T) {
					args := []string{"run", "--netns", o.origin, "--via", "netns:" + o.egress}
					args = append(append(args, rules...), "--", probe, "steps", serverAddr, o.port, family, how)
					for _, step := range test.steps {
						to := map[string][]string{
							"HERE": {serverAddr, o.port}, "CLOSED": {serverAddr, o.closed}, "THERE": {serverAddr, port2}, "HOME": {"127.0.0.1", port0},
							"REJECT": {serverAddr, "1001"}, "DIRECT": {serverAddr, "1002"}, "NOBODY": {dropped, "80"}, "SIX": {serverAddr6, port6},
						}[step]
						if to == nil {
							to = []string{step}
						}
						args = append(args, to...)
					}
					command := slices.Clone(args[slices.Index(args, "--")+1:])
					if !slices.ContainsFunc(test.steps, func(step string) bool { return step == "REJECT" || step == "DIRECT" || step == "SIX" }) {
						want := slices.Clone(test.want)
						for i := range want {
							want[i] = strings.NewReplacer(another, "greeting: second "+egressAddr, local, "greeting: native 127.0.0.1").Replace(want[i])
						}
						_, out := status(t, o.in(o.egress, command...))
						if got, odd := tellSteps(out); !slices.Equal(got, want) || odd != nil {
							t.Errorf("natively %q %q: this test cannot tell anything\n%s", got, odd, out)
						}
					}
					_, out := status(t, upconv(t, args...))
					got, odd := tellSteps(out)
					if !slices.Equal(got, test.want) {
						t.Errorf("got %q, want %q", got, test.want)
					}
					for _, line := range odd {
						t.Errorf("not as before: %s", line)
					}
					if t.Failed() {
						t.Log(out)
					}
				})
			}
		}
	}
}

// tellSteps returns what came of the steps of swap_again, and what was not as it was before them.
func tellSteps(out string) (results, odd []string) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "connect: -1 ") || strings.HasPrefix(line, "greeting: "):
			results = append(results, line)
		case strings.HasPrefix(line, "options: ") && !strings.HasPrefix(line, "options: 1 1 77 28 60000 "),
			strings.HasPrefix(line, "the other number: ") && !strings.HasSuffix(line, "the same socket"),
			strings.HasPrefix(line, "epoll: ") && line != "epoll: 1 4",
			strings.HasPrefix(line, "EPOLL_CTL_MOD: "):
			odd = append(odd, line)
		}
	}
	if !strings.HasSuffix(out, "end\n") {
		odd = append(odd, "no end")
	}
	return results, odd
}
