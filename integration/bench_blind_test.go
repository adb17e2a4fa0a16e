package integration

import (
	"fmt"
	"os/exec"
	"testing"
)

// benchBlind is what a connect costs where sockets cannot be looked at in the kernel: as root
// without the kernel's types, and as an ordinary user; and what the same system calls cost a plain
// C supervisor. All ways go along netns, in one run.
func benchBlind(b *testing.B, l *lab, client string, rounds int) []figure {
	const port = "9006"
	acceptAndClose(b, l, l.serverName, "tcp", serverAddr, port)
	args := []string{client, "tcp", serverAddr, port, "3000"}
	isolated := append(append(ordinaryUser(b), bin, "run", "--isolate", "--"), args...)
	hidden := append(append(hideBTF(b), bin, "run", "--netns", l.origin, "--via", "netns:"+l.egress, "--"), args...)
	swap := compileC(b, "bench_swap.c", "gcc", "-O2", "-static")
	plain := func(way string) *exec.Cmd {
		return l.in(l.egress, append([]string{swap, way, "/run/netns/" + l.origin}, args...)...)
	}
	all := alternate(b, rounds,
		func() *exec.Cmd { return l.in(l.egress, args...) },
		func() *exec.Cmd { return l.under(args...) },
		func() *exec.Cmd { return command(b, hidden[0], hidden[1:]...) },
		func() *exec.Cmd { return l.in(l.egress, isolated...) },
		func() *exec.Cmd { return plain("trust") },
		func() *exec.Cmd { return plain("ask") })
	native, seeing := all[0], all[1]
	var figures []figure
	for _, way := range []struct {
		who  string
		ours []timing
	}{
		{"root without BPF", all[2]},
		{"an ordinary user", all[3]},
	} {
		value, ours, other := over(way.ours, native, p50, difference)
		figures = append(figures, figure{What: "connect p50 of " + way.who + ", over native (us)", Value: value, Unit: "us", AtLeast: true, Native: other, Upconv: ours})
		value, ours, other = over(way.ours, seeing, p50, difference)
		figures = append(figures, figure{What: "connect p50 of " + way.who + ", over with BPF (us)", Value: value, Unit: "us", Bound: 10, Native: other, Upconv: ours})
	}
	value, ours, other := over(all[5], all[4], p50, difference)
	return append(figures, figure{What: "connect p50 of a C supervisor that asks, over one that trusts (us)", Value: value, Unit: "us", AtLeast: true, Native: other, Upconv: ours})
}

// BenchmarkBlind is benchBlind alone.
func BenchmarkBlind(b *testing.B) {
	l := newLab(b)
	client := compileC(b, "bench_connect.c", "gcc", "-O2", "-static", "-pthread")
	for range b.N {
		for _, f := range benchBlind(b, l, client, benchRounds()) {
			fmt.Printf("%-66s %7.2f %-2s %12.2f %12.2f\n", f.What, f.Value, f.Unit, f.Native, f.Upconv)
		}
	}
}
