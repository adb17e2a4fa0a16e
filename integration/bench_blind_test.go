package integration

import (
	"os/exec"
	"testing"
)

// benchBlind is what a connect costs where sockets cannot be looked at in the kernel: as root without the kernel's
// types, and as an ordinary user. All ways go along netns, in one run.
func benchBlind(b *testing.B, l *lab, client string, rounds int) []figure {
	const port = "9006"
	acceptAndClose(b, l, l.serverName, "tcp", serverAddr, port)
	args := []string{client, "tcp", serverAddr, port, "3000"}
	isolated := append(append(ordinaryUser(b), bin, "run", "--isolate", "--"), args...)
	hidden := append(append(hideBTF(b), bin, "run", "--netns", l.origin, "--via", "netns:"+l.egress, "--"), args...)
	all := alternate(b, rounds,
		func() *exec.Cmd { return l.in(l.egress, args...) },
		func() *exec.Cmd { return l.under(args...) },
		func() *exec.Cmd { return command(b, hidden[0], hidden[1:]...) },
		func() *exec.Cmd { return l.in(l.egress, isolated...) })
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
	return figures
}
