package calls

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/policy"
	"github.com/upconv/upconv/upconv/policy/policytest"
)

var update = flag.Bool("update", false, "write what filters stop into testdata/stopped.golden")

// TestStopped compares what is stopped for some policies with a list. A line that appears there is
// a call that costs every program some microseconds more.
func TestStopped(t *testing.T) {
	const file = "testdata/stopped.golden"
	var got strings.Builder
	for _, c := range []struct {
		what, rule string
		udp        policy.UDPMode
		at         policy.SwapAt
		sees       bool
	}{
		{"direct", "0.0.0.0/0=direct", policy.UDPFull, policy.SwapAtSocket, true},
		{"reject", "0.0.0.0/0=reject", policy.UDPOff, policy.SwapAtConnect, true},
		{"netns", "0.0.0.0/0=netns:blue", policy.UDPOff, policy.SwapAtConnect, true},
		{"netns, without BPF", "0.0.0.0/0=netns:blue", policy.UDPOff, policy.SwapAtConnect, false},
		{"netns, udp full", "0.0.0.0/0=netns:blue", policy.UDPFull, policy.SwapAtConnect, true},
		{"netns, udp full, swapAt socket", "0.0.0.0/0=netns:blue", policy.UDPFull, policy.SwapAtSocket, true},
		{"nat64", "0.0.0.0/0=nat64:2001:db8::/96", policy.UDPOff, policy.SwapAtConnect, true},
		{"nat64, udp full", "0.0.0.0/0=nat64:2001:db8::/96", policy.UDPFull, policy.SwapAtConnect, true},
		{"unix", "0.0.0.0/0=unix:/run/x", policy.UDPOff, policy.SwapAtConnect, true},
		{"unix, udp full", "0.0.0.0/0=unix:/run/x", policy.UDPFull, policy.SwapAtConnect, true},
	} {
		rules, err := policy.New(policytest.Rules(t, c.rule), policy.Route{})
		if err != nil {
			t.Fatal(err)
		}
		n := session.NeedsOf(rules, c.udp)
		n.Sees = n.Swaps && c.sees
		n.MakeAtSocket(rules, c.at, true)
		fmt.Fprintf(&got, "%s:\n%s\n", c.what, list(Filter(n)))
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(want), "\n")
	for i, line := range strings.Split(got.String(), "\n") {
		if i >= len(lines) || line != lines[i] {
			t.Fatalf("%s:%d: the filter has %q (go test ./upconv -run TestStopped -update writes what it has)", file, i+1, line)
		}
	}
	if len(got.String()) != len(want) {
		t.Fatalf("%s has more than the filters", file)
	}
}

// TestCallsAreFound holds that the row of a call is found by its number wherever there is that
// call, and by nothing else.
func TestCallsAreFound(t *testing.T) {
	rows := map[string]*callRow{}
	for i := range calls {
		if row := &calls[i]; row.handle != nil {
			rows[row.name] = row
		}
	}
	native := seccompx.NativeArches()
	for _, arch := range everyArch {
		for nr := int32(-2000); nr < 2000; nr++ {
			name, _ := arch.SyscallName(uint32(nr))
			want := rows[name]
			if !slices.Contains(native, arch) {
				want = nil
			}
			if got := rowFor(arch, nr); got != want {
				t.Errorf("%v %d, which is %q, is taken for %+v", arch, nr, name, got)
			}
		}
	}
}

// TestSocketcalls compares what the table says of socketcall(2) with linux/net.h and with nargs in
// net/socket.c.
func TestSocketcalls(t *testing.T) {
	names := strings.Fields(`- socket bind connect listen accept getsockname getpeername socketpair send recv
		sendto recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg`)
	args := []int{0, 3, 3, 3, 2, 3, 3, 3, 4, 4, 4, 6, 6, 2, 5, 5, 3, 3, 4, 5, 4}
	for i := range calls {
		row := &calls[i]
		number := max(slices.Index(names, row.name), 0)
		if row.socketcall != number || row.args != args[number] {
			t.Errorf("%s: number %d with %d arguments, want %d with %d", row.name, row.socketcall, row.args, number, args[number])
		}
		if number != 0 && (rowsOfSocketcall[number] != row || row.handle == nil) {
			t.Errorf("%s: socketcall(2) does not find it", row.name)
		}
	}
}

// list returns the rules of a filter by call, a line each. Those in a row that differ in the last
// value only are on one line.
func list(f seccompx.Filter) string {
	byCall := map[string][]seccompx.Rule{}
	for _, rule := range f.Rules {
		byCall[rule.Syscalls[0]] = append(byCall[rule.Syscalls[0]], rule)
	}
	var lines strings.Builder
	for _, call := range slices.Sorted(maps.Keys(byCall)) {
		before := ""
		for _, rule := range byCall[call] {
			line, value := fmt.Sprintf("\n  %v: %s", rule.Do, call), ""
			for i, c := range rule.When {
				text := strings.Replace(c.String(), " & 0xffffffff", ":int", 1)
				if i == len(rule.When)-1 && c.Op == seccompx.MaskedEqual {
					text, value, _ = strings.Cut(text, "== ")
					text += "== "
				}
				line += " " + text
			}
			if line == before && value != "" {
				line = ","
			} else {
				before = line
			}
			lines.WriteString(line + value)
		}
	}
	return strings.TrimPrefix(lines.String(), "\n") + "\n"
}
