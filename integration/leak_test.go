package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// soon polls until ok, and reports whether that came about within patience.
func soon(ok func() bool) bool {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// tagVariable is in the environment of every process that a tagged test starts.
const tagVariable = "UPCONV_INTEGRATION"

// tag has every process that the test starts carry a mark, and checks at the end of the test that
// none of them is left, alive or as a zombie.
func (l *lab) tag(t *testing.T) {
	t.Helper()
	t.Setenv(tagVariable, l.origin)
	t.Cleanup(func() {
		var left []int
		if !soon(func() bool { left = tagged(l.origin); return len(left) == 0 }) {
			for _, pid := range left {
				t.Errorf("left over: %s", describe(pid))
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !soon(func() bool { left = zombies(); return len(left) == 0 }) {
			for _, pid := range left {
				t.Errorf("left over: zombie %s", describe(pid))
			}
		}
	})
}

// tagged lists the processes that carry the mark.
func tagged(tag string) []int {
	mark := []byte(tagVariable + "=" + tag + "\x00")
	return processes(func(pid int) bool {
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return bytes.Contains(environ, mark)
	})
}

// zombies lists the dead children of this process that nobody has waited for.
func zombies() []int {
	return processes(func(pid int) bool {
		state, parent := procStat(pid)
		return state == 'Z' && parent == os.Getpid()
	})
}

func processes(match func(pid int) bool) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && pid != os.Getpid() && match(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func describe(pid int) string {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return fmt.Sprintf("%d %q", pid, bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte{' '}))
}

// A session is a shell under upconv that runs one command line after the other, all served by one
// supervisor.
type session struct {
	t          testing.TB
	cmd        *exec.Cmd
	commands   io.WriteCloser
	output     *bufio.Reader
	errors     *buffer
	supervisor int
	base       usage // of the supervisor, before anything was run
}

// buffer is a bytes.Buffer that may be read while it is written to.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const shell = `while read -r line; do eval "$line"; printf '\nstatus %d\n' $?; done`

// session starts a shell in the origin with the egress as way out; flags are further ones of
// upconv.
func (l *lab) session(t testing.TB, flags ...string) *session {
	t.Helper()
	args := append([]string{"run", "--netns", l.origin, "--via", "netns:" + l.egress}, flags...)
	return startSession(t, upconv(t, append(args, "--", "sh", "-c", shell)...))
}

// startSession starts a command line that ends with sh -c and shell.
func startSession(t testing.TB, cmd *exec.Cmd) *session {
	t.Helper()
	s := &session{t: t, cmd: cmd, errors: &buffer{}}
	var err error
	if s.commands, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.output = bufio.NewReader(out)
	cmd.Stderr = s.errors
	cmd.WaitDelay = patience // a descendant that lives on must not keep Wait waiting for standard error
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	s.run("true")
	s.supervisor = supervisorOf(t, cmd.Process.Pid)
	s.base = usageOf(s.supervisor)
	return s
}

// start has the shell begin a command line.
func (s *session) start(line string) {
	s.t.Helper()
	if _, err := io.WriteString(s.commands, line+"\n"); err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, s.errors)
	}
}

// finish waits until what start began has ended, and returns its exit status and standard output.
func (s *session) finish() (status int, out string) {
	s.t.Helper()
	var b strings.Builder
	for {
		line, err := s.output.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the shell under upconv: %v\nstdout: %s\nstderr: %s", err, b.String(), s.errors)
		}
		if _, err := fmt.Sscanf(line, "status %d\n", &status); err == nil {
			return status, strings.TrimSuffix(b.String(), "\n")
		}
		b.WriteString(line)
	}
}

// line reads one line of what start began.
func (s *session) line() string {
	s.t.Helper()
	line, err := s.output.ReadString('\n')
	if err != nil {
		s.t.Fatalf("the shell under upconv: %v\nstderr: %s", err, s.errors)
	}
	return strings.TrimSuffix(line, "\n")
}

