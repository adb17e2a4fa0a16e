package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// figure is one line of the table: what was measured, and what it must be.
type figure struct {
	What    string  `json:"what"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Bound   float64 `json:"bound"`
	AtLeast bool    `json:"at_least,omitempty"` // the bound is a lower one
	OK      bool    `json:"ok"`
	// Native and Upconv are what Value comes from, in the unit they were measured in.
	Native float64 `json:"native"`
	Upconv float64 `json:"upconv"`
}

// BenchmarkFigures measures upconv against native, alternating in one run, and writes a table to
// standard output and JSON to $UPCONV_BENCH_JSON. $UPCONV_FLOOR names a directory with the sources
// of a plain C supervisor to compare with too; $UPCONV_BENCH_ROUNDS is how often each is run.
//
// Every value is the median over the rounds of the ratio (or difference) within a round.
func BenchmarkFigures(b *testing.B) {
	l := newLab(b)
	rounds := benchRounds()
	client := compileC(b, "bench_connect.c", "gcc", "-O2", "-static", "-pthread")
	var figures []figure
	for range b.N {
		figures = nil
		figures = append(figures, benchConnect(b, l, client, rounds)...)
		figures = append(figures, benchBlind(b, l, client, rounds)...)
		figures = append(figures, benchDirect(b, l, client, rounds)...)
		figures = append(figures, benchRules(b, l, client, rounds)...)
		figures = append(figures, benchProcesses(b, l, client, rounds)...)
		figures = append(figures, benchThroughput(b, l, max(3, rounds*2/3)))
		figures = append(figures, benchFamilies(b, client, rounds)...)
		figures = append(figures, benchWaits(b)...)
		figures = append(figures, benchUDP(b, rounds)...)
		figures = append(figures, benchForwarder(b, rounds)...)
		figures = append(figures, benchStart(b, l, 3*rounds), benchMemory(b, l))
		figures = append(figures, benchGrowth(b, l, client)...)
	}

	fmt.Printf("\n%-52s %10s %12s %12s %10s\n", "", "value", "native", "upconv", "bound")
	for i := range figures {
		f := &figures[i]
		f.OK = f.Value <= f.Bound
		sign := "<="
		if f.AtLeast {
			f.OK, sign = f.Value >= f.Bound, ">="
		}
		verdict := ""
		if !f.OK {
			verdict = "  MISSED"
		}
		fmt.Printf("%-52s %7.2f %-2s %12.2f %12.2f  %s %.2f%s\n", f.What, f.Value, f.Unit, f.Native, f.Upconv, sign, f.Bound, verdict)
	}
	fmt.Printf("\n%d rounds, %s/%s, %d CPUs, %s\n", rounds, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), kernelRelease())
	if path := os.Getenv("UPCONV_BENCH_JSON"); path != "" {
		text, err := json.MarshalIndent(map[string]any{"kernel": kernelRelease(), "cpus": runtime.NumCPU(), "rounds": rounds, "figures": figures}, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// benchRounds is how often everything is measured.
func benchRounds() int {
	if n, err := strconv.Atoi(os.Getenv("UPCONV_BENCH_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 15
}

func kernelRelease() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(text))
}

// timing is what bench_connect prints, in microseconds.
type timing struct{ cycle, p50, p90, p99 float64 }

func runTiming(b *testing.B, cmd *exec.Cmd) timing {
	b.Helper()
	var failed int
	var t timing
	if _, err := fmt.Sscan(output(b, cmd), &failed, &t.cycle, &t.p50, &t.p90, &t.p99); err != nil || failed != 0 {
		b.Fatalf("%v: %d failed: %v", cmd, failed, err)
	}
	return t
}

// alternate runs each way once a round, in turning order, and returns the timings by way and round.
func alternate(b *testing.B, rounds int, ways ...func() *exec.Cmd) [][]timing {
	b.Helper()
	all := make([][]timing, len(ways))
	for i := range all {
		all[i] = make([]timing, rounds)
	}
	for round := range rounds {
		for k := range ways {
			way := (round + k) % len(ways)
			all[way][round] = runTiming(b, ways[way]())
		}
	}
	return all
}

// over returns the median over rounds of op(a, b), and the medians of a and b themselves.
func over(a, b []timing, of func(timing) float64, op func(a, b float64) float64) (value, medianA, medianB float64) {
	var values, as, bs []float64
	for i := range a {
		as, bs = append(as, of(a[i])), append(bs, of(b[i]))
		values = append(values, op(of(a[i]), of(b[i])))
	}
	return median(values), median(as), median(bs)
}

func median(values []float64) float64 {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

func ratio(a, b float64) float64      { return a / b }
func difference(a, b float64) float64 { return a - b }

func p50(t timing) float64   { return t.p50 }
func p99(t timing) float64   { return t.p99 }
func cycle(t timing) float64 { return t.cycle }

// benchConnect is the main job: a connect that is swapped, against one in the egress itself.
func benchConnect(b *testing.B, l *lab, client string, rounds int) []figure {
	const port = "9000"
	acceptAndClose(b, l, l.serverName, "tcp", serverAddr, port)
	args := []string{client, "tcp", serverAddr, port, "3000"}
	ways := []func() *exec.Cmd{
		func() *exec.Cmd { return l.in(l.egress, args...) },
		func() *exec.Cmd { return l.under(args...) },
	}
	floor := buildFloor(b)
	if floor != "" {
		ways = append(ways, func() *exec.Cmd {
			return command(b, floor, append([]string{"/run/netns/" + l.egress, "/run/netns/" + l.origin}, args...)...)
		})
	}
	all := alternate(b, rounds, ways...)
	native, ours := all[0], all[1]
	var figures []figure
	add := func(what string, bound float64, against []timing, of func(timing) float64) {
		value, upconv, other := over(ours, against, of, ratio)
		figures = append(figures, figure{What: what, Value: value, Unit: "x", Bound: bound, Native: other, Upconv: upconv})
	}
	add("connect(2) p50, against native (us)", 2.2, native, p50)
	if floor != "" {
		add("connect(2) p50, against the C floor (us)", 1.25, all[2], p50)
	}
	add("socket-connect-close cycle, against native (us)", 2.2, native, cycle)
	add("connect(2) p99, against native (us)", 4, native, p99)
	return figures
}

// acceptAndClose starts the other end of bench_connect in a namespace. It is a plain C program: a
// server in this process would wake more threads, and when it does would decide the figures.
func acceptAndClose(b *testing.B, l *lab, namespace string, where ...string) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	args := append([]string{"netns", "exec", namespace, compileC(b, "bench_accept.c", "gcc", "-O2", "-static")}, where...)
	long := exec.CommandContext(ctx, "ip", args...) // for as long as it takes
	stdout, err := long.StdoutPipe()
	if err == nil {
		err = long.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cancel(); long.Wait() })
	waitFor(b, stdout, "listening")
}

// benchProcesses is the main job in processes that make it harder: sockets that are in an epoll set
// before they connect, many other descriptors, several threads.
func benchProcesses(b *testing.B, l *lab, client string, rounds int) []figure {
	const port = "9002"
	acceptAndClose(b, l, l.serverName, "tcp", serverAddr, port)
	both := func(args ...string) []func() *exec.Cmd {
		args = append([]string{client}, args...)
		return []func() *exec.Cmd{
			func() *exec.Cmd { return l.in(l.egress, args...) },
			func() *exec.Cmd { return l.under(args...) },
		}
	}
	var figures []figure
	epoll := alternate(b, rounds, both("epoll", serverAddr, port, "3000")...)
	value, upconv, native := over(epoll[1], epoll[0], p50, ratio)
	figures = append(figures, figure{What: "connect until EPOLLOUT, registered before, p50 (us)", Value: value, Unit: "x", Bound: 4, Native: native, Upconv: upconv})

	bound := alternate(b, rounds, both("bound", serverAddr, port, "3000")...)
	value, upconv, native = over(bound[1], bound[0], p50, ratio)
	figures = append(figures, figure{What: "bind to port 0 and connect, p50 (us)", Value: value, Unit: "x", Bound: 5, Native: native, Upconv: upconv})

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	crowd := fmt.Sprint(min(50000, limit.Max-1000)) // not everybody may raise a hard limit
	many := alternate(b, rounds, append(both("many", "10", "10", serverAddr, port, "2000"), both("many", crowd, "10000", serverAddr, port, "2000")...)...)
	few := make([]timing, rounds)
	lots := make([]timing, rounds)
	for i := range rounds { // the ratio to native of each
		few[i].p50 = many[1][i].p50 / many[0][i].p50
		lots[i].p50 = many[3][i].p50 / many[2][i].p50
	}
	value, upconv, native = over(many[1], many[0], p50, ratio)
	figures = append(figures, figure{What: "connect in an epoll set with 10 others, p50 (us)", Value: value, Unit: "x", Bound: 4, Native: native, Upconv: upconv})
	value, upconv, native = over(lots, few, p50, ratio)
	figures = append(figures, figure{What: "ratio with " + crowd + " descriptors, 10000 in the set, over that with 10", Value: value, Unit: "x", Bound: 1.2, Native: native, Upconv: upconv})

	threads := alternate(b, rounds, append(both("threads", "1", serverAddr, port, "3000"), both("threads", "2", serverAddr, port, "3000")...)...)
	gain, _, _ := over(threads[0], threads[2], cycle, ratio)
	value, _, _ = over(threads[1], threads[3], cycle, ratio)
	figures = append(figures, figure{What: "rate of two threads over that of one", Value: value, Unit: "x", Bound: min(1.5, gain), AtLeast: true, Native: gain, Upconv: value})
	return figures
}

// benchGrowth is what a million swaps leave behind in the supervisor; $UPCONV_BENCH_SWAPS is how
// many.
func benchGrowth(b *testing.B, l *lab, client string) []figure {
	const port = "9003"
	acceptAndClose(b, l, l.serverName, "tcp", serverAddr, port)
	swaps := 1_000_000
	if n, err := strconv.Atoi(os.Getenv("UPCONV_BENCH_SWAPS")); err == nil && n > 0 {
		swaps = n
	}
	run := fmt.Sprintf("%s tcp %s %s", client, serverAddr, port)
	// Not as other commands of tests are run, which may take a minute.
	cmd := exec.Command(bin, "run", "--netns", l.origin, "--via", "netns:"+l.egress, "--", "sh", "-c",
		fmt.Sprintf("%s 50000; echo warm; read x; %s %d; echo done; read x", run, run, swaps))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	look := func(text string) (resident float64, descriptors int) {
		waitFor(b, stdout, text)
		supervisor := childrenOf(cmd.Process.Pid)[0]
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", supervisor))
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(stdin)
		return residentMB(b, supervisor), len(entries)
	}
	before, fdsBefore := look("warm")
	after, fdsAfter := look("done")
	return []figure{
		{What: fmt.Sprintf("growth of resident memory over %d swaps (MB)", swaps), Value: after - before, Unit: "MB", Bound: 1, Native: before, Upconv: after},
		{What: "growth of descriptors over them", Value: float64(fdsAfter - fdsBefore), Unit: "", Bound: 2, Native: float64(fdsBefore), Upconv: float64(fdsAfter)},
	}
}

// buildFloor builds the C supervisor in a directory of the benchmark's own; "" where there is none.
func buildFloor(b *testing.B) string {
	dir := os.Getenv("UPCONV_FLOOR")
	if dir == "" {
		return ""
	}
	exe := filepath.Join(b.TempDir(), "floor")
	if out, err := exec.Command("gcc", "-O2", "-o", exe, filepath.Join(dir, "floor.c")).CombinedOutput(); err != nil {
		b.Fatalf("floor: %v\n%s", err, out)
	}
	return exe
}

// benchDirect is what upconv costs a connect that it leaves alone.
func benchDirect(b *testing.B, l *lab, client string, rounds int) []figure {
	const port = "9001"
	path := filepath.Join(b.TempDir(), "s")
	acceptAndClose(b, l, l.origin, "tcp", "127.0.0.1", port)
	acceptAndClose(b, l, l.origin, "unix", path)
	var figures []figure
	for _, c := range []struct {
		what string
		args []string
	}{
		{"direct connect p50 over native: loopback (us)", []string{client, "tcp", "127.0.0.1", port, "3000"}},
		{"direct connect p50 over native: AF_UNIX (us)", []string{client, "unix", path, "3000"}},
		{"stopped call p50 over native: bad descriptor (us)", []string{client, "trap", "10000"}},
	} {
		all := alternate(b, rounds,
			func() *exec.Cmd { return l.plain(c.args...) },
			func() *exec.Cmd { return l.under(c.args...) })
		value, upconv, native := over(all[1], all[0], p50, difference)
		figures = append(figures, figure{What: c.what, Value: value, Unit: "us", Bound: 8, Native: native, Upconv: upconv})
	}
	return figures
}

// benchRules is what a long policy costs: a connect whose destination only the last of 10,000 rules
// is for, and the start.
func benchRules(b *testing.B, l *lab, client string, rounds int) []figure {
	const port, many = "9005", 10_000
	acceptAndClose(b, l, l.serverName, "tcp", serverAddr, port)
	under := func(file string, args ...string) *exec.Cmd {
		return upconv(b, append([]string{"run", "--netns", l.origin, "--config", file, "--"}, args...)...)
	}
	one, all := longPolicy(b, l, 1), longPolicy(b, l, many)
	args := []string{client, "tcp", serverAddr, port, "3000"}
	timings := alternate(b, rounds,
		func() *exec.Cmd { return under(one, args...) },
		func() *exec.Cmd { return under(all, args...) })
	value, ours, other := over(timings[1], timings[0], p50, ratio)
	start, long, short := startOver(b, rounds,
		func() *exec.Cmd { return under(one, "/bin/true") },
		func() *exec.Cmd { return under(all, "/bin/true") })
	return []figure{
		{What: "connect p50 with 10,000 rules, against one (us)", Value: value, Unit: "x", Bound: 1.2, Native: other, Upconv: ours},
		{What: "start with 10,000 rules, over one (ms)", Value: start, Unit: "ms", Bound: 200, Native: short, Upconv: long},
	}
}

// longPolicy writes a policy file, the last of whose rules is the first that takes serverAddr at a
// port above 4096, and sends it through the egress. The kinds of routes are the same however many
// rules there are: what the filter stops depends on them. The others are about hosts and networks
// of many sizes, some within others, with and without ports; one in a hundred about the server
// itself.
func longPolicy(b *testing.B, l *lab, rules int) (path string) {
	b.Helper()
	var text strings.Builder
	text.WriteString("version: 1\negress:\n")
	for i := range rules - 1 {
		host := fmt.Sprintf("10.%d.%d.%d", i>>10, i>>2&0xff, i&3*64+1)
		switch i % 100 {
		case 0:
			fmt.Fprintf(&text, "  - {to: %s, ports: %d, via: reject}\n", serverAddr, 1+i/100)
			continue
		case 50:
			around, _ := netip.MustParseAddr(serverAddr).Prefix(16 + i/100%8)
			fmt.Fprintf(&text, "  - {to: %s, ports: %d-%d, via: direct}\n", around, 200+i/10, 205+i/10)
			continue
		}
		switch i % 4 {
		case 0:
			fmt.Fprintf(&text, "  - {to: %s, via: direct}\n", host)
		case 1:
			fmt.Fprintf(&text, "  - {to: %s, ports: '443, 8000-8999', proto: tcp, via: 'netns:%s'}\n", host, l.egress)
		case 2:
			fmt.Fprintf(&text, "  - {to: '10.%d.%d.%d/26', ports: 53, proto: udp, via: reject}\n", i>>10, i>>2&0xff, i&3*64)
		case 3:
			fmt.Fprintf(&text, "  - {to: 10.%d.%d.0/24, via: 'reject:EACCES'}\n", i>>10, i>>2&0xff)
		}
	}
	fmt.Fprintf(&text, "  - {to: 203.0.113.0/24, via: 'netns:%s'}\n", l.egress)
	path = filepath.Join(b.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// BenchmarkRules is benchRules alone.
func BenchmarkRules(b *testing.B) {
	l := newLab(b)
	client := compileC(b, "bench_connect.c", "gcc", "-O2", "-static", "-pthread")
	for range b.N {
		for _, f := range benchRules(b, l, client, benchRounds()) {
			fmt.Printf("%-52s %7.2f %-2s %12.2f %12.2f\n", f.What, f.Value, f.Unit, f.Native, f.Upconv)
		}
	}
}

const iperfPort = "5201"

// throughput returns what an iperf3 client, which connects to the server's iperfPort, has measured,
// in Gbit/s.
func (l *lab) throughput(b *testing.B, client *exec.Cmd) float64 {
	b.Helper()
	server := l.in(l.serverName, needProgram(b, "iperf3"), "-s", "-1", "-B", serverAddr, "-p", iperfPort, "--forceflush")
	stdout, err := server.StdoutPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	waitFor(b, stdout, "Server listening")
	go io.Copy(io.Discard, stdout)
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(output(b, client)), &report); err != nil {
		b.Fatal(err)
	}
	server.Wait()
	return report.End.Received.BitsPerSecond / 1e9
}

// benchThroughput is the rate of one TCP connection, in Gbit/s.
func benchThroughput(b *testing.B, l *lab, rounds int) figure {
	args := []string{needProgram(b, "iperf3"), "-c", serverAddr, "-p", iperfPort, "-t", "2", "-J"}
	var ratios, natives, upconvs []float64
	for round := range rounds {
		var native, upconv float64
		for turn := range 2 {
			if (round+turn)%2 == 0 {
				native = l.throughput(b, l.in(l.egress, args...))
			} else {
				upconv = l.throughput(b, l.under(args...))
			}
		}
		natives, upconvs, ratios = append(natives, native), append(upconvs, upconv), append(ratios, upconv/native)
	}
	return figure{What: "iperf3 throughput, against native (Gbit/s)", Value: median(ratios), Unit: "x", Bound: 0.97, AtLeast: true,
		Native: median(natives), Upconv: median(upconvs)}
}

// waitFor reads until a text comes.
func waitFor(b testing.TB, r io.Reader, text string) {
	b.Helper()
	var seen []byte
	buf := make([]byte, 512)
	for !strings.Contains(string(seen), text) {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		if err != nil {
			b.Fatalf("%q did not come, but %q: %v", text, seen, err)
		}
	}
}

// benchStart is what upconv adds to the start of a command, in milliseconds.
func benchStart(b *testing.B, l *lab, rounds int) figure {
	value, ours, other := startOver(b, rounds,
		func() *exec.Cmd { return command(b, "/bin/true") },
		func() *exec.Cmd { return upconv(b, "run", "--via", "netns:"+l.egress, "--", "/bin/true") })
	return figure{What: "upconv run -- true, over true (ms)", Value: value, Unit: "ms", Bound: 15, Native: other, Upconv: ours}
}

// startOver returns how much longer the second command takes from start to end than the first, and
// how long each does, in milliseconds.
func startOver(b *testing.B, rounds int, first, second func() *exec.Cmd) (value, medianSecond, medianFirst float64) {
	took := func(cmd *exec.Cmd) float64 {
		began := time.Now()
		output(b, cmd)
		return float64(time.Since(began).Microseconds()) / 1000
	}
	var differences, firsts, seconds []float64
	for range rounds {
		a, c := took(first()), took(second())
		firsts, seconds, differences = append(firsts, a), append(seconds, c), append(differences, c-a)
	}
	return median(differences), median(seconds), median(firsts)
}

// benchMemory is the resident memory of the supervisor while one target sleeps, in MB; that of the
// front process is printed.
func benchMemory(b *testing.B, l *lab) figure {
	cmd := l.under("sh", "-c", "echo up; exec sleep 60")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	waitFor(b, stdout, "up")
	children := childrenOf(cmd.Process.Pid)
	if len(children) != 1 {
		b.Fatalf("children of upconv: %v", children)
	}
	supervisor := children[0]
	front, ours := residentMB(b, cmd.Process.Pid), residentMB(b, supervisor)
	fmt.Printf("resident: front %.1f MB, supervisor %.1f MB\n", front, ours)
	return figure{What: "resident memory of the supervisor, one idle target (MB)", Value: ours, Unit: "MB", Bound: 20, Upconv: ours}
}

func residentMB(b testing.TB, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kb float64
	fmt.Sscan(rest, &kb)
	return kb / 1024
}
