package integration

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for something that is to happen.
const patience = 30 * time.Second

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// transcript is what a program says, line by line or as a whole, while it runs.
type transcript struct {
	t    testing.TB
	mu   sync.Mutex
	text []byte
	seen int // up to where expect has read
	eof  bool
}

func newTranscript(t testing.TB, r io.Reader) *transcript {
	tr := &transcript{t: t}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			tr.mu.Lock()
			tr.text = append(tr.text, buf[:n]...)
			tr.eof = err != nil
			tr.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return tr
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return string(tr.text)
}

// expect waits for text behind what has been expected before.
func (tr *transcript) expect(text string) {
	tr.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		tr.mu.Lock()
		at, eof := bytes.Index(tr.text[tr.seen:], []byte(text)), tr.eof
		if at >= 0 {
			tr.seen += at + len(text)
		}
		tr.mu.Unlock()
		if at >= 0 {
			return
		}
		if eof || time.Now().After(deadline) {
			tr.t.Fatalf("no %q in %q", text, tr.String())
		}
	}
}

func (tr *transcript) expectEOF() {
	tr.t.Helper()
	eventually(tr.t, "the end of "+fmt.Sprintf("%q", tr.String()), func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.eof
	})
}

// line returns the rest of the line behind what has been expected.
func (tr *transcript) line() string {
	tr.t.Helper()
	start := tr.seen
	tr.expect("\n")
	return strings.TrimRight(tr.String()[start:tr.seen], "\r\n")
}

// tally counts the lines "got N" of launch_signals.
func (tr *transcript) tally() map[int]int {
	count := map[int]int{}
	for _, line := range strings.Split(tr.String(), "\n") {
		if n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), "got ")); err == nil {
			count[n]++
		}
	}
	return count
}

func got(sig syscall.Signal) string { return fmt.Sprintf("got %02d", int(sig)) }

// procStat returns state and parent of a process, 0 where there is none.
func procStat(pid int) (state byte, parent int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	parent, _ = strconv.Atoi(fields[1])
	return fields[0][0], parent
}

func gone(pid int) bool {
	state, _ := procStat(pid)
	return state == 0 || state == 'Z' || state == 'X'
}

// childrenOf lists the children of a process.
func childrenOf(pid int) (children []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if child, err := strconv.Atoi(entry.Name()); err == nil {
			if _, parent := procStat(child); parent == pid {
				children = append(children, child)
			}
		}
	}
	return children
}

// supervisorOf returns the pid of the supervisor that an upconv has started.
func supervisorOf(t testing.TB, pid int) (supervisor int) {
	t.Helper()
	eventually(t, "a supervisor", func() bool {
		children := childrenOf(pid)
		if len(children) == 1 {
			supervisor = children[0]
		}
		return len(children) == 1
	})
	return supervisor
}

// forwarded are the signals that upconv passes on.
func forwarded() []syscall.Signal {
	list := []syscall.Signal{1, 2, 3, 10, 12, 13, 14, 15, 16, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30}
	for sig := syscall.Signal(35); sig <= 64; sig++ {
		list = append(list, sig)
	}
	return list
}

// counter is launch_signals under upconv.
type counter struct {
	*transcript
	cmd   *exec.Cmd
	stdin io.WriteCloser
	errs  *bytes.Buffer
	pid   int // of launch_signals
}

// startCounter starts argv, which ends in something that becomes launch_signals, under upconv in a
// process group of its own.
func startCounter(t *testing.T, cmd *exec.Cmd) *counter {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience // should anybody hold standard error
	stdout, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdout.Close() })
	c := &counter{cmd: cmd, errs: &bytes.Buffer{}, transcript: newTranscript(t, stdout)}
	cmd.Stdout, cmd.Stderr = w, c.errs
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			cmd.Wait()
		}
	})
	c.expect("ready ")
	if c.pid, err = strconv.Atoi(c.line()); err != nil {
		t.Fatal(err)
	}
	return c
}

// settle returns when signals sent to upconv before have come through, if they do: a marker has
// overtaken them or not, three times.
func (c *counter) settle(marker syscall.Signal) {
	c.t.Helper()
	for range 3 {
		before := c.tally()[int(marker)]
		if err := c.cmd.Process.Signal(marker); err != nil {
			c.t.Fatal(err)
		}
		eventually(c.t, "a marker signal", func() bool { return c.tally()[int(marker)] > before })
	}
}

