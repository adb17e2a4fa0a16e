//go:build linux

package nsdial_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/upconv/upconv/nsdial"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// childEnv tells a copy of the test binary what it was started for.
const childEnv = "NSDIAL_TEST_CHILD"

func init() {
	if os.Getenv(childEnv) == "main-thread" {
		runtime.LockOSThread() // in init: main, and so TestMain, stays on the main thread
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "main-thread" {
		if err := mainThreadChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(apartEnv) == "" {
		// Should the code be so wrong that it connects where the tests are, it must
		// not reach anything: run them in a namespace without a network.
		run := runApart
		if os.Geteuid() != 0 {
			run = runAsRoot
		}
		fmt.Fprintln(os.Stderr, run())
		os.Exit(1)
	}
	code := m.Run()
	if left, _ := filepath.Glob("/run/netns/" + namePrefix() + "*"); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "namespaces left behind:", left)
		for _, path := range left {
			_ = netns.DeleteNamed(filepath.Base(path))
		}
		code = max(code, 1)
	}
	os.Exit(code)
}

// apartEnv says that the tests are where runApart put them.
const apartEnv = "NSDIAL_TEST_APART"

// runApart starts the program again, as the same process, in a network namespace
// where nothing is. It returns only if it cannot.
func runApart() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // execve keeps the namespace of the thread that calls it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w (needs root with CAP_SYS_ADMIN)", err)
	}
	return fmt.Errorf("exec: %w", unix.Exec(exe, os.Args, append(os.Environ(), apartEnv+"=1")))
}

// runAsRoot starts the program again, as the same process, as root of a user namespace
// without a network, or as it is where that cannot be had. It returns only if it cannot.
func runAsRoot() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	const script = "../integration/testdata/userns.sh"
	args := append([]string{script, exe}, os.Args[1:]...)
	return fmt.Errorf("%s: %w", script, unix.Exec(script, args, append(os.Environ(), apartEnv+"=1")))
}

// runChild runs exe, this test binary, again, in a mode of its own.
func runChild(t *testing.T, exe, mode string, attr *syscall.SysProcAttr, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(exe, append([]string{"-test.v", "-test.timeout=60s"}, args...)...)
	cmd.Env = append(append(os.Environ(), childEnv+"="+mode), env...)
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", mode, err, out)
	}
	if s := string(out); strings.Contains(s, "--- SKIP") || strings.Contains(s, "no tests to run") {
		t.Fatalf("%s: nothing was tested:\n%s", mode, out)
	}
}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skipf("needs root, or user namespaces: %s", os.Getenv("UPCONV_TEST_NO_ROOT"))
	}
}

func namePrefix() string { return "nsdial-test-" + strconv.Itoa(os.Getpid()) + "-" }

var serial atomic.Int32

// makeNetNS makes a named namespace for the test, with loopback up and addrs on
// it, and returns the name.
func makeNetNS(tb testing.TB, addrs ...string) string {
	tb.Helper()
	needRoot(tb)
	name := namePrefix() + strconv.Itoa(int(serial.Add(1)))
	made := make(chan error, 1)
	go func() {
		// Never unlocked: NewNamed moves the thread, which ends with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Save the main thread, which cannot end.
			home, err := netns.Get()
			if err != nil {
				made <- err
				return
			}
			defer runtime.UnlockOSThread()
			defer home.Close()
			defer func() {
				if err := netns.Set(home); err != nil {
					panic(err)
				}
			}()
		}
		h, err := netns.NewNamed(name)
		if err == nil {
			h.Close()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		tb.Fatalf("make namespace %s: %v", name, err)
	}
	tb.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			tb.Errorf("delete namespace %s: %v", name, err)
		}
	})
	withNetlink(tb, name, func(nl *netlink.Handle) error {
		lo, err := nl.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := nl.LinkSetUp(lo); err != nil {
			return err
		}
		for _, a := range addrs {
			if err := addAddr(nl, lo, a); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return nil
	})
	return name
}

// withNetlink runs fn with a netlink handle of the namespace.
func withNetlink(tb testing.TB, name string, fn func(*netlink.Handle) error) {
	tb.Helper()
	h, err := netns.GetFromName(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer h.Close()
	nl, err := netlink.NewHandleAt(h)
	if err != nil {
		tb.Fatal(err)
	}
	defer nl.Close()
	if err := fn(nl); err != nil {
		tb.Fatalf("set up namespace %s: %v", name, err)
	}
}

func addAddr(nl *netlink.Handle, link netlink.Link, cidr string) error {
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	if err := nl.AddrAdd(link, a); err != nil || a.IP.To4() != nil {
		return err
	}
	// The kernel adds the local route of an IPv6 address a little later, from a
	// work queue; until then packets to it go nowhere.
	host := &net.IPNet{IP: a.IP, Mask: net.CIDRMask(128, 128)}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := nl.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: host},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil || len(routes) > 0 {
			return err
		}
		if time.Now().After(end) {
			return errors.New("no local route after 10 s")
		}
	}
}

// newNS is makeNetNS, opened by name until the test ends.
func newNS(tb testing.TB, addrs ...string) *nsdial.Namespace {
	tb.Helper()
	return open(tb)(nsdial.OpenName(makeNetNS(tb, addrs...)))
}

func open(tb testing.TB) func(*nsdial.Namespace, error) *nsdial.Namespace {
	tb.Helper()
	return func(n *nsdial.Namespace, err error) *nsdial.Namespace {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { n.Close() })
		return n
	}
}

func cookieOfFD(tb testing.TB, fd int) uint64 {
	tb.Helper()
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		tb.Fatal("SO_NETNS_COOKIE (needs Linux 5.14): ", err)
	}
	return c
}

func cookieOf(tb testing.TB, c any) uint64 {
	tb.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	var cookie uint64
	if err := rc.Control(func(fd uintptr) { cookie = cookieOfFD(tb, int(fd)) }); err != nil {
		tb.Fatal(err)
	}
	return cookie
}

func cookie(tb testing.TB, n *nsdial.Namespace) uint64 {
	tb.Helper()
	c, err := n.Cookie()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// threadCookie is where the calling thread lives.
func threadCookie(tb testing.TB) uint64 {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	return cookieOfFD(tb, fd)
}

func threadAlive(tid int) bool { return unix.Tgkill(unix.Getpid(), tid, 0) == nil }

// eventually polls for what has no event to wait for.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("still not true after 10 s: %s", what)
		}
	}
}

func countDir(tb testing.TB, dir string) int {
	tb.Helper()
	e, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return len(e)
}

func wantErr(tb testing.TB, err, want error, text string) {
	tb.Helper()
	if err == nil || !errors.Is(err, want) {
		tb.Errorf("error %v, want one that is %v", err, want)
		return
	}
	if !strings.Contains(err.Error(), text) {
		tb.Errorf("error %q does not say %q", err, text)
	}
}
