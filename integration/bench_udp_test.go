package integration

import (
	"fmt"
	"os/exec"
	"testing"
)

// benchUDP measures datagrams, and what stopping the calls that send them costs others.
func benchUDP(b *testing.B, rounds int) []figure {
	n := newNAT64(b)
	const (
		sink, echoing, tcp, accepting, hole = "9010", "9011", "9012", "9013", "9014"
		mapped                              = "2001:db8:64::cb00:710a" // serverAddr under nat64Prefix
	)
	exe := compileC(b, "bench_udp.c", "gcc", "-O2", "-pthread")
	bare := compileC(b, "bench_bare.c", "gcc", "-O2", "-pthread")
	for _, server := range [][]string{{"sink", serverAddr, sink}, {"hole", serverAddr, hole}, {"echo", serverAddr, echoing}, {"dns", serverAddr, "53"}, {"tcp-sink", serverAddr, tcp}} {
		serveUntilEnd(b, n.serverName, exe, server...)
	}
	acceptAndClose(b, n.lab, n.serverName, "tcp", serverAddr, accepting)
	inEgress := func(args ...string) func() *exec.Cmd {
		return func() *exec.Cmd { return n.in(n.egress, args...) }
	}
	native := func(args ...string) func() *exec.Cmd { return inEgress(append([]string{exe}, args...)...) }
	under := func(via string, flags []string, args ...string) func() *exec.Cmd {
		flags = append([]string{"run", "--netns", n.origin, "--via", via}, flags...)
		return func() *exec.Cmd {
			return upconv(b, append(append(flags[:len(flags):len(flags)], "--", exe), args...)...)
		}
	}
	netns, nat64 := "netns:"+n.egress, "nat64:"+nat64Prefix
	atSocket, connectedOnly := []string{"--swap-at", "socket"}, []string{"--udp", "connected"}
	atSocketOnly := append(atSocket[:2:2], connectedOnly...)

	var figures []figure
	add := func(f figure, value, upconv, native float64) {
		f.Value, f.Upconv, f.Native = value, upconv, native
		figures = append(figures, f)
	}
	// rate is that of upconv over that of native: the other way round than their times.
	rate := func(ours, theirs []timing) (value, upconv, native float64) {
		value, native, upconv = over(theirs, ours, cycle, ratio)
		return value, upconv, native
	}

	// Nobody receives what these send: a receiver that natively never gets to sleep would have to
	// be woken for each datagram when they come more slowly, and sending would seem to take longer.
	all := alternate(b, rounds, native("connected", serverAddr, hole, "100000"), under(netns, nil, "connected", serverAddr, hole, "100000"))
	value, ours, theirs := rate(all[1], all[0])
	add(figure{What: "connected UDP, packets per second (us each)", Unit: "x", Bound: 0.97, AtLeast: true}, value, ours, theirs)

	all = alternate(b, rounds,
		native("sendto", serverAddr, hole, "60000"),
		under(netns, nil, "sendto", serverAddr, hole, "60000"),
		under(netns, atSocketOnly, "sendto", serverAddr, hole, "60000"),
		under(netns, atSocket, "sendto", serverAddr, hole, "60000"),
		inEgress(bare, "sendto", "0", exe, "sendto", serverAddr, hole, "60000"))
	value, ours, theirs = over(all[1], all[0], cycle, difference)
	add(figure{What: "unconnected sendto over netns, over native (us)", Unit: "us", Bound: 8}, value, ours, theirs)
	value, ours, theirs = over(all[4], all[0], cycle, difference)
	add(figure{What: "each call stopped and let go on by plain C, over native (us)", Unit: "us", AtLeast: true}, value, ours, theirs)
	value, ours, theirs = rate(all[1], all[0])
	add(figure{What: "unconnected sendto over netns, rate (us each)", Unit: "x", AtLeast: true}, value, ours, theirs)
	value, ours, theirs = rate(all[2], all[0])
	add(figure{What: "the same, --swap-at socket --udp connected", Unit: "x", Bound: 0.95, AtLeast: true}, value, ours, theirs)
	value, ours, theirs = rate(all[3], all[0])
	add(figure{What: "the same, --swap-at socket", Unit: "x", AtLeast: true}, value, ours, theirs)

	all = alternate(b, rounds, native("sendto", serverAddr, sink, "30000"), under(netns, nil, "sendto", serverAddr, sink, "30000"))
	value, ours, theirs = rate(all[1], all[0])
	add(figure{What: "unconnected sendto to a receiver that reads, rate (us each)", Unit: "x", AtLeast: true}, value, ours, theirs)

	all = alternate(b, rounds, native("sendmmsg", serverAddr, hole, "3000"), under(netns, nil, "sendmmsg", serverAddr, hole, "3000"))
	value, ours, theirs = rate(all[1], all[0])
	add(figure{What: "sendmmsg of 64 over netns, rate (us each)", Unit: "x", Bound: 0.6, AtLeast: true}, value, ours, theirs)

	all = alternate(b, rounds,
		func() *exec.Cmd { return n.in(n.origin, exe, "there-and-back", mapped, echoing, "3000") },
		under(nat64, nil, "there-and-back", serverAddr, echoing, "3000"))
	value, ours, theirs = over(all[1], all[0], p50, difference)
	add(figure{What: "nat64 sendto and recvfrom, over AF_INET6 (us)", Unit: "us", Bound: 40}, value, ours, theirs)

	all = alternate(b, rounds,
		native("tcp", serverAddr, tcp, "60000"),
		under(netns, nil, "tcp", serverAddr, tcp, "60000"),
		under(netns, connectedOnly, "tcp", serverAddr, tcp, "60000"),
		inEgress(bare, "sendmsg", "0", exe, "tcp", serverAddr, tcp, "60000"))
	value, ours, theirs = rate(all[1], all[0])
	add(figure{What: "TCP by sendmsg of 16 KiB, rate (us each)", Unit: "x", Bound: 0.85, AtLeast: true}, value, ours, theirs)
	value, ours, theirs = rate(all[3], all[0])
	add(figure{What: "the same, each call stopped and let go on by plain C", Unit: "x", AtLeast: true}, value, ours, theirs)
	value, ours, theirs = rate(all[1], all[3])
	add(figure{What: "the same, against that", Unit: "x", AtLeast: true}, value, ours, theirs)
	value, ours, theirs = rate(all[2], all[0])
	add(figure{What: "the same, --udp connected", Unit: "x", Bound: 0.97, AtLeast: true}, value, ours, theirs)

	all = alternate(b, rounds, native("tcp-shared", serverAddr, tcp, "20000"), under(netns, nil, "tcp-shared", serverAddr, tcp, "20000"))
	value, ours, theirs = rate(all[1], all[0])
	add(figure{What: "TCP by sendmsg of 16 KiB, made by upconv, rate (us each)", Unit: "x", AtLeast: true}, value, ours, theirs)

	conf := []string{serverAddr}
	resolve := n.withResolvConf(conf, exe, "resolve", "www.example", "1000")
	inside := n.withResolvConf(conf, bin, "run", "--netns", n.origin, "--via", netns, "--", exe, "resolve", "www.example", "1000")
	all = alternate(b, rounds,
		func() *exec.Cmd { return n.in(n.egress, resolve...) },
		func() *exec.Cmd { return n.in(n.origin, inside...) })
	value, ours, theirs = over(all[1], all[0], p50, difference)
	add(figure{What: "getaddrinfo p50 over native (us)", Unit: "us", Bound: 60}, value, ours, theirs)

	receivers := func(count string) func() *exec.Cmd {
		return under(nat64, nil, "receivers", count, serverAddr, sink, accepting, "1000")
	}
	held := func(count string) func() *exec.Cmd {
		return inEgress(bare, "connect", count, exe, "receivers", "0", serverAddr, sink, accepting, "1000")
	}
	all = alternate(b, rounds, receivers("0"), receivers("1000"), held("0"), held("1000"))
	value, ours, theirs = over(all[1], all[0], p50, ratio)
	add(figure{What: "nat64 connect p50, 1000 receivers blocked, over none", Unit: "x", Bound: 1.2}, value, ours, theirs)
	value, ours, theirs = over(all[1], all[0], p50, difference)
	add(figure{What: "the same, added (us)", Unit: "us", AtLeast: true}, value, ours, theirs)
	value, ours, theirs = over(all[3], all[2], p50, difference)
	add(figure{What: "what the kernel's search of 1000 stopped calls adds to a connect (us)", Unit: "us", AtLeast: true}, value, ours, theirs)
	return figures
}

// serveUntilEnd starts a C program that says "listening", for as long as the benchmark takes.
func serveUntilEnd(b *testing.B, namespace, exe string, args ...string) {
	b.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", namespace, exe}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	waitFor(b, stdout, "listening")
}

// BenchmarkUDP is benchUDP alone.
func BenchmarkUDP(b *testing.B) {
	for range b.N {
		for _, f := range benchUDP(b, benchRounds()) {
			sign := "<="
			if f.AtLeast {
				sign = ">="
			}
			fmt.Printf("%-60s %7.2f %-2s %12.2f %12.2f  %s %.2f\n", f.What, f.Value, f.Unit, f.Native, f.Upconv, sign, f.Bound)
		}
	}
}