// status ends standard input, if it is open, and returns the exit status.
func (c *counter) status() int {
	c.t.Helper()
	c.stdin.Close()
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

// harmless prepares a command that runs under upconv where it was started and makes no connections.
func harmless(t testing.TB, args ...string) *exec.Cmd {
	return upconv(t, append([]string{"run", "--isolate", "--"}, args...)...)
}

func TestParentExitStatus(t *testing.T) {
	needRoot(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for n := range 256 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			cmd := harmless(t, "sh", "-c", fmt.Sprintf("exit %d", n))
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != n || len(out) > 0 {
				t.Errorf("exit status %d, want %d\n%s", code, n, out)
			}
		}()
	}
	wg.Wait()
}

func TestParentDeathBySignal(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	for sig := 1; sig <= 64; sig++ {
		switch syscall.Signal(sig) {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH:
			continue // do not end a process
		}
		t.Run(strconv.Itoa(sig), func(t *testing.T) {
			t.Parallel()
			cmd := harmless(t, prog, "die", strconv.Itoa(sig))
			if code, out := status(t, cmd); code != 128+sig || out != "" {
				t.Errorf("exit status %d, want %d\n%s", code, 128+sig, out)
			}
		})
	}
}

// TestParentSignals sends upconv, or its whole process group, every signal, and counts what the
// command gets.
func TestParentSignals(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	for _, to := range []string{"pid", "group"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			c := startCounter(t, harmless(t, prog, "count"))
			target := c.cmd.Process.Pid
			if to == "group" {
				target = -target
			}
			for _, sig := range forwarded() {
				if err := unix.Kill(target, sig); err != nil {
					t.Fatal(err)
				}
				c.expect(got(sig))
			}
			before := c.tally()
			c.settle(unix.SIGUSR2)
			after := c.tally()
			for sig := range 65 {
				want := 0
				if slices.Contains(forwarded(), syscall.Signal(sig)) {
					want = 1
				}
				if sig == int(unix.SIGUSR2) {
					want = 4
				}
				if after[sig] != want {
					t.Errorf("signal %d was sent %d times and came %d times, %d of them at once", sig, want, after[sig], before[sig])
				}
			}
			if code := c.status(); code != 5 {
				t.Errorf("exit status %d, want 5\n%s", code, c.errs)
			}
		})
	}
}

// TestParentSignalsTwice sends a signal a second time, when the first has come through: it is not
// taken for the same.
func TestParentSignalsTwice(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	c := startCounter(t, harmless(t, prog, "count"))
	pid := c.cmd.Process.Pid
	for i, target := range []int{-pid, pid, pid, -pid, -pid, pid} {
		if err := unix.Kill(target, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("signal %d, to %d", i+1, target), func() bool { return c.tally()[int(unix.SIGTERM)] > i })
		c.settle(unix.SIGUSR2)
		if n := c.tally()[int(unix.SIGTERM)]; n != i+1 {
			t.Fatalf("%d SIGTERMs came, %d were sent, the last to %d (upconv is %d)", n, i+1, target, pid)
		}
	}
}

// TestParentRealTimeSignalsQueue sends real-time signals faster than they are taken. They queue
// (signal(7)).
func TestParentRealTimeSignalsQueue(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	for _, to := range []string{"pid", "group"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			c := startCounter(t, harmless(t, prog, "count"))
			target := c.cmd.Process.Pid
			if to == "group" {
				target = -target
			}
			const many = 20
			for range many {
				if err := unix.Kill(target, 40); err != nil {
					t.Fatal(err)
				}
			}
			c.settle(unix.SIGUSR2)
			if n := c.tally()[40]; n != many {
				t.Errorf("%d signals were sent and %d came", many, n)
			}
		})
	}
}

