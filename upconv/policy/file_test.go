package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/upconv/upconv/upconv/nat64"
)

const designExample = `version: 1
egress:
  - to: [10.0.0.0/8, 192.168.0.0/16]
    via: direct
  - to: 203.0.113.7
    ports: 443, 8000-8999
    proto: tcp
    via: unix:/run/mesh/payments.sock
  - to: 0.0.0.0/0
    via: nat64:2001:db8:64::/96
`

func TestParsePolicyFile(t *testing.T) {
	for _, c := range []struct {
		text    string
		rules   string // with the lines they are from
		eam     string
		written int
	}{
		{designExample, "3 10.0.0.0/8=direct; 3 192.168.0.0/16=direct; 5 203.0.113.7:443/tcp=unix:/run/mesh/payments.sock; " +
			"5 203.0.113.7:8000-8999/tcp=unix:/run/mesh/payments.sock; 9 0.0.0.0/0=nat64:2001:db8:64::/96", "", 3},
		{"version: 1\n", "", "", 0},
		{"\ufeffversion: 1\r\negress: []\r\n", "", "", 0},
		{"---\nversion: 1\n...\n", "", "", 0},
		{"# a policy\nversion: 1\negress:\n- {to: '*', via: reject:ECONNREFUSED, proto: udp, ports: 0}\n", "4 *:0/udp=reject:ECONNREFUSED", "", 1},
		{"version: 1\negress:\n- to: 10.0.0.0/8 , 192.0.2.1\n  ports: [1, 2-3, '4']\n  via: netns:blue\n",
			"3 10.0.0.0/8:1=netns:blue; 3 10.0.0.0/8:2-3=netns:blue; 3 10.0.0.0/8:4=netns:blue; " +
				"3 192.0.2.1:1=netns:blue; 3 192.0.2.1:2-3=netns:blue; 3 192.0.2.1:4=netns:blue", "", 1},
		{`{"version": 1, "egress": [{"to": ["*"], "ports": [443], "via": "unix:@mesh?proxy=v2"}]}`, "1 *:443=unix:@mesh?proxy=v2", "", 1},
		{"version: 1\negress:\n- to: 127.0.0.53\n  via: inet6:fe80::1%eth0\n- to: '*'\n  via: direct\n", "3 127.0.0.53=inet6:fe80::1%eth0; 5 *=direct", "", 2},
		{"version: 1\neam:\n- {ipv4: 192.0.2.0/24, ipv6: 2001:db8:aaaa::/120}\n- ipv4: 198.51.100.1\n  ipv6: 2001:db8::1\n", "",
			"192.0.2.0/24 <-> 2001:db8:aaaa::/120; 198.51.100.1/32 <-> 2001:db8::1/128", 0},
	} {
		f, err := ParseFile("p.yaml", []byte(c.text))
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		var rules, eam []string
		for _, r := range f.Rules {
			rules = append(rules, fmt.Sprint(r.From.Line, " ", r))
			if r.From.File != "p.yaml" {
				t.Errorf("%q: rule from %v", c.text, r.From)
			}
		}
		for _, m := range f.Mappings {
			eam = append(eam, m.String())
		}
		if got := strings.Join(rules, "; "); got != c.rules {
			t.Errorf("%q: rules\n%s, want\n%s", c.text, got, c.rules)
		}
		if got := strings.Join(eam, "; "); got != c.eam || f.Written != c.written {
			t.Errorf("%q: %d rules and mappings %s, want %d and %s", c.text, f.Written, got, c.written, c.eam)
		}
	}
}

func TestPolicyFileModes(t *testing.T) {
	for text, want := range map[string]File{
		"":                                  {},
		"udp: full\n":                       {},
		"udp: off\n":                        {UDP: UDPOff},
		"udp: 'off'\n":                      {UDP: UDPOff},
		"udp: connected\nswapAt: connect\n": {UDP: UDPConnected},
		"swapAt: socket\negress: [{to: '*', via: netns:blue}]\n":   {SwapAt: SwapAtSocket},
		"swapAt: socket\negress: [{to: 192.0.2.1, via: direct}]\n": {SwapAt: SwapAtSocket}, // a flag may have the namespace
	} {
		f, err := ParseFile("p.yaml", []byte("version: 1\n"+text))
		if err != nil || f.UDP != want.UDP || f.SwapAt != want.SwapAt {
			t.Errorf("%q: %+v, %v", text, f, err)
		}
	}
}