// run runs a command line that must succeed and returns its standard output.
func (s *session) run(args ...string) string {
	s.t.Helper()
	line := strings.Join(args, " ")
	s.start(line)
	status, out := s.finish()
	if status != 0 {
		s.t.Fatalf("%s: exit status %d\nstdout: %s\nstderr: %s", line, status, out, s.errors)
	}
	return out
}

// end ends the shell and with it upconv, and checks that both went in peace.
func (s *session) end() {
	s.t.Helper()
	s.commands.Close()
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("upconv: %v\n%s", err, s.errors)
	}
	if text := s.errors.String(); text != "" {
		s.t.Errorf("standard error: %s", text)
	}
}

// usage is what a process holds.
type usage struct {
	files   []string // what its descriptors are, sorted
	threads int
}

var inode = regexp.MustCompile(`[0-9]+`)

func usageOf(pid int) (u usage) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if what, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			u.files = append(u.files, inode.ReplaceAllString(what, ""))
		}
	}
	slices.Sort(u.files)
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	u.threads = len(tasks)
	return u
}

// spares is how many sockets more than at the start the supervisor may hold: each of its workers
// keeps up to four of each address family ready.
var spares = 2 * 4 * max(2, runtime.NumCPU())

// within reports whether a process holds no descriptor that it did not hold at the start, but for
// the spares.
func (u usage) within(start usage) bool {
	return u.lasting()-start.lasting() <= min(spares, u.sockets()-start.sockets())
}

// lasting counts descriptors, but for those of BPF programs, which are loaded a little after the
// start or when the first call waits.
func (u usage) lasting() (n int) {
	for _, file := range u.files {
		if !strings.HasPrefix(file, "anon_inode:bpf") {
			n++
		}
	}
	return n
}

func (u usage) sockets() (n int) {
	for _, file := range u.files {
		if file == "socket:[]" {
			n++
		}
	}
	return n
}

// steady does the work twice and more, and checks that the supervisor afterwards holds no
// descriptor and no thread that it did not hold before.
//
// The Go runtime makes a thread where it has none to spare and keeps it for the next time. So it is
// a leak of threads only if there are more after every round.
func (s *session) steady(work func()) {
	s.t.Helper()
	before := s.base
	for round := range 6 {
		work()
		var after usage
		if !soon(func() bool { after = usageOf(s.supervisor); return after.within(s.base) }) {
			s.t.Fatalf("the supervisor has more descriptors than at the start\nthen: %d %v\nnow:  %d %v",
				len(s.base.files), s.base.files, len(after.files), after.files)
		}
		if len(after.files) == 0 {
			s.t.Fatalf("the supervisor is gone\n%s", s.errors)
		}
		if round > 0 && after.threads <= before.threads {
			return
		}
		before = after
	}
	s.t.Errorf("the supervisor has more threads after every round: %d at the start, %d now", s.base.threads, before.threads)
}

// resident returns the supervisor's resident memory in bytes.
func (s *session) resident() int {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.supervisor))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nVmRSS:")
	var kB int
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		s.t.Fatal(err)
	}
	return kB << 10
}

var createdBy = regexp.MustCompile(`(?m)^created by (\S+)`)

// idleThread is what a thread of workers is in that waits for a worker to run. There are more than
// at the start where a worker was relieved, as one is that has to wait for a processor for long;
// each ends when it has had nothing to run for 10 s.
const idleThread = "supervisor.(*Node).thread("

// goroutines ends the supervisor by SIGTRAP, which upconv leaves to the Go runtime: that writes a
// trace of every goroutine, and returns the functions that started them, sorted, but for those of
// idle threads. The command dies with the supervisor.
func (s *session) goroutines() []string {
	s.t.Helper()
	if err := syscall.Kill(s.supervisor, syscall.SIGTRAP); err != nil {
		s.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); !errors.As(err, &exit) {
		s.t.Fatalf("upconv: %v, want an exit status", err)
	}
	var names []string
	for _, trace := range strings.Split(s.errors.String(), "\n\n") {
		by := createdBy.FindStringSubmatch(trace)
		switch {
		case by == nil:
		case strings.HasPrefix(by[1], "runtime."): // the runtime's own: the collector's, say, which come with the first garbage
		case strings.Contains(executes(trace), idleThread):
		default:
			names = append(names, by[1])
		}
	}
	if len(names) == 0 {
		s.t.Fatalf("no trace of goroutines:\n%s", s.errors)
	}
	slices.Sort(names)
	return names
}