// TestParentSignalsToEach sends a signal to upconv and to its supervisor, as kill $(pidof upconv)
// does.
func TestParentSignalsToEach(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	c := startCounter(t, harmless(t, prog, "count"))
	supervisor := supervisorOf(t, c.cmd.Process.Pid)
	if err := unix.Kill(supervisor, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(c.cmd.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.settle(unix.SIGUSR2)
	if n := c.tally()[int(unix.SIGTERM)]; n != 1 {
		t.Errorf("SIGTERM came %d times, want 1", n)
	}
}

// TestParentBlockedAndIgnored starts upconv with signals blocked or ignored: they reach the command
// all the same, and it decides.
func TestParentBlockedAndIgnored(t *testing.T) {
	needRoot(t)
	prog, starter := staticC(t, "launch_signals.c"), staticC(t, "launch_start.c")
	for _, test := range []struct {
		how     string
		signals []syscall.Signal
	}{
		{"block", forwarded()},
		{"ignore", slices.DeleteFunc(forwarded(), func(sig syscall.Signal) bool { return sig == unix.SIGPIPE })},
		{"ignore", []syscall.Signal{unix.SIGPIPE}},
	} {
		t.Run(fmt.Sprintf("%s %d", test.how, len(test.signals)), func(t *testing.T) {
			t.Parallel()
			var args []string
			for _, sig := range test.signals {
				args = append(args, test.how, strconv.Itoa(int(sig)))
			}
			args = append(args, "--", bin, "run", "--isolate", "--", prog, "count")
			c := startCounter(t, command(t, starter, args...))
			front := childrenOf(c.cmd.Process.Pid)
			if len(front) != 1 {
				t.Fatalf("children of the starter: %v", front)
			}
			for _, sig := range test.signals {
				if err := unix.Kill(front[0], sig); err != nil {
					t.Fatal(err)
				}
				c.expect(got(sig))
			}
			c.stdin.Close()
			c.expect("5\n") // says the starter
		})
	}
}

// terminal is a pseudo-terminal.
type terminal struct {
	*transcript
	master, slave *os.File
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	termios, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	termios.Lflag &^= unix.ECHO // what is typed is not to be taken for what is answered
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, termios); err != nil {
		t.Fatal(err)
	}
	return &terminal{newTranscript(t, master), master, slave}
}

// start has a command lead a session on the terminal. It ends with the test.
func (tty *terminal) start(cmd *exec.Cmd) {
	tty.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty.slave, tty.slave, tty.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		tty.t.Fatal(err)
	}
	tty.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func (tty *terminal) typed(text string) {
	tty.t.Helper()
	if _, err := tty.master.WriteString(text); err != nil {
		tty.t.Fatal(err)
	}
}

func (tty *terminal) resize(rows uint16) {
	tty.t.Helper()
	if err := unix.IoctlSetWinsize(int(tty.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: 100}); err != nil {
		tty.t.Fatal(err)
	}
}

// shell starts a bash with job control on the terminal.
func (tty *terminal) shell() {
	tty.t.Helper()
	cmd := command(tty.t, needProgram(tty.t, "bash"), "--norc", "--noprofile", "--noediting", "-i")
	cmd.Env = append(os.Environ(), "PS1=", "PS2=", "HISTFILE=", "LC_ALL=C")
	tty.start(cmd)
}

// keys presses every key that sends a signal, and changes the size, and expects launch_signals to
// be told once of each.
func (tty *terminal) keys(marker func()) {
	tty.t.Helper()
	before := tty.tally()
	for i, press := range []struct {
		sig syscall.Signal
		do  func()
	}{
		{unix.SIGINT, func() { tty.typed("\x03") }},
		{unix.SIGQUIT, func() { tty.typed("\x1c") }},
		{unix.SIGTSTP, func() { tty.typed("\x1a") }},
		{unix.SIGWINCH, func() { tty.resize(51) }},
		{unix.SIGINT, func() { tty.typed("\x03") }},
		{unix.SIGWINCH, func() { tty.resize(52) }},
	} {
		want := before[int(press.sig)] + 1
		if i >= 4 {
			want++
		}
		press.do()
		tty.expect(got(press.sig))
		for range 3 {
			marker()
		}
		if n := tty.tally()[int(press.sig)]; n != want {
			tty.t.Errorf("signal %d came %d times, want %d", press.sig, n, want)
		}
	}
}

func TestParentTerminal(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	t.Run("session leader", func(t *testing.T) {
		t.Parallel()
		tty := newTerminal(t)
		cmd := harmless(t, prog, "count")
		tty.start(cmd)
		tty.expect("ready ")
		tty.keys(func() {
			cmd.Process.Signal(unix.SIGUSR2)
			tty.expect(got(unix.SIGUSR2))
		})
	})
	t.Run("job of a shell", func(t *testing.T) {
		t.Parallel()
		tty := newTerminal(t)
		tty.shell()
		tty.typed(fmt.Sprintf("%s run --isolate -- %s count; echo status $?\n", bin, prog))
		tty.expect("ready ")
		pid, err := strconv.Atoi(tty.line())
		if err != nil {
			t.Fatal(err)
		}
		_, supervisor := procStat(pid)
		_, front := procStat(supervisor)
		tty.keys(func() {
			unix.Kill(front, unix.SIGUSR2)
			tty.expect(got(unix.SIGUSR2))
		})
		unix.Kill(front, unix.SIGKILL)
		tty.expect("status 137")
		eventually(t, "the command's death", func() bool { return gone(pid) })
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		tty := newTerminal(t)
		tty.shell()
		tty.typed(fmt.Sprintf("%s run --isolate -- sh -c 'echo rea''dy; exec sleep 1000'; echo status $?\n", bin))
		tty.expect("ready")
		tty.typed("\x03")
		tty.expect("status 130")
	})
	t.Run("input", func(t *testing.T) {
		t.Parallel()
		tty := newTerminal(t)
		tty.shell()
		tty.typed(fmt.Sprintf("%s run --isolate -- sed -u s/a/b/; echo status $?\n", bin))
		tty.typed("xaxa\n")
		tty.expect("xbxa")
		tty.typed("\x04")
		tty.expect("status 0")
	})
}

// TestParentJobControl stops and continues a job of a shell.
func TestParentJobControl(t *testing.T) {
	l := newLab(t)
	host, port, _ := strings.Cut(l.greet(), ":")
	prog, client := staticC(t, "launch_signals.c"), staticC(t, "launch_client.c")
	run := fmt.Sprintf("%s run --netns %s --via netns:%s -- ", bin, l.origin, l.egress)
	state := func(pid int) byte { s, _ := procStat(pid); return s }
	stopped := func(t *testing.T, pids ...int) {
		t.Helper()
		for _, pid := range pids {
			eventually(t, fmt.Sprintf("a stop of process %d of %d", pid, pids), func() bool { return state(pid) == 'T' })
		}
	}
	running := func(t *testing.T, pids ...int) {
		t.Helper()
		for _, pid := range pids {
			eventually(t, fmt.Sprintf("a continuation of process %d of %d", pid, pids), func() bool { return state(pid) != 'T' && state(pid) != 0 })
		}
	}
	type job struct {
		*terminal
		front, supervisor, command int
	}
	start := func(t *testing.T, line string) *job {
		t.Helper()
		j := &job{terminal: newTerminal(t)}
		j.shell()
		j.typed(line + "; echo status $?\n")
		j.expect("ready ")
		var err error
		if j.command, err = strconv.Atoi(j.line()); err != nil {
			t.Fatal(err)
		}
		_, j.supervisor = procStat(j.command)
		_, j.front = procStat(j.supervisor)
		t.Cleanup(func() {
			if !gone(j.front) {
				unix.Kill(j.front, unix.SIGKILL)
			}
		})
		return j
	}

	t.Run("Ctrl-Z and fg", func(t *testing.T) {
		t.Parallel()
		dir := publicDir(t)
		fifo, said := filepath.Join(dir, "fifo"), filepath.Join(dir, "said")
		if err := unix.Mkfifo(fifo, 0o666); err != nil {
			t.Fatal(err)
		}
		j := start(t, fmt.Sprintf("%ssh -c 'setsid %s %s %s %s >%s & exec %s count default 20'", run, client, host, port, fifo, said, prog))
		eventually(t, "a client in its own session that waits for the FIFO", func() bool {
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", j.command, j.command))
			where, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(children)) + "/wchan")
			return string(where) == "wait_for_partner"
		})
		for round := 1; round <= 3; round++ {
			j.typed("\x1a")
			j.expect("Stopped")
			stopped(t, j.front, j.command)
			if round == 1 {
				// Meanwhile others are served.
				end, err := os.OpenFile(fifo, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				end.Close()
				eventually(t, "the greeting", func() bool {
					text, _ := os.ReadFile(said)
					return string(text) == greeting
				})
			}
			j.typed("fg\n")
			j.expect(got(unix.SIGCONT))
			running(t, j.front, j.command)
			for range 3 {
				unix.Kill(j.front, unix.SIGUSR2)
				j.expect(got(unix.SIGUSR2))
			}
			if n := j.tally()[int(unix.SIGCONT)]; n != round {
				t.Errorf("round %d: SIGCONT came %d times", round, n)
			}
		}
		j.typed("\x1a")
		j.expect("Stopped")
		j.typed("bg\n")
		running(t, j.front, j.command)
		j.typed("kill -INT %1\n")
		j.expect(got(unix.SIGINT))
		j.typed("kill -KILL %1; wait %1; echo end $?\n")
		j.expect("end 137")
		eventually(t, "the command's death", func() bool { return gone(j.command) })
	})
	t.Run("SIGTSTP and SIGCONT to upconv alone", func(t *testing.T) {
		t.Parallel()
		j := start(t, run+prog+" count default 20")
		for round := 1; round <= 3; round++ {
			unix.Kill(j.front, unix.SIGTSTP)
			stopped(t, j.front, j.command)
			j.expect("Stopped")
			unix.Kill(j.front, unix.SIGCONT)
			running(t, j.front, j.command)
			j.expect(got(unix.SIGCONT))
			for range 3 {
				unix.Kill(j.front, unix.SIGUSR2)
				j.expect(got(unix.SIGUSR2))
			}
			if n := j.tally()[int(unix.SIGCONT)]; n != round {
				t.Errorf("round %d: SIGCONT came %d times", round, n)
			}
			// bash would continue one that it takes for stopped. fg writes what it brings to the
			// foreground, too.
			j.typed("until jobs | grep Running; do :; done; fg\n")
			j.expect("Running")
			j.expect("count default 20")
			j.expect("count default 20")
		}
	})
	t.Run("the command is stopped", func(t *testing.T) {
		t.Parallel()
		j := start(t, run+prog+" count")
		for range 3 {
			unix.Kill(j.command, unix.SIGSTOP)
			stopped(t, j.front, j.command)
			j.expect("Stopped")
			j.typed("fg\n")
			running(t, j.front, j.command)
			j.expect(got(unix.SIGCONT))
		}
	})
	t.Run("the command is stopped and continued by others", func(t *testing.T) {
		t.Parallel()
		j := start(t, run+prog+" count")
		for range 3 {
			unix.Kill(j.command, unix.SIGSTOP)
			stopped(t, j.front, j.command)
			unix.Kill(j.command, unix.SIGCONT)
			running(t, j.front, j.command)
			j.expect(got(unix.SIGCONT))
		}
	})
	t.Run("the command is stopped for a moment", func(t *testing.T) {
		t.Parallel()
		j := start(t, run+prog+" count")
		for range 3 {
			unix.Kill(j.command, unix.SIGSTOP)
			stopped(t, j.command)
			unix.Kill(j.command, unix.SIGCONT)
			// What is passed on is so until well after the moment when upconv stops as well, if it
			// does.
			for until := time.Now().Add(150 * time.Millisecond); time.Now().Before(until); {
				unix.Kill(j.front, unix.SIGUSR2)
				j.expect(got(unix.SIGUSR2))
			}
		}
	})
	t.Run("the stopped command is killed by others", func(t *testing.T) {
		t.Parallel()
		j := start(t, run+prog+" count")
		unix.Kill(j.command, unix.SIGSTOP)
		stopped(t, j.front, j.command)
		j.expect("Stopped")
		unix.Kill(j.command, unix.SIGKILL)
		eventually(t, "upconv's end", func() bool { return gone(j.front) })
		j.typed("wait %1; echo end $?\n")
		j.expect("end 137")
	})
	t.Run("stopped job is killed", func(t *testing.T) {
		t.Parallel()
		j := start(t, run+prog+" count default 20 default 15")
		j.typed("\x1a")
		j.expect("Stopped")
		j.typed("kill %1; fg; echo end $?\n") // bash continues what it has sent SIGTERM
		j.expect(" 143")                      // "end", or if bash has heard before fg, "Exit"
	})
	t.Run("background reads the terminal", func(t *testing.T) {
		t.Parallel()
		tty := newTerminal(t)
		tty.shell()
		tty.typed(run + "sed -u s/a/b/ & pid=$!; echo star''ted\n")
		tty.expect("started")
		tty.typed("until jobs | grep Stopped; do :; done\n")
		tty.expect("Stopped")
		tty.typed("fg; echo end $?\n")
		tty.expect("sed -u")
		tty.typed("xaxa\n")
		tty.expect("xbxa")
		tty.typed("\x04")
		tty.expect("end 0")
	})
}