// Each error is LINE:COLUMN+WIDTH and a part of what it says.
func TestPolicyFileErrors(t *testing.T) {
	rule := func(lines string) string { return "version: 1\negress:\n" + lines }
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", []string{"1:1+1 nothing in it"}},
		{"# nothing\n", []string{"1:1+1 nothing in it"}},
		{"---\n", []string{"2:1+1 a policy is a mapping, with the keys version, egress, eam"}},
		{"- a\n", []string{"1:1+1 a policy is a mapping"}},
		{"egress: []\n", []string{`1:1+1 a policy needs "version", for example version: 1`}},
		{"version: 2\n", []string{"1:10+1 knows version 1"}},
		{"version: '1'\n", []string{"1:10+3 knows version 1"}},
		{"version: 1.0\n", []string{"1:10+3 knows version 1"}},
		{"version:\n", []string{"1:9+1 version has no value; for example version: 1"}},
		{"version: [1]\n", []string{"1:10+1 version is one value"}},
		{"Version: 1\n", []string{`1:1+7 unknown key "Version"; did you mean "version"?`}},
		{"version: 1\negres: []\n", []string{`2:1+5 unknown key "egres"; did you mean "egress"?`}},
		{"version: 1\nrules: []\n", []string{`2:1+5 unknown key "rules"; did you mean "egress"?`}},
		{"version: 1\ncolour: red\n", []string{`2:1+6 unknown key "colour"; a policy has the keys version, egress, eam`}},
		{"version: 1\nversion: 1\n", []string{`2:1+7 "version" is there already, on line 1`}},
		{"version: 1\n---\nversion: 1\n", []string{"3:1+1 a second document"}},
		{"version: 1\n---\n", []string{"3:1+1 a second document"}},
		{"version: 1\n---\n]", []string{"3:1+1 not YAML"}},
		{"? [a]\n: b\nversion: 1\n", []string{"1:3+1 not a key"}},
		{"version: 1\na: \xff\n", []string{"2:4+1 not UTF-8"}},
		{"\xff\xfev\x00e\x00r\x00", []string{"1:1+1 not UTF-8"}},
		{"version: 1 # \x1b[31m\n", []string{"1:14+1 a control character, U+001B"}},
		{"version: 1 # \u2028\n", []string{"1:14+1 a control character, U+2028"}},
		{"version: 1\nversion: [\n", []string{"2:11+1 not YAML"}},
		{"version: 1\negress: [{to: '*', via: direct\n", []string{"2:31+1 not YAML: did not find expected ',' or '}', while parsing a flow mapping that begins on line 2"}},
		{rule("\t- to: a\n"), []string{"3:1+1 by spaces, not by tabs"}},
		{rule("- to: *\n  via: direct\n"), []string{`3:7+1 "*", with the quotes`}},
		{rule("- to: *all\n  via: direct\n"), []string{`3:7+1 "*", with the quotes`}},
		{rule("- to: '*'\n  via: netns: blue\n"), []string{"4:13+1 written without the space, as in via: netns:blue"}},
		{rule("- to: '*'\n  via: {netns: blue}\n"), []string{"4:8+1 without a space behind its colon"}},

		{"version: 1\negress: {to: '*'}\n", []string{"2:9+1 egress is a list of rules, each with a dash"}},
		{"version: 1\negress:\n", []string{"2:8+1 egress is a list"}},
		{"version: 1\neam: 1\n", []string{"2:6+1 eam is a list of mappings"}},
		{rule("-\n- x\n- [a]\n"), []string{"3:2+1 a rule is a mapping, with the keys to, ports, proto, via", "4:3+1 a rule is", "5:3+1 a rule is"}},
		{rule("- {}\n"), []string{`3:3+1 a rule needs "to"`, `3:3+1 a rule needs "via", for example via: netns:NAME`}},
		{rule("- {dest: '*', route: direct, port: 1, protocol: tcp}\n"), []string{`3:4+4 did you mean "to"?`, `3:15+5 did you mean "via"?`, `3:30+4 did you mean "ports"?`, `3:39+8 did you mean "proto"?`}},
		{rule("- {to: '*', via: direct, to: 192.0.2.1}\n"), []string{`3:26+2 "to" is there already, on line 3`}},
		{rule("- {to: [], via: direct, ports: []}\n"), []string{"3:8+1 an empty list", "3:32+1 an empty list"}},
		{rule("- {to: , via: }\n"), []string{"3:8+1 to has no value", "3:15+1 via has no value"}},
		{rule("- {to: [[a]], via: [direct]}\n"), []string{"3:9+1 to is one value", "3:20+1 via is one value"}},

		{rule("- to: 10.0.0.1/8\n  via: direct\n"), []string{"3:7+10 has bits set beyond its length; meant 10.0.0.0/8 or 10.0.0.1?"}},
		{rule("- to: ['10.0.0.1/8', \"10.0.0.0/33\"]\n  via: direct\n"), []string{"3:9+10 bits set", "3:32+2 prefix length from 0 to 32"}},
		{rule("- to: \"10.0.0.1\\x2f8\"\n  via: direct\n"), []string{"3:7+12 bits set"}},
		{rule("- to: example.com, 2001:db8::1, 10.0.0.0/33\n  via: direct\n"), []string{"3:7+11 names are not looked up", "3:20+11 destinations are IPv4", "3:42+2 prefix length"}},
		{rule("- to: 10.0.0.1:443\n  via: direct\n"), []string{"3:7+12 a key of their own: to: 10.0.0.1, and ports: 443"}},
		{rule("- to: '*:443/tcp'\n  via: direct\n"), []string{`3:8+9 a key of their own: to: "*", and ports: 443`}},
		{rule("- to: 10.0.0.0/8,\n  via: direct\n"), []string{"3:18+1 no address"}},
		{rule("- {to: '*', via: direct, ports: 70000}\n"), []string{"3:33+5 not a port from 0 to 65535"}},
		{rule("- {to: '*', via: direct, ports: [-1, 80-, 90-80, http, 0443, 1.5, true]}\n"),
			[]string{"3:34+2 not a port", "3:41+1 not a port", "3:43+5 ends before it begins", "3:50+4 not a port", "3:56+4 no leading zero: 443", "3:62+3 not a port", "3:67+4 not a port"}},
		{rule("- {to: '*', via: direct, proto: sctp}\n"), []string{"3:33+4 proto is tcp or udp"}},
		{rule("- {to: '*', via: bogus}\n"), []string{"3:18+5 no such route"}},
		{rule("- {to: '*', via: nat64:2001:db8::/33}\n"), []string{"3:35+2 RFC 6052 knows the lengths 32, 40, 48, 56, 64 and 96"}},
		{rule("- {to: '*', via: unix:/" + strings.Repeat("a", 107) + "}\n"), []string{"3:23+108 unix(7) allows 107"}},
		{rule("- {to: 'é', via: bogus}\n"), []string{"3:9+1 not an IPv4 address", "3:18+5 no such route"}},

		{rule("- {to: &a '*', via: direct}\n- {to: *a, via: direct}\n"), []string{"3:8+2 an anchor", "4:8+2 an alias"}},
		{rule("- {to: !!str '*', via: direct}\n"), []string{"3:8+5 a tag"}},
		{"version: 1\nx: &x {to: '*', via: direct}\negress:\n- <<: *x\n", []string{`2:1+1 unknown key "x"`, "4:3+2 a merge key"}},

		{rule("- {to: 10.0.0.0/8, via: direct}\n- {to: 10.1.0.0/16, via: reject}\n"), []string{"4:3+1 this rule never applies: the rule on line 3 already takes all of it"}},
		{rule("- {to: 10.0.0.0/9, via: direct}\n- {to: 10.128.0.0/9, via: direct}\n- {to: 10.0.0.0/8, via: reject}\n"), []string{"5:3+1 this rule never applies: the rules before it together"}},
		{rule("- {to: 10.0.0.0/8, via: direct}\n- {to: [10.1.0.0/16, 192.0.2.1], via: reject}\n"), []string{"4:9+11 10.1.0.0/16 never applies here: the rule on line 3"}},
		{rule("- {to: '*', ports: 80, via: direct}\n- {to: 192.0.2.1, ports: '443, 80', via: reject}\n"), []string{"4:32+2 port 80 never applies here: the rule on line 3"}},
		{rule("- {to: 10.0.0.0/8, via: direct}\n- {to: '*', ports: 80, via: direct}\n- {to: [10.1.0.0/16, 192.0.2.1], ports: 80, via: reject}\n"), []string{"5:3+1 the rules on lines 3 and 4 already take all of it"}},
		{rule("- {to: [10.0.0.0/8, 10.1.0.0/16], via: direct}\n"), []string{"3:21+11 the same rule already takes"}},

		{"version: 1\neam:\n- {ipv4: 192.0.2.0/24, ipv6: 2001:db8::/121}\n- {ipv4: 192.0.2.1/24, ipv6: x}\n", []string{"3:30+14 /120 would be as many", "4:30+1 not an IPv6 prefix"}},
		{"version: 1\neam:\n- {ipv4: 192.0.2.1/24, ipv6: 2001:db8::/120}\n- {ipv4: 2001:db8::1, ipv6: 192.0.2.1}\n", []string{"3:10+12 meant 192.0.2.0/24?", "4:10+11 not an IPv4 prefix", "4:29+9 not an IPv6 prefix"}},
		{"version: 1\neam:\n- {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\n- {ipv4: 192.0.2.1/32, ipv6: 2001:db8::2}\n- {ipv4: 192.0.2.3, ipv6: 2001:db8::1}\n", []string{"4:10+12 mapped already, on line 3", "5:27+11 mapped already, on line 3"}},
		{"version: 1\neam:\n- {v4: 192.0.2.1, ipv6: 2001:db8::1}\n- x\n", []string{`3:4+2 did you mean "ipv4"?`, "4:3+1 a mapping of eam is a mapping, with the keys ipv4, ipv6"}},

		{"version: 1\nudp: ful\n", []string{"2:6+3 not a value of udp; did you mean full?"}},
		{"version: 1\nudp: 'sometimes'\nswapAt: bind\n", []string{"2:6+11 not a value of udp; it is full, connected or off", "3:9+4 not a value of swapAt; it is connect or socket"}},
		{"version: 1\nudp: [off]\nswapAt:\n", []string{"2:6+1 udp is one value; for example udp: connected", "3:8+1 swapAt has no value; for example swapAt: socket"}},
		{"version: 1\nudp: false\nudp: off\n", []string{"2:6+5 did you mean off?", `3:1+3 "udp" is there already, on line 2`}},
		{"version: 1\nswap-at: socket\nswap_at: socket\nswapat: socket\nswapTo: socket\nUDP: off\n",
			[]string{`2:1+7 did you mean "swapAt"?`, `3:1+7 did you mean "swapAt"?`, `4:1+6 did you mean "swapAt"?`, `5:1+6 did you mean "swapAt"?`, `6:1+3 did you mean "udp"?`}},
		{"version: 1\nswapAt: socket\negress:\n- {to: 192.0.2.1, via: netns:a}\n- {to: 192.0.2.2, via: 'netns:b'}\n- to: '*'\n  via: nat64:auto\n",
			[]string{"5:25+7 not with swapAt: socket: a second namespace after a", "7:8+10 not with swapAt: socket: a socket of another family"}},
		{"version: 1\negress: [{to: '*', via: unix:/a}]\nswapAt: socket\n", []string{"2:25+7 not with swapAt: socket: a socket of another family"}},
		{"version: 1\n" + strings.Repeat("#", maxPolicyFile), []string{"1:1+1 longer than the 4 MiB"}},
		{rule("- to: [" + strings.Repeat("'*',", 400) + "]\n  ports: [" + strings.Repeat("1,", 400) + "]\n  via: direct\n"), []string{"3:3+1 more than 100000 combinations"}},
	} {
		f, err := ParseFile("p.yaml", []byte(c.text))
		short := c.text[:min(len(c.text), 200)]
		var errs FileErrors
		if !errors.As(err, &errs) || f != nil {
			t.Errorf("%q: error %v", short, err)
			continue
		}
		if len(errs) != len(c.want) {
			t.Errorf("%q: %d errors, want %d:\n%v", short, len(errs), len(c.want), err)
			continue
		}
		for i, e := range errs {
			place, part, _ := strings.Cut(c.want[i], " ")
			if got := fmt.Sprintf("%d:%d+%d", e.Line, e.Column, e.Width); got != place || !strings.Contains(e.Msg, part) {
				t.Errorf("%q: error %s %s, want %s", short, got, e.Msg, c.want[i])
			}
			if shown := e.Error() + strings.Replace(e.Caret(), "\n", "", 1); strings.ContainsAny(shown, "\n\x1b") || !utf8.ValidString(shown) {
				t.Errorf("%q: not for a terminal: %q, %q", short, e.Error(), e.Caret())
			}
		}
	}
}

