package policy

import (
	"strings"
	"testing"
)

func TestParseModes(t *testing.T) {
	for i, name := range []string{"full", "connected", "off"} {
		if m, err := ParseUDPMode(name); err != nil || m != UDPMode(i) || m.String() != name {
			t.Errorf("%q: %v, %v", name, m, err)
		}
	}
	for i, name := range []string{"connect", "socket"} {
		if a, err := ParseSwapAt(name); err != nil || a != SwapAt(i) || a.String() != name {
			t.Errorf("%q: %v, %v", name, a, err)
		}
	}
	udp := func(s string) error { _, err := ParseUDPMode(s); return err }
	swapAt := func(s string) error { _, err := ParseSwapAt(s); return err }
	for _, c := range []struct {
		parse    func(string) error
		in, want string
	}{
		{udp, "", `UDP mode "": it is full, connected or off`},
		{udp, "sometimes", `UDP mode "sometimes": it is full, connected or off`},
		{udp, "ful", `UDP mode "ful": did you mean full?`},
		{udp, "Full", `UDP mode "Full": did you mean full?`},
		{udp, "connect", `UDP mode "connect": did you mean connected?`},
		{udp, "no", `UDP mode "no": did you mean off?`},
		{swapAt, "", `call to swap at "": it is connect or socket`},
		{swapAt, "bind", `call to swap at "bind": it is connect or socket`},
		{swapAt, "sockte", `call to swap at "sockte": did you mean socket?`},
		{swapAt, "CONNECT", `call to swap at "CONNECT": did you mean connect?`},
	} {
		err := c.parse(c.in)
		checkSyntaxError(t, c.in, 0, len(c.in), err)
		if err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.in, err, c.want)
		}
	}
	if UDPMode(9).String() != "9" || SwapAt(9).String() != "9" {
		t.Error("a mode that is none")
	}
}

func TestCheckSwapAt(t *testing.T) {
	for _, c := range []struct {
		rules, via, want string // part of the error; "" for none
	}{
		{"", "netns:blue", ""},
		{"192.0.2.1=netns:blue", "direct", ""},
		{"192.0.2.1=direct 192.0.2.2=reject:EPERM 192.0.2.3=netns:blue", "netns:blue", ""},
		{"", "direct", "no route is to a network namespace"},
		{"192.0.2.1=reject", "direct", "no route is to a network namespace"},
		{"", "nat64:auto", "the route of what no rule matches, nat64:auto: a socket of another family"},
		{"192.0.2.1=direct 192.0.2.2/udp=inet6:2001:db8::1", "netns:blue", `rule 2, "192.0.2.2/udp=inet6:2001:db8::1": a socket of another family`},
		{"192.0.2.1=unix:/run/a", "netns:blue", `rule 1, "192.0.2.1=unix:/run/a": a socket of another family`},
		{"192.0.2.1=netns:blue 192.0.2.2=netns:red", "direct", `rule 2, "192.0.2.2=netns:red": a second namespace after blue`},
		{"192.0.2.1=netns:blue", "netns:host", "the route of what no rule matches, netns:host: a second namespace after blue"},
	} {
		via, err := ParseRoute(c.via)
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(mustRules(t, strings.Fields(c.rules)...), via)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckSwapAt(SwapAtConnect); err != nil {
			t.Errorf("%q, %s: refused at connect(2): %v", c.rules, c.via, err)
		}
		err = p.CheckSwapAt(SwapAtSocket)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %s: %v, want %q", c.rules, c.via, err, c.want)
		}
	}

	// A rule of a file is named by its place.
	f, err := ParseFile("p.yaml", []byte("version: 1\negress:\n- {to: [192.0.2.1, 192.0.2.2], via: direct}\n- {to: '*', via: nat64:auto}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(f.Rules, Route{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckSwapAt(SwapAtSocket); err == nil || !strings.Contains(err.Error(), `rule 2, p.yaml:4: "*=nat64:auto": `) {
		t.Errorf("%v", err)
	}
}
