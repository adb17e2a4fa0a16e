package integration

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A waiter is a program under upconv whose threads wait in a receive of upconv's.
type waiter struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startWaiter starts a program under upconv, which is started by prefix, and waits until its
// threads are about to wait.
func (u *udpLab) startWaiter(t *testing.T, prefix []string, program ...string) *waiter {
	t.Helper()
	line := slices.Concat(prefix, []string{bin, "run", "--netns", u.origin, "--via", "nat64:" + nat64Prefix, "--"}, program)
	w := &waiter{cmd: command(t, line[0], line[1:]...)}
	w.in, w.out = pipes(t, w.cmd)
	if w.out.Scan(); w.out.Text() != "waiting" {
		t.Fatalf("%v: it says %q", w.cmd, w.out.Text())
	}
	return w
}

// send has told_probe send a signal after a time.
func (w *waiter) send(after time.Duration, sig unix.Signal) {
	fmt.Fprintln(w.in, after.Milliseconds(), int(sig))
}

// taken returns how long it has taken until the signal was.
func (w *waiter) taken(t *testing.T) time.Duration {
	t.Helper()
	var us int
	w.out.Scan()
	if _, err := fmt.Sscanf(w.out.Text(), "taken after %d us", &us); err != nil {
		t.Fatalf("%v: it says %q", w.cmd, w.out.Text())
	}
	return time.Duration(us) * time.Microsecond
}

// settled is how long a call has waited when it is looked at every 500 ms only.
const settled = 2500 * time.Millisecond

// TestToldOfSignals sends signals to processes that have waited for so long that they are hardly
// ever looked at. The kernel tells upconv of them.
func TestToldOfSignals(t *testing.T) {
	needBPF(t)
	u := newUDPLab(t)
	probe := compileC(t, "told_probe.c", "gcc", "-static", "-pthread")
	unshare := []string{needProgram(t, "unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"}
	ways := []struct {
		name    string
		prefix  []string
		threads string
		sig     unix.Signal
		within  time.Duration // on a busy machine
	}{
		{"one thread", nil, "1", unix.SIGUSR1, 50 * time.Millisecond},
		{"several threads", nil, "4", unix.SIGUSR1, 50 * time.Millisecond},
		// The kernel tells of the signal; that the other threads are to stop is looked for from
		// then on.
		{"several threads that stop", nil, "4", unix.SIGSTOP, 120 * time.Millisecond},
		{"in a pid namespace", unshare, "1", unix.SIGUSR1, 50 * time.Millisecond},
	}
	waiters := make([][]*waiter, len(ways))
	for i, way := range ways { // all wait at the same time
		for n := range 5 { // not at the same time, so that nothing holds up most of them
			w := u.startWaiter(t, way.prefix, probe, serverAddr, u.closed, way.threads)
			w.send(settled+time.Duration(n)*100*time.Millisecond, way.sig)
			waiters[i] = append(waiters[i], w)
		}
	}
	for i, way := range ways {
		var times []time.Duration
		for _, w := range waiters[i] {
			times = append(times, w.taken(t))
		}
		slices.Sort(times)
		t.Logf("%s: after %v", way.name, times)
		if times[len(times)/2] > way.within {
			t.Errorf("%s: the signals are taken only after %v", way.name, times)
		}
	}
}

// TestNotToldOfSignals refuses upconv to be told. It looks for signals itself then, and only doctor
// says so.
func TestNotToldOfSignals(t *testing.T) {
	needBPF(t)
	u := newUDPLab(t)
	probe := compileC(t, "told_probe.c", "gcc", "-static", "-pthread")
	for _, errno := range []unix.Errno{unix.EPERM, unix.EINVAL} {
		refused := refuse(t, "bpf attach", errno)
		const says = `(?m)^ok       BPF +looks at sockets in the kernel, but is not told of signals: bpf\(2\) BPF_RAW_TRACEPOINT_OPEN: ` + below + `half a second late`
		if _, out := status(t, command(t, refused[0], append(refused[1:], bin, "doctor")...)); !regexp.MustCompile(says).MatchString(out) {
			t.Errorf("not %s in\n%s", says, out)
		}
		said := filepath.Join(t.TempDir(), "said")
		w := u.startWaiter(t, append([]string{"sh", "-c", `exec "$@" 2>` + said, "sh"}, refused...), probe, serverAddr, u.closed, "4")
		for _, sig := range []unix.Signal{unix.SIGUSR1, unix.SIGSTOP} {
			w.send(150*time.Millisecond, sig) // upconv has tried by then
			if took := w.taken(t); took > 2*time.Second {
				t.Errorf("%v: %v is taken only after %v", errno, sig, took)
			}
		}
		if text, err := os.ReadFile(said); err != nil || len(text) > 0 {
			t.Errorf("%v: upconv says %q, %v", errno, text, err)
		}
	}
}

// TestIdleWaits measures what upconv takes of a processor while a thread waits in it and nothing
// happens.
func TestIdleWaits(t *testing.T) {
	const lasts = 4 * time.Second
	u := newUDPLab(t)
	probe := compileC(t, "told_probe.c", "gcc", "-static", "-pthread")
	supervisors, before := map[string]int{}, map[string]time.Duration{}
	const without = "without BPF"
	for name, prefix := range map[string][]string{"with BPF, if there is": nil, without: hideBTF(t)} {
		w := u.startWaiter(t, prefix, probe, serverAddr, u.closed, "1")
		supervisors[name] = supervisorOf(t, w.cmd.Process.Pid)
	}
	time.Sleep(settled) // what is measured is how it is in the long run
	for name, pid := range supervisors {
		before[name] = threadsTime(t, pid)
	}
	time.Sleep(lasts)
	for name, pid := range supervisors {
		share := 100 * float64(threadsTime(t, pid)-before[name]) / float64(lasts)
		t.Logf("%s: %.3f %%", name, share)
		most := 0.1
		if name == without || !hasBPF() {
			most = 0.2 // of a busy machine: make bench has a goal of 0.1
		}
		if share > most {
			t.Errorf("%s: it takes %.3f %% of a processor", name, share)
		}
	}
}

// TestToldInStorm sends a process as many signals as there can be, for another thread than the one
// that waits. They do not keep the supervisor busy.
func TestToldInStorm(t *testing.T) {
	needBPF(t)
	u := newUDPLab(t)
	w := u.startWaiter(t, nil, compileC(t, "told_storm.c", "gcc", "-static", "-pthread"), serverAddr, u.closed)
	supervisor := supervisorOf(t, w.cmd.Process.Pid)
	storm := func() (signals int) {
		fmt.Fprintln(w.in, "1")
		w.out.Scan()
		if _, err := fmt.Sscanf(w.out.Text(), "sent %d", &signals); err != nil || signals < 1000 {
			t.Fatalf("the program says %q", w.out.Text())
		}
		return signals
	}
	storm() // upconv begins to be told
	before, began := threadsTime(t, supervisor), time.Now()
	sent := storm()
	share := 100 * float64(threadsTime(t, supervisor)-before) / float64(time.Since(began))
	t.Logf("%d signals: %.2f %%", sent, share)
	if share > 5 {
		t.Errorf("of %d signals the supervisor takes %.2f %% of a processor", sent, share)
	}
}