func TestParentTimeout(t *testing.T) {
	needRoot(t)
	prog := staticC(t, "launch_signals.c")
	timeoutProgram := needProgram(t, "timeout")
	t.Run("ends", func(t *testing.T) {
		t.Parallel()
		began := time.Now()
		cmd := command(t, timeoutProgram, "1", bin, "run", "--isolate", "--", "sleep", "1000")
		if code, out := status(t, cmd); code != 124 || out != "" || time.Since(began) > 10*time.Second {
			t.Errorf("exit status %d, want 124, after %v\n%s", code, time.Since(began), out)
		}
	})
	t.Run("SIGTERM ignored", func(t *testing.T) {
		t.Parallel()
		c := startCounter(t, command(t, timeoutProgram, "-k", "1", "1", bin, "run", "--isolate", "--", prog, "count"))
		c.expect(got(unix.SIGTERM))
		err := c.cmd.Wait() // timeout itself is of the group that it kills
		if ws := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.ExitStatus() != 137 && ws.Signal() != unix.SIGKILL {
			t.Errorf("%v, want exit status 137", err)
		}
		eventually(t, "the command's death", func() bool { return gone(c.pid) })
	})
}

// family is a command under upconv that has left a descendant behind in a session of its own, which
// connects when it is told to.
type family struct {
	*counter
	supervisor int
	release    string // a FIFO: the descendant goes on when it has been opened and closed
	said       string // what the descendant has said
}