// executes returns the line of a goroutine's trace that names the innermost function which is not
// of the Go runtime.
func executes(trace string) string {
	for line := range strings.Lines(trace) {
		if line[0] != '\t' && !strings.HasPrefix(line, "goroutine ") && !strings.HasPrefix(line, "runtime.") {
			return line
		}
	}
	return ""
}

// leakless does the work under upconv and checks that it leaves nothing behind: no descriptor and
// no thread in the supervisor while it lives, no process at the end, and no goroutine that is not
// there after one single connection.
func (l *lab) leakless(t *testing.T, work func(s *session)) {
	t.Helper()
	l.tag(t)
	one := l.session(t)
	if got := one.run(l.greetClient(t)); got != greeting {
		t.Fatalf("got %q, want %q", got, greeting)
	}
	want := one.goroutines()

	many := l.session(t)
	many.steady(func() { work(many) })
	many.end()

	many = l.session(t)
	work(many)
	soon(func() bool { return usageOf(many.supervisor).within(many.base) })
	l.connectsOver(t)
	if got := many.goroutines(); !slices.Equal(got, want) {
		t.Errorf("goroutines of the supervisor: %v\nafter one connection: %v", count(got), count(want))
	}
}

// connectsOver waits until no socket of the egress is in SYN_SENT: what waits for one that its
// program is dead to is on its way out.
func (l *lab) connectsOver(t *testing.T) {
	t.Helper()
	inNamespace(t, l.egress, func() error {
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			table, err := os.ReadFile("/proc/thread-self/net/tcp")
			if err != nil {
				return err
			}
			if !regexp.MustCompile(`(?m)^ *\d+: \S+ \S+ 02 `).Match(table) {
				return nil
			}
		}
		return errors.New("a connection is still being made")
	})
}

func count(names []string) map[string]int {
	m := map[string]int{}
	for _, name := range names {
		m[name]++
	}
	return m
}

// greetClient is the command line of a client that connects to a server of greet and prints the
// greeting.
func (l *lab) greetClient(t *testing.T) string {
	t.Helper()
	host, port := split(t, l.greet())
	return strings.Join([]string{static(t, "client_connect.c"), "connect", host, port}, " ")
}

// TestLeakDetection sees that what the other tests trust in does notice.
func TestLeakDetection(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	s := l.session(t)
	defer s.end()
	before := usageOf(s.supervisor)
	// A process that stays has its pidfd in the supervisor's cache for as long as it lives.
	host, port := split(t, l.greet())
	s.start("/usr/bin/python3 " + testdata(t, "client_get.py") + " " + host + " " + port)
	fmt.Fprintln(s.commands)
	if got := s.line() + "\n"; got != greeting {
		t.Fatalf("got %q, want %q", got, greeting)
	}
	if after := usageOf(s.supervisor); len(after.files) <= len(before.files) {
		t.Errorf("%d descriptors before, %d after; the test would not notice a leak", len(before.files), len(after.files))
	}
	if left := tagged(l.origin); len(left) < 4 { // upconv, supervisor, shell, python3
		t.Errorf("tagged processes: %v, want four at least", left)
	}
	fmt.Fprintln(s.commands, "end")
	s.finish()
}

// TestNoOrphans sees that upconv waits for its supervisor: in a container whose first process reaps
// nobody, one zombie a run would be left.
func TestNoOrphans(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	args := append([]string{testdata(t, "stress_orphans.py"), "100"}, l.under("true").Args...)
	if got := output(t, command(t, needProgram(t, python), args...)); got != "0\n" {
		t.Errorf("%s of 100 runs have left a process", strings.TrimSpace(got))
	}
}
