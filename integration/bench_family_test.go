package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// benchFamilies measures routes to other families, through a real NAT64 (tayga) and to a Unix
// socket.
func benchFamilies(b *testing.B, client string, rounds int) []figure {
	n := newNAT64(b)
	const port = "9004"
	const mapped = "2001:db8:64::cb00:710a" // serverAddr under nat64Prefix
	path := filepath.Join(scratch, "bench")
	acceptAndClose(b, n.lab, n.serverName, "tcp", serverAddr, port)
	acceptAndClose(b, n.lab, n.origin, "unix", path)
	under := func(route string, args ...string) *exec.Cmd {
		return upconv(b, append([]string{"run", "--netns", n.origin, "--via", route, "--"}, args...)...)
	}
	native := func(args ...string) *exec.Cmd { return n.in(n.origin, args...) }
	nat64 := "nat64:" + nat64Prefix

	var figures []figure
	all := alternate(b, rounds,
		func() *exec.Cmd { return native(client, "tcp", mapped, port, "1000") },
		func() *exec.Cmd { return under(nat64, client, "tcp", serverAddr, port, "1000") },
		func() *exec.Cmd { return native(client, "unix", path, "3000") },
		func() *exec.Cmd { return under("unix:"+path, client, "tcp", serverAddr, port, "3000") },
		func() *exec.Cmd { return native(client, "names", mapped, port, "3000") },
		func() *exec.Cmd { return under(nat64, client, "names", serverAddr, port, "3000") },
	)
	value, ours, other := over(all[1], all[0], p50, ratio)
	figures = append(figures, figure{What: "nat64 connect p50, against AF_INET6 (us)", Value: value, Unit: "x", Bound: 2.6, Native: other, Upconv: ours})
	value, ours, other = over(all[3], all[2], p50, difference)
	figures = append(figures, figure{What: "unix connect p50, over native AF_UNIX (us)", Value: value, Unit: "us", Bound: 30, Native: other, Upconv: ours})
	_, ours, other = over(all[5], all[4], p50, difference)
	figures = append(figures, figure{What: "getpeername p50 on a swapped socket (us)", Value: ours, Unit: "us", Bound: 12, Native: other, Upconv: ours})

	n.clat()
	rate := func(cmd *exec.Cmd) float64 { return n.throughput(b, cmd) }
	iperf := needProgram(b, "iperf3")
	args := func(addr string) []string { return []string{iperf, "-c", addr, "-p", iperfPort, "-t", "2", "-J"} }
	var natives, upconvs, clats, overNative, overCLAT []float64
	for round := range max(3, rounds/3) {
		var rates [3]float64
		for turn := range rates {
			switch way := (round + turn) % len(rates); way {
			case 0:
				rates[way] = rate(native(args(mapped)...))
			case 1:
				rates[way] = rate(under(nat64, args(serverAddr)...))
			case 2:
				rates[way] = rate(native(args(serverAddr)...))
			}
		}
		natives, upconvs, clats = append(natives, rates[0]), append(upconvs, rates[1]), append(clats, rates[2])
		overNative, overCLAT = append(overNative, rates[1]/rates[0]), append(overCLAT, rates[1]/rates[2])
	}
	return append(figures,
		figure{What: "iperf3 over nat64, against AF_INET6 (Gbit/s)", Value: median(overNative), Unit: "x", Bound: 0.97, AtLeast: true,
			Native: median(natives), Upconv: median(upconvs)},
		figure{What: "iperf3 over nat64, against a CLAT (Gbit/s)", Value: median(overCLAT), Unit: "x", Bound: 1, AtLeast: true,
			Native: median(clats), Upconv: median(upconvs)})
}

// clat gives the origin the classic way to IPv4: another tayga, in front of the NAT64 (RFC 6877).
func (n *nat64Lab) clat() {
	n.t.Helper()
	const own6 = "2001:db8:1:464::1"
	n.tayga(n.origin, "clat", fmt.Sprintf("tun-device clat\nipv4-addr 192.0.0.1\nipv6-addr 2001:db8:1:464::ffff\nprefix %s\nmap 192.0.0.4 %s\n", nat64Prefix, own6))
	for where, lines := range map[string]string{
		n.origin: "ip addr add 192.0.0.4/32 dev clat; ip route add default dev clat src 192.0.0.4; ip route add " + own6 + " dev clat; sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1",
		n.egress: "ip route add " + own6 + " via 2001:db8:1::2",
	} {
		for line := range strings.SplitSeq(lines, "; ") {
			output(n.t, n.in(where, strings.Fields(line)...))
		}
	}
}

// BenchmarkFamilies is benchFamilies alone.
func BenchmarkFamilies(b *testing.B) {
	client := compileC(b, "bench_connect.c", "gcc", "-O2", "-static", "-pthread")
	for range b.N {
		for _, f := range benchFamilies(b, client, benchRounds()) {
			fmt.Printf("%-52s %7.2f %-2s %12.2f %12.2f\n", f.What, f.Value, f.Unit, f.Native, f.Upconv)
		}
	}
}