func TestFileErrorCaret(t *testing.T) {
	long := strings.Repeat("a", 1000)
	for _, c := range []struct {
		e    FileError
		want string
	}{
		{FileError{Source: "  - to: x", Column: 9, Width: 1}, "  - to: x\n        ^"},
		{FileError{Source: "\tto: é bad", Column: 8, Width: 3}, "\tto: é bad\n\t      ^^^"},
		{FileError{Source: "a\x1bb", Column: 3, Width: 1}, "a?b\n  ^"},
		{FileError{Source: "abc", Column: 9, Width: 5}, "abc\n   ^"},
		{FileError{Source: "", Column: 1, Width: 1}, "\n^"},
		{FileError{Source: long + "X" + long, Column: 1001, Width: 1}, "..." + long[:60] + "X" + long[:60] + "...\n" + strings.Repeat(" ", 63) + "^"},
	} {
		if got := c.e.Caret(); got != c.want {
			t.Errorf("%+v:\n%s\nwant\n%s", c.e, got, c.want)
		}
	}
}

func TestReadPolicyFile(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(good, []byte(designExample), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := ReadFile(good)
	if err != nil || f.Name != good || len(f.Rules) != 5 || f.Rules[0].From.String() != good+":3" {
		t.Errorf("%+v, %v", f, err)
	}
	for _, bad := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := ReadFile(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: error %v", bad, err)
		}
	}
}