func startFamily(t *testing.T, l *lab) *family {
	t.Helper()
	host, port, _ := strings.Cut(l.greet(), ":")
	prog, client := staticC(t, "launch_signals.c"), staticC(t, "launch_client.c")
	dir := publicDir(t)
	f := &family{release: filepath.Join(dir, "fifo"), said: filepath.Join(dir, "said")}
	if err := unix.Mkfifo(f.release, 0o666); err != nil {
		t.Fatal(err)
	}
	f.counter = startCounter(t, l.under("sh", "-c", fmt.Sprintf("setsid %s %s %s %s >%s 2>&1 </dev/null & exec %s count",
		client, host, port, f.release, f.said, prog)))
	f.supervisor = supervisorOf(t, f.cmd.Process.Pid)
	return f
}

// letGo has the descendant connect and returns what it said.
func (f *family) letGo() (said string) {
	f.t.Helper()
	end, err := os.OpenFile(f.release, os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	end.Close()
	eventually(f.t, "what the descendant says", func() bool {
		text, _ := os.ReadFile(f.said)
		said = string(text)
		return strings.HasSuffix(said, "\n")
	})
	return said
}

func TestParentDescendantsAreServed(t *testing.T) {
	l := newLab(t)
	f := startFamily(t, l)
	if code := f.status(); code != 5 {
		t.Errorf("exit status %d, want 5\n%s", code, f.errs)
	}
	f.expectEOF() // nobody holds standard output
	if gone(f.supervisor) {
		t.Fatal("the supervisor is gone")
	}
	if said := f.letGo(); said != greeting {
		t.Errorf("the descendant said %q, want %q", said, greeting)
	}
	eventually(t, "the supervisor's end", func() bool { return gone(f.supervisor) })
}

func TestParentKilled(t *testing.T) {
	l := newLab(t)
	f := startFamily(t, l)
	if err := f.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command's death", func() bool { return gone(f.pid) })
	f.cmd.Wait()
	f.expectEOF()
	if said := f.letGo(); said != greeting {
		t.Errorf("the descendant said %q, want %q", said, greeting)
	}
	eventually(t, "the supervisor's end", func() bool { return gone(f.supervisor) })
}

// TestParentKilledAtOnce has the command itself kill its front process, as early as it can.
func TestParentKilledAtOnce(t *testing.T) {
	l := newLab(t)
	host, port, _ := strings.Cut(l.greet(), ":")
	prog := staticC(t, "launch_orphan.c")
	for range 20 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := l.under(prog, host, port)
		cmd.Stdout = w
		err = cmd.Start()
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(r)
		r.Close()
		cmd.Wait()
		if err != nil || string(said) != greeting {
			t.Fatalf("the descendant said %q, %v; want %q", said, err, greeting)
		}
	}
}

