//go:build linux

package seccompx

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	envSubprocess = "SECCOMPX_TEST_SUBPROCESS" // name of the test that may change its process for good
	envTarget     = "SECCOMPX_TEST_TARGET"     // what a supervised program is to do
)

func TestMain(m *testing.M) {
	if what := os.Getenv(envTarget); what != "" {
		os.Exit(targetMain(what))
	}
	os.Exit(m.Run())
}

// inSubprocess is for tests that leave their process changed: call it first and return if it is
// false. It runs the test again in a process of its own, where it is true.
func inSubprocess(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envSubprocess) == t.Name() {
		return true
	}
	var pattern []string
	for _, part := range strings.Split(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.Command(executable(t), "-test.run="+strings.Join(pattern, "/"), "-test.v", "-test.timeout=60s")
	// The race detector otherwise sleeps a second at the end of each process.
	cmd.Env = append(os.Environ(), envSubprocess+"="+t.Name(), "GORACE=atexit_sleep_ms=10 "+os.Getenv("GORACE"))
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("in a subprocess: %v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("in a subprocess:\n%s", out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
		t.Fatalf("the subprocess did not run the test:\n%s", out)
	}
	return false
}

func executable(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// result is what a system call returned.
type result struct {
	value uintptr
	errno syscall.Errno
}

// target is a thread of this process under a filter. Its system calls are made through it.
type target struct {
	*Listener
	t     testing.TB
	calls chan func()
	tid   int
}

// stopped is the call that the targets of these tests are stopped in: one that returns a
// descriptor, takes any argument and that the Go runtime does not make.
const (
	stoppedName = "inotify_init1"
	stopped     = unix.SYS_INOTIFY_INIT1
)

var notifyStopped = Filter{Rules: []Rule{{Syscalls: []string{stoppedName}, Do: UserNotify}}}

// newTarget starts a thread under the filter. It ends with the test. With ownFiles it has a
// descriptor table of its own.
func newTarget(t testing.TB, f Filter, o InstallOptions, ownFiles bool) *target {
	t.Helper()
	p := assemble(t, f)
	tg := &target{t: t, calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if ownFiles {
			if err := unix.Unshare(unix.CLONE_FILES); err != nil {
				ready <- err
				return
			}
		}
		l, err := Install(p, o)
		tg.Listener, tg.tid = l, unix.Gettid()
		ready <- err
		if err != nil {
			return
		}
		for call := range tg.calls {
			call()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if ownFiles {
		tg.Listener = tg.adopt(t)
	}
	t.Cleanup(func() {
		close(tg.calls)
		if tg.Listener != nil {
			tg.Close()
		}
	})
	return tg
}

// adopt takes the listener out of the thread's own descriptor table into that of everybody else.
func (tg *target) adopt(t testing.TB) *Listener {
	t.Helper()
	pidfd, err := unix.PidfdOpen(tg.tid, unix.PIDFD_THREAD)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, tg.FD(), 0)
	if err != nil {
		t.Fatal(err)
	}
	inside := tg.Listener
	tg.run(func() { inside.Close() })
	l, err := NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs f on the target's thread and waits for it.
func (tg *target) run(f func()) {
	done := make(chan struct{})
	tg.calls <- func() { defer close(done); f() }
	<-done
}

// syscall starts a system call on the target's thread; the result comes later.
func (tg *target) syscall(nr uintptr, args ...uintptr) <-chan result {
	args = append(args, make([]uintptr, 6-len(args))...)
	out := make(chan result, 1)
	tg.calls <- func() {
		r, _, errno := unix.Syscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
		out <- result{r, errno}
	}
	return out
}

// stop has the target make a call that the filter stops, and returns its notification.
func (tg *target) stop(args ...uintptr) (*Notification, <-chan result) {
	tg.t.Helper()
	out := tg.syscall(stopped, args...)
	var n Notification
	if err := tg.Receive(&n); err != nil {
		tg.t.Fatal(err)
	}
	return &n, out
}

// fdFlags returns F_GETFD in the target, -1 if the number is not in use there.
func (tg *target) fdFlags(fd int) (flags int) {
	tg.run(func() {
		var err error
		if flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			flags = -1
		}
	})
	return flags
}

// stat identifies a file that is open in the target.
func (tg *target) stat(fd int) (id fileID) {
	tg.t.Helper()
	tg.run(func() { id = statFD(tg.t, fd) })
	return id
}

type fileID struct{ dev, ino uint64 }

func statFD(t testing.TB, fd int) fileID {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Errorf("fstat %d: %v", fd, err)
	}
	return fileID{st.Dev, st.Ino}
}

// memfd returns a descriptor of a new file with that content. It is close-on-exec and closed with
// the test.
func memfd(t testing.TB, content string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("seccompx", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, []byte(content), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// program is a process under the filter: this test binary once more, with targetMain for a main.
type program struct {
	*Listener
	cmd    *exec.Cmd
	stderr bytes.Buffer
	done   chan error // its end, once
}

// startProgram starts one. Its filter stops the calls of notifyStopped in all its threads.
func startProgram(t testing.TB, what string) *program {
	t.Helper()
	p := &program{done: make(chan error, 1)}
	p.cmd = exec.Command(executable(t), "-test.run=^$")
	p.cmd.Env = append(os.Environ(), envTarget+"="+what, "GORACE=atexit_sleep_ms=10 "+os.Getenv("GORACE"))
	p.cmd.Stderr = &p.stderr
	code := assemble(t, notifyStopped)
	var err error
	OnOwnThread(func() { // which is under the filter as well
		if p.Listener, err = Install(code, InstallOptions{NoNewPrivs: true, Listener: true}); err == nil {
			err = p.cmd.Start()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.Close()
	})
	return p
}

// kill kills it and waits until it is dead.
func (p *program) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
}

// end waits for the program to end well.
func (p *program) end(t testing.TB) {
	t.Helper()
	if err := <-p.done; err != nil {
		t.Fatalf("program: %v\n%s", err, &p.stderr)
	}
}

// targetMain is what a program does: "N M" is N threads, each of which is stopped M times with a
// token as argument and expects a descriptor of a file that contains the token.
func targetMain(what string) int {
	var threads, calls int
	if _, err := fmt.Sscanf(what, "%d %d", &threads, &calls); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	errs := make(chan error)
	for i := range threads {
		go func() {
			runtime.LockOSThread()
			for j := range calls {
				token := uintptr(i*calls + j + 1)
				fd, _, errno := unix.Syscall(stopped, token, 0, 0)
				if errno != 0 {
					errs <- errno
					return
				}
				buf := make([]byte, 32)
				n, err := unix.Pread(int(fd), buf, 0)
				if err == nil && string(buf[:n]) != fmt.Sprint(token) {
					err = fmt.Errorf("token %d, but the file says %q", token, buf[:n])
				}
				unix.Close(int(fd))
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	status := 0
	for range threads {
		if err := <-errs; err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	return status
}

func assemble(t testing.TB, f Filter) Program {
	t.Helper()
	p, err := f.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testkit.OpenFDs lists the descriptors of this process.
func openFDs(t testing.TB) string {
	t.Helper()
	dir, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	buf := make([]byte, 1<<16)
	n, err := unix.ReadDirent(dir, buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _, names := unix.ParseDirent(buf[:n], -1, nil)
	return strings.Join(names, " ")
}

// filteredThreads lists the threads of this process that are under a filter or have no_new_privs.
func filteredThreads(t testing.TB) (tids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(files) == 0 {
		t.Fatal("no threads in /proc", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\nSeccomp:\t0\n") || !strings.Contains(string(text), "\nNoNewPrivs:\t0\n") {
			tids = append(tids, filepath.Base(filepath.Dir(f)))
		}
	}
	return tids
}

func wantErr(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("%s: %v; want %v", what, err, w)
		}
	}
}

func wantErrno(t testing.TB, what string, got result, want syscall.Errno) {
	t.Helper()
	if got.errno != want {
		t.Errorf("%s: errno %d (%v), want %d (%v)", what, got.errno, got.errno, want, want)
	}
}
