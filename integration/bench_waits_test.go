package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// benchWaits measures what upconv takes of a processor while calls wait in it and nothing happens,
// in hundredths. It shows the processor time of what the program itself takes beside that.
func benchWaits(b *testing.B) (figures []figure) {
	n := newNAT64(b)
	port, _, _ := n.serveUDP(serverAddr)
	client := compileC(b, "bench_waits.c", "gcc", "-O2", "-static", "-pthread")
	for _, row := range []struct {
		what, wait, addr, count string
		bound                   float64
	}{
		{"processor, one idle recvfrom over nat64 (%)", "receive", serverAddr, "1", 0.1},
		{"processor, 1,500 idle recvfrom over nat64 (%)", "receive", serverAddr, "1500", 1},
		{"processor, 1,500 connects with SO_SNDTIMEO (%)", "connect", "203.0.113.77", "1500", 1},
	} {
		own, ours := n.idle(b, client, row.wait, row.addr, port, row.count)
		figures = append(figures, figure{What: row.what, Value: ours, Unit: "%", Bound: row.bound, Native: own, Upconv: ours})
	}
	return figures
}

// idle has a client's calls wait, and returns what the client and the supervisor take of a
// processor meanwhile, in hundredths.
func (n *nat64Lab) idle(b *testing.B, args ...string) (client, supervisor float64) {
	const settles, lasts = 5 * time.Second, 10 * time.Second
	cmd := upconv(b, append([]string{"run", "--netns", n.origin, "--via", "nat64:" + nat64Prefix, "--"}, args...)...)
	in, out := pipes(b, cmd)
	if out.Scan(); out.Text() != "waiting" {
		b.Fatalf("%v: %q", cmd, out.Text())
	}
	upconv := supervisorOf(b, cmd.Process.Pid)
	program := programUnder(b, upconv)
	time.Sleep(settles) // what is measured is how it is in the long run
	before, beforeOwn := threadsTime(b, upconv), threadsTime(b, program)
	time.Sleep(lasts)
	after, afterOwn := threadsTime(b, upconv), threadsTime(b, program)
	in.Close()
	cmd.Process.Kill()
	cmd.Wait()
	return 100 * float64(afterOwn-beforeOwn) / float64(lasts), 100 * float64(after-before) / float64(lasts)
}

// threadsTime returns what the threads of a process have taken of the processors: the first number
// of /proc/PID/schedstat.
func threadsTime(b testing.TB, pid int) (sum time.Duration) {
	b.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		var took time.Duration
		text, err := os.ReadFile(file)
		if err == nil {
			fmt.Sscan(string(text), &took)
		}
		sum += took
	}
	if sum == 0 {
		b.Fatalf("nothing is known of the processor time of process %d", pid)
	}
	return sum
}

// BenchmarkWaits is benchWaits alone.
func BenchmarkWaits(b *testing.B) {
	for range b.N {
		for _, f := range benchWaits(b) {
			fmt.Printf("%-52s %7.3f %-2s %12.3f %12.3f\n", f.What, f.Value, f.Unit, f.Native, f.Upconv)
		}
	}
}