func TestParentSupervisorKilled(t *testing.T) {
	l := newLab(t)
	f := startFamily(t, l)
	if err := unix.Kill(f.supervisor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command's death", func() bool { return gone(f.pid) })
	if code := f.status(); code != 137 {
		t.Errorf("exit status %d, want 137", code)
	}
	if errs := f.errs.String(); !strings.Contains(errs, "supervisor") || strings.Count(errs, "\n") != 1 {
		t.Errorf("message %q", errs)
	}
	if said, want := f.letGo(), fmt.Sprintf("connect: %d\n", unix.ENOSYS); said != want {
		t.Errorf("the descendant said %q, want %q", said, want)
	}
}

func TestParentFirstProcess(t *testing.T) {
	l := newLab(t)
	unshare := needProgram(t, "unshare")
	host, port, _ := strings.Cut(l.greet(), ":")
	prog, client := staticC(t, "launch_signals.c"), staticC(t, "launch_client.c")
	under := func(args ...string) *exec.Cmd {
		return command(t, unshare, append([]string{"--pid", "--fork", "--kill-child", "--mount-proc",
			bin, "run", "--netns", l.origin, "--via", "netns:" + l.egress, "--"}, args...)...)
	}
	// Zombies whose parent is the first process, or the supervisor, for longer than a moment.
	script := `
test "$(readlink /proc/1/exe)" = "$1" || exit 3
for i in 1 2 3 4 5 6 7 8 9 10; do (true &); (setsid true &); (setsid sh -c 'true & true &' &); done
end=$(($(date +%s) + 10))
while :; do
	dead=
	left=
	for stat in /proc/[0-9]*/stat; do
		read pid name state rest <$stat || continue
		case "$name $state" in
		"(cat) Z"|*"$$ "*) ;;
		*" Z") dead="$dead $pid$name" ;;
		"(true) "*|"(setsid) "*) left="$left $pid$name" ;;
		esac
	done 2>/dev/null
	test -z "$dead$left" && exit 7
	test $(date +%s) -ge $end && { echo "zombies:$dead"; exit 8; }
done`
	t.Run("orphans", func(t *testing.T) {
		t.Parallel()
		if code, out := status(t, under("sh", "-c", script, "sh", executable)); code != 7 || out != "" {
			t.Errorf("exit status %d, want 7\n%s", code, out)
		}
	})
	t.Run("death by signal", func(t *testing.T) {
		t.Parallel()
		if code, out := status(t, under(prog, "die", "11")); code != 128+11 || out != "" {
			t.Errorf("exit status %d, want %d\n%s", code, 128+11, out)
		}
	})
	t.Run("serves", func(t *testing.T) {
		t.Parallel()
		if got := output(t, under(client, host, port)); got != greeting {
			t.Errorf("got %q, want %q", got, greeting)
		}
	})
	t.Run("signals", func(t *testing.T) {
		t.Parallel()
		c := startCounter(t, under(prog, "count"))
		front := childrenOf(c.cmd.Process.Pid)
		if len(front) != 1 {
			t.Fatalf("children of unshare: %v", front)
		}
		c.pid = 0 // means nothing out here
		unix.Kill(front[0], unix.SIGTERM)
		c.expect(got(unix.SIGTERM))
		unix.Kill(front[0], unix.SIGUSR2)
		c.expect(got(unix.SIGUSR2))
		if n := c.tally()[int(unix.SIGTERM)]; n != 1 {
			t.Errorf("SIGTERM came %d times", n)
		}
		if code := c.status(); code != 5 {
			t.Errorf("exit status %d, want 5", code)
		}
	})
}

// sh runs a shell script in which $upconv is a command line to put in front of a command.
func sh(t testing.TB, l *lab, script string, env ...string) *exec.Cmd {
	cmd := command(t, "sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = patience
	cmd.Env = append(append(os.Environ(), "upconv="+fmt.Sprintf("%s run --netns %s --via netns:%s --", bin, l.origin, l.egress)), env...)
	return cmd
}

func TestParentPipes(t *testing.T) {
	l := newLab(t)
	host, port, _ := strings.Cut(l.greet(), ":")
	client := staticC(t, "launch_client.c")
	for _, test := range []struct {
		name, script, want string
	}{
		{"the reader goes away", `yes | $upconv head -1`, "y\n"},
		{"the reader behind goes away", `$upconv yes | head -1`, "y\n"},
		{"in the middle", `seq 100000 | $upconv sed -n '$p' | cat`, "100000\n"},
		{"two of them", `seq 1000 | $upconv sed s/1/x/ | $upconv tail -1`, "x000\n"},
		{"nothing is consumed", `seq 5 | { $upconv dd bs=1 count=4 status=none; cat; }`, "1\n2\n3\n4\n5\n"},
		{"nothing is consumed by one that reads nothing", `seq 3 | { $upconv true; cat; }`, "1\n2\n3\n"},
		{"standard output closed early",
			// cat ends, and says so, while the command waits for it
			`mkfifo $dir/end; $upconv sh -c 'echo a; exec >&-; read x <$dir/end; echo $x >&2' 2>$dir/said | { cat; echo b >$dir/end; }; until test -s $dir/said; do :; done; cat $dir/said`,
			"a\nb\n"},
		{"standard input closed early",
			`mkfifo $dir/end; { yes 2>/dev/null; echo yes has ended >$dir/end; } | $upconv sh -c 'head -1; exec <&-; exec <$dir/end; cat'`,
			"y\nyes has ended\n"},
		{"extra descriptor closed early",
			`mkfifo $dir/end; { $upconv sh -c 'echo a >&9; exec 9>&-; read x <$dir/end; echo $x >$dir/said' 9>&1 >/dev/null; } | { cat; echo b >$dir/end; }; until test -s $dir/said; do :; done; cat $dir/said`,
			"a\nb\n"},
		{"daemon in a command substitution",
			`mkfifo $dir/end; out=$($upconv sh -c 'setsid $client $host $port $dir/end >$dir/said 2>&1 </dev/null & echo started' 2>&1); echo "$out"; : >$dir/end; until test -s $dir/said; do :; done; cat $dir/said`,
			"started\n" + greeting},
		{"background", `$upconv sh -c 'exit 3' & wait $!; echo $?`, "3\n"},
		{"background, killed", `$upconv sleep 1000 & kill $!; wait $!; echo $?`, "143\n"},
		{"background, interrupt ignored", `$upconv sh -c 'kill -INT $$; echo alive' & wait $!; echo $?`, "alive\n0\n"},
		{"many at once", `for i in 1 2 3 4 5 6 7 8; do $upconv sh -c "exit $i" & p="$p $!"; done; for q in $p; do wait $q; echo $?; done`, "1\n2\n3\n4\n5\n6\n7\n8\n"},
		{"exec", `exec $upconv sh -c 'echo replaced'`, "replaced\n"},
		{"here-document", "$upconv cat <<.\na\nb\n.\n", "a\nb\n"},
		{"replaced by others", `$upconv sh -c 'exec sh -c "exec echo a"'`, "a\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := sh(t, l, test.script, "dir="+publicDir(t), "client="+client, "host="+host, "port="+port)
			if got := output(t, cmd); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("binary input", func(t *testing.T) {
		t.Parallel()
		data := make([]byte, 4<<20)
		rand.New(rand.NewSource(1)).Read(data)
		cmd := l.under("cat")
		var out bytes.Buffer
		cmd.Stdin, cmd.Stdout = bytes.NewReader(data), &out
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(out.Bytes()) != sha256.Sum256(data) {
			t.Errorf("%d bytes went in, %d others came out", len(data), out.Len())
		}
	})
	t.Run("terminated while blocked on output", func(t *testing.T) {
		t.Parallel()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := l.under("yes")
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 143 {
			t.Errorf("exit status %d, want 143", code)
		}
	})
}