// What is small may not become large, nor take long.
func TestPolicyFileBombs(t *testing.T) {
	laughs := "a0: &a0 [x, x]\n"
	for i := range 60 {
		laughs += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	merges := "version: 1\nm0: &m0 {a: b}\n"
	for i := range 60 {
		merges += fmt.Sprintf("m%d: &m%d {<<: [*m%d, *m%d]}\n", i+1, i+1, i, i)
	}
	hidden := "version: 1\negress:\n" + strings.Repeat("- {to: '*', via: direct}\n", 20000)
	for name, text := range map[string]string{
		"aliases": laughs, "merges": merges, "self": "a: &a [*a]\n", "hidden": hidden, "errors": "version: 1\negress:\n" + strings.Repeat("- x\n", 100000),
		"deep": strings.Repeat("[", 100000), "deep mappings": strings.Repeat("{a: ", 9000), "deep blocks": strings.Repeat("- ", 9000),
		"quotes": strings.Repeat("'", 1<<20), "keys": strings.Repeat("? ", 10000),
	} {
		began := time.Now()
		var errs FileErrors
		if _, err := ParseFile("p.yaml", []byte(text)); !errors.As(err, &errs) || len(errs) > maxFileErrors+1 {
			t.Errorf("%s: %d errors", name, len(errs))
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(designExample))
	f.Add([]byte("version: 1\neam:\n- {ipv4: 192.0.2.0/24, ipv6: 2001:db8:aaaa::/120}\n"))
	f.Add([]byte("version: 1\negress:\n- {to: ['*', 10.0.0.0/8], ports: '1,2', via: unix:@a?proxy=v2}\n- {to: 10.0.0.0/33, via: x}\n"))
	f.Add([]byte("version: 1\nudp: off\nswapAt: socket\negress: [{to: '*', via: netns:a}, {to: 10.0.0.0/8, via: inet6:::1}]\n"))
	f.Add([]byte("version: 1\n---\na: &a [*a, !!str x]\n"))
	f.Add([]byte("\ufeff{version: 1, egress: [{to: \"\\x2a\", via: 'reject'}]}\r\n# é\r"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ParseFile("p.yaml", text)
		if err == nil {
			for _, r := range file.Rules {
				again, err := ParseRule(r.String())
				again.From = r.From
				if err != nil || again != r {
					t.Fatalf("rule %q: %v", r, err)
				}
			}
			if hidden := HiddenRules(file.Rules); len(hidden) > 0 {
				t.Fatal(hidden[0])
			}
			if err := validate(text); err != nil {
				t.Fatalf("the schema refuses what the code takes: %v", err)
			}
			if _, err := nat64.NewMappings(file.Mappings); err != nil {
				t.Fatal(err)
			}
			return
		}
		var errs FileErrors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("error %v", err)
		}
		lines := len(splitLines(string(text)))
		for _, e := range errs {
			if e.Line < 1 || e.Line > lines || e.Column < 1 || e.Width < 1 || strings.Count(e.Caret(), "\n") != 1 {
				t.Fatalf("%#v\n%s", e, e.Caret())
			}
		}
	})
}

// The example of docs/routes.md is good, and works today.
func TestDocumentedPolicy(t *testing.T) {
	text, err := os.ReadFile("../../docs/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no policy in docs/routes.md")
	}
	f, err := ParseFile("routes.md", []byte(example))
	if err != nil || f.Written != 4 {
		t.Errorf("%v, %v", err, f)
	}
	if err := validate([]byte(example)); err != nil {
		t.Error(err)
	}
}
