package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// forwarder is unbound as it asks another name server for every name. It has a fresh UDP socket for
// each question, with a port of its own choice, so that each question swaps one.
const forwarder = `server:
  interface: ::1@5300
  access-control: ::1/128 allow
  num-threads: 1
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "/"
  pidfile: ""
  use-syslog: no
  logfile: ""
  module-config: "iterator"
  outgoing-range: 4096
  num-queries-per-thread: 2048
forward-zone:
  name: "."
  forward-addr: ` + serverAddr + `
remote-control:
  control-enable: no
`

// benchForwarder is how many questions a second unbound answers under dnsperf, against unbound in
// the egress.
func benchForwarder(b *testing.B, rounds int) []figure {
	for _, name := range []string{"unbound", "dnsperf"} {
		if _, err := exec.LookPath(name); err != nil {
			fmt.Printf("%-52s %10s needs the program %s\n", "unbound as a forwarder, answers a second", "-", name)
			return nil
		}
	}
	n := newNAT64(b)
	serveUntilEnd(b, n.serverName, compileC(b, "bench_udp.c", "gcc", "-O2", "-pthread"), "dns", serverAddr, "53")
	conf, names := filepath.Join(b.TempDir(), "unbound.conf"), filepath.Join(b.TempDir(), "names")
	var all strings.Builder
	for i := range 200_000 { // none is asked for twice
		fmt.Fprintf(&all, "n%d.example A\n", i)
	}
	for file, text := range map[string]string{conf: forwarder, names: all.String()} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	args := []string{"unbound", "-d", "-c", conf}
	under := func(via string) *exec.Cmd {
		return upconv(b, append([]string{"run", "--netns", n.origin, "--via", via, "--"}, args...)...)
	}
	var rates [3][]float64
	for range max(3, rounds/3) {
		for i, way := range []struct {
			where string
			cmd   *exec.Cmd
		}{
			{n.egress, n.in(n.egress, args...)},
			{n.origin, under("netns:" + n.egress)},
			{n.origin, under("nat64:" + nat64Prefix)},
		} {
			ask := n.in(way.where, "dnsperf", "-s", "::1", "-p", "5300", "-d", names, "-l", "2", "-q", "200", "-c", "1", "-T", "1")
			rates[i] = append(rates[i], answersPerSecond(b, way.cmd, ask))
		}
	}
	var figures []figure
	for i, via := range []string{"netns", "nat64"} {
		var ratios []float64
		for round, rate := range rates[i+1] {
			ratios = append(ratios, rate/rates[0][round])
		}
		figures = append(figures, figure{What: "unbound as a forwarder over " + via + ", answers a second", Value: median(ratios), Unit: "x", AtLeast: true,
			Native: median(rates[0]), Upconv: median(rates[i+1])})
	}
	return figures
}

// answersPerSecond runs dnsperf against a name server that is started for it and ended afterwards.
func answersPerSecond(b *testing.B, server, dnsperf *exec.Cmd) float64 {
	b.Helper()
	stderr, err := server.StderrPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer func() { server.Process.Signal(syscall.SIGTERM); server.Wait() }()
	waitFor(b, stderr, "start of service")
	said := output(b, dnsperf)
	found := regexp.MustCompile(`Queries per second: +([0-9.]+)`).FindStringSubmatch(said)
	if found == nil {
		b.Fatalf("dnsperf did not say how many: %s", said)
	}
	rate, err := strconv.ParseFloat(found[1], 64)
	if err != nil || rate == 0 {
		b.Fatalf("no answers: %s", said)
	}
	return rate
}
