//go:build linux

package nsdial_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/upconv/upconv/nsdial"
	"golang.org/x/sys/unix"
)

func TestOpenSameNamespace(t *testing.T) {
	name := makeNetNS(t)
	byName := open(t)(nsdial.OpenName(name))
	byPath := open(t)(nsdial.OpenPath("/run/netns/" + name))

	// A process started by fn lives where fn runs.
	sleeper := exec.Command("sleep", "600")
	if err := byName.Do(sleeper.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	byPID := open(t)(nsdial.OpenPID(sleeper.Process.Pid))

	fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	byFD := open(t)(nsdial.OpenFD(fd))
	if byFD.FD() != fd {
		t.Errorf("descriptor %d became %d", fd, byFD.FD())
	}
	var inside *nsdial.Namespace
	if err := byName.Do(func() (err error) { inside, err = nsdial.OpenCurrent(); return err }); err != nil {
		t.Fatal(err)
	}
	defer inside.Close()

	here := open(t)(nsdial.OpenCurrent())
	var st unix.Stat_t
	if err := unix.Stat("/run/netns/"+name, &st); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*nsdial.Namespace{byName, byPath, byPID, byFD, inside} {
		if !n.Is(byName) || n.Is(here) || here.Is(n) {
			t.Errorf("%s: mistaken for another", n)
		}
		if n.Inode() != st.Ino {
			t.Errorf("%s: inode %d, want %d", n, n.Inode(), st.Ino)
		}
		if got, want := cookie(t, n), cookie(t, byName); got != want || got == threadCookie(t) {
			t.Errorf("%s: cookie %d, want %d, here %d", n, got, want, threadCookie(t))
		}
		if flags, err := unix.FcntlInt(uintptr(n.FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: descriptor flags %#x, %v: not close-on-exec", n, flags, err)
		}
	}
	for _, c := range []struct {
		n    *nsdial.Namespace
		want string
	}{
		{byName, fmt.Sprintf("netns %q", name)},
		{byPath, "netns /run/netns/" + name},
		{byPID, fmt.Sprintf("netns of pid %d", sleeper.Process.Pid)},
		{byFD, fmt.Sprintf("netns of descriptor %d", fd)},
		{here, "current netns"},
	} {
		if c.n.String() != c.want {
			t.Errorf("called %q, want %q", c.n, c.want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	fifo := filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	gone := ended.Process.Pid
	before := countDir(t, "/proc/self/fd")
	for _, c := range []struct {
		name string
		open func() (*nsdial.Namespace, error)
		is   error
		text string
	}{
		{"unknown name", func() (*nsdial.Namespace, error) { return nsdial.OpenName("nsdial-none") }, fs.ErrNotExist,
			`netns "nsdial-none": open /run/netns/nsdial-none: no such file or directory`},
		{"empty name", func() (*nsdial.Namespace, error) { return nsdial.OpenName("") }, nil, `netns "": empty name`},
		{"slash", func() (*nsdial.Namespace, error) { return nsdial.OpenName("../../proc/self/ns/net") }, nil, "not a name"},
		{"dots", func() (*nsdial.Namespace, error) { return nsdial.OpenName("..") }, nil, "not a name"},
		{"NUL", func() (*nsdial.Namespace, error) { return nsdial.OpenName("a\x00b") }, nil, "not a name"},
		{"no path", func() (*nsdial.Namespace, error) { return nsdial.OpenPath(dir + "/none") }, fs.ErrNotExist, "open " + dir + "/none: no such file"},
		{"empty path", func() (*nsdial.Namespace, error) { return nsdial.OpenPath("") }, fs.ErrNotExist, "open : no such file"},
		{"file", func() (*nsdial.Namespace, error) { return nsdial.OpenPath(file) }, nsdial.ErrNotNetNS, file + ": not a network namespace"},
		{"FIFO", func() (*nsdial.Namespace, error) { return nsdial.OpenPath(fifo) }, nsdial.ErrNotNetNS, fifo + ": not a network namespace"},
		{"directory", func() (*nsdial.Namespace, error) { return nsdial.OpenPath(dir) }, nsdial.ErrNotNetNS, dir + ": not a network namespace"},
		{"device", func() (*nsdial.Namespace, error) { return nsdial.OpenPath("/dev/null") }, nsdial.ErrNotNetNS, "/dev/null: not a"},
		{"terminal", func() (*nsdial.Namespace, error) { return nsdial.OpenPath("/dev/ptmx") }, nsdial.ErrNotNetNS, "/dev/ptmx: not a"},
		{"procfs", func() (*nsdial.Namespace, error) { return nsdial.OpenPath("/proc/self/status") }, nsdial.ErrNotNetNS, "not a"},
		{"mount namespace", func() (*nsdial.Namespace, error) { return nsdial.OpenPath("/proc/self/ns/mnt") }, nsdial.ErrNotNetNS,
			"/proc/self/ns/mnt: not a network namespace"},
		{"ended process", func() (*nsdial.Namespace, error) { return nsdial.OpenPID(gone) }, fs.ErrNotExist,
			fmt.Sprintf("netns of pid %d: open /proc/%d/ns/net: no such file", gone, gone)},
		{"pid 0", func() (*nsdial.Namespace, error) { return nsdial.OpenPID(0) }, fs.ErrNotExist, "netns of pid 0: no such pid"},
		{"pid -1", func() (*nsdial.Namespace, error) { return nsdial.OpenPID(-1) }, fs.ErrNotExist, "netns of pid -1"},
		{"closed descriptor", func() (*nsdial.Namespace, error) { return nsdial.OpenFD(-1) }, unix.EBADF, "netns of descriptor -1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := c.open()
			if err == nil {
				n.Close()
				t.Fatal("opened")
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v is not %v", err, c.is)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q does not say %q", err, c.text)
			}
		})
	}
	if after := countDir(t, "/proc/self/fd"); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// A zombie has left its namespace.
func TestOpenZombie(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	n, err := nsdial.OpenPID(cmd.Process.Pid)
	if err == nil {
		n.Close()
		t.Fatal("opened the namespace of a zombie")
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

// A name whose bind mount is gone is an ordinary file.
func TestOpenNameLeftover(t *testing.T) {
	needRoot(t)
	name := namePrefix() + "leftover"
	path := "/run/netns/" + name
	if err := errors.Join(os.MkdirAll("/run/netns", 0o755), os.WriteFile(path, nil, 0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	_, err := nsdial.OpenName(name)
	wantErr(t, err, nsdial.ErrNotNetNS, fmt.Sprintf("netns %q: %s: not a network namespace", name, path))
}

func TestOpenFDLeavesOthersAlone(t *testing.T) {
	for _, c := range []struct {
		path  string
		flags int
		want  error
	}{
		{"/dev/null", unix.O_RDONLY, nsdial.ErrNotNetNS},
		{"/proc/self/ns/uts", unix.O_RDONLY, nsdial.ErrNotNetNS},
		{"/proc/self/ns/net", unix.O_PATH, unix.EBADF},
	} {
		fd, err := unix.Open(c.path, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = nsdial.OpenFD(fd)
		wantErr(t, err, c.want, fmt.Sprintf("netns of descriptor %d", fd))
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags != 0 {
			t.Errorf("%s: descriptor flags %#x, %v after the error", c.path, flags, err)
		}
		unix.Close(fd)
	}
}

func TestEnter(t *testing.T) {
	n := newNS(t)
	home := threadCookie(t)
	want := cookie(t, n)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // for good
		if unix.Gettid() == unix.Getpid() {
			// Not this one: take another thread while it is occupied.
			defer runtime.UnlockOSThread()
			done := make(chan struct{})
			go func() { defer close(done); runtime.LockOSThread(); enterHere(t, n, want) }()
			<-done
			return
		}
		enterHere(t, n, want)
	})
	wg.Wait()
	if c := threadCookie(t); c != home {
		t.Errorf("the test is in namespace %d, was in %d", c, home)
	}
}

func enterHere(t *testing.T, n *nsdial.Namespace, want uint64) {
	for range 2 { // the second does nothing
		if err := n.Enter(); err != nil {
			t.Error(err)
			return
		}
		if c := threadCookie(t); c != want {
			t.Errorf("entered namespace %d, want %d", c, want)
		}
	}
	before := len(n.TIDs())
	fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Error(err)
		return
	}
	if c := cookieOfFD(t, fd); c != want {
		t.Errorf("socket of namespace %d, want %d", c, want)
	}
	unix.Close(fd)
	if got := len(n.TIDs()); got != before {
		t.Errorf("%d threads after a socket made here, %d before", got, before)
	}
}

// A thread that entered and was moved on, by whatever, is not believed.
func TestEnterThenLeave(t *testing.T) {
	n, other := newNS(t), newNS(t)
	want := cookie(t, n)
	err := other.Do(func() error { // a thread that may be moved: it ends afterwards
		for range 3 {
			if err := n.Enter(); err != nil {
				return err
			}
			for _, ns := range []*nsdial.Namespace{n, other} {
				if err := ns.Enter(); err != nil {
					return err
				}
				fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				if err != nil {
					return err
				}
				if c := cookieOfFD(t, fd); c != want {
					t.Errorf("thread in %s: socket of namespace %d, want %d", ns, c, want)
				}
				unix.Close(fd)
			}
		}
		return n.Enter()
	})
	if err != nil {
		t.Fatal(err)
	}
	err = other.Do(func() error {
		if got := threadCookie(t); got != cookie(t, other) {
			t.Error("a moved thread was used again")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEnterOwnNamespaceIsNothing(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // it was not moved
	if err := n.Enter(); err != nil {
		t.Error(err)
	}
}

// The main thread shows in /proc/PID/ns/net and cannot be ended.
func TestMainThreadStays(t *testing.T) {
	name := makeNetNS(t)
	runChild(t, "/proc/self/exe", "main-thread", nil, []string{"NSDIAL_TEST_NETNS=" + name})
}

func mainThreadChild() error {
	n, err := nsdial.OpenName(os.Getenv("NSDIAL_TEST_NETNS"))
	if err != nil {
		return err
	}
	if unix.Gettid() != unix.Getpid() {
		return errors.New("TestMain is not on the main thread")
	}
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	var inside string
	ran := make(chan error, 1)
	if err := n.RunThread(func() {
		var err error
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		ran <- err
	}); err != nil {
		return err
	}
	if err := <-ran; err != nil {
		return err
	}
	after, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if inside == before || after != before {
		return fmt.Errorf("main thread in %s, then in %s; worker in %s", before, after, inside)
	}
	if err := n.Close(); err != nil {
		return err
	}
	if unix.Gettid() != unix.Getpid() {
		return errors.New("TestMain was moved off the main thread")
	}
	return nil
}

func TestCookieOldKernel(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	n.ForgetCookies()
	_, err := n.Cookie()
	wantErr(t, err, errors.ErrUnsupported, "SO_NETNS_COOKIE not supported (requires Linux >= 5.14)")
	// All else works without.
	fd, err := n.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	c, err := n.DialContext(t.Context(), "unixgram", abstractListener(t, n))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestClosed(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	fd, err := n.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, use := range map[string]func() error{
		"Socket":       func() error { _, err := n.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"Do":           func() error { return n.Do(func() error { t.Error("ran"); return nil }) },
		"Enter":        n.Enter,
		"Cookie":       func() error { _, err := n.Cookie(); return err },
		"DialContext":  func() error { _, err := n.DialContext(ctx, "unix", "@nsdial"); return err },
		"dial a name":  func() error { _, err := n.DialContext(ctx, "tcp", "name.invalid:1"); return err },
		"Listen":       func() error { _, err := n.Listen(ctx, "unix", "@nsdial"); return err },
		"ListenPacket": func() error { _, err := n.ListenPacket(ctx, "unixgram", "@nsdial"); return err },
		"Control": func() error {
			_, err := (&net.Dialer{Control: n.Control}).Dial("unix", "@nsdial")
			return err
		},
	} {
		err := use()
		if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "current netns: already closed") {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if n.FD() != -1 {
		t.Errorf("descriptor %d after Close", n.FD())
	}
	if err := n.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// As an ordinary user: everything in one's own namespace works, and nothing
// elsewhere, with an error that tells why. The tests run in a process without
// privileges; started by an ordinary user they do anyway.
func TestUnprivileged(t *testing.T) {
	if os.Getenv(childEnv) == "unprivileged" {
		testForbidden(t, os.Getenv("NSDIAL_TEST_NETNS"))
		return
	}
	name := makeNetNS(t)
	try := exec.Command("true")
	try.SysProcAttr = asNobody()
	if err := try.Run(); err != nil {
		t.Skipf("needs other user IDs than one's own: %v", err)
	}
	dir, err := os.MkdirTemp("", "nsdial")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe := filepath.Join(dir, "nsdial.test")
	bin, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(exe, bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	runChild(t, exe, "unprivileged", asNobody(), []string{"NSDIAL_TEST_NETNS=" + name},
		"-test.run=^(TestUnprivileged|TestOpenErrors|TestCurrent.*|TestClosed|TestCookieOldKernel|TestDo[A-Z].*|TestEnterOwnNamespaceIsNothing|TestOpenFDLeavesOthersAlone)$")
}

func testForbidden(t *testing.T, name string) {
	n := open(t)(nsdial.OpenName(name))
	ctx := t.Context()
	tasks := countDir(t, "/proc/self/task")
	for what, use := range map[string]func() error{
		"Socket":      func() error { _, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
		"Do":          func() error { return n.Do(func() error { t.Error("ran"); return nil }) },
		"Enter":       n.Enter,
		"Cookie":      func() error { _, err := n.Cookie(); return err },
		"DialContext": func() error { _, err := n.DialContext(ctx, "tcp", "192.0.2.1:80"); return err },
		"dial a name": func() error { _, err := n.DialContext(ctx, "tcp", "name.invalid:80"); return err },
		"Listen":      func() error { _, err := n.Listen(ctx, "tcp", "192.0.2.1:0"); return err },
	} {
		for range 20 {
			err := use()
			if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, unix.EPERM) {
				t.Fatalf("%s: %v", what, err)
			}
			if _, bare := err.(unix.Errno); bare {
				t.Errorf("%s: a bare errno, as if the socket were to blame", what)
			}
			want := fmt.Sprintf("netns %q: enter: operation not permitted (needs CAP_SYS_ADMIN", name)
			if !strings.Contains(err.Error(), want) {
				t.Fatalf("%s: %q does not say %q", what, err, want)
			}
		}
	}
	// Each of those tried to start a thread; none may have stayed. The runtime's
	// own may be a few more by now.
	if after := countDir(t, "/proc/self/task"); after > tasks+20 {
		t.Errorf("%d threads, %d before", after, tasks)
	}
	_, err := nsdial.OpenPID(1)
	wantErr(t, err, fs.ErrPermission, "netns of pid 1: open /proc/1/ns/net: permission denied")
}
