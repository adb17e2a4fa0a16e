// Package integration runs whole programs under upconv, in network namespaces made for the purpose.
//
// The addresses are documentation addresses (RFC 5737, RFC 3849), and a client under test always
// runs in a namespace that the test has made, so that a bug cannot send a packet anywhere else.
package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/upconv/upconv/nsdial"
)

// bin is the upconv under test: a copy of $UPCONV_BIN, or one built by TestMain.
var bin string

// executable is what runs then: bin, or what that executes in its own place.
var executable string

// scratch is a directory that ordinary users can read and that goes away with the test run.
var scratch string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 && os.Getenv(usernsVariable) == "" {
		fmt.Fprintln(os.Stderr, runAsRoot())
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "upconv-integration-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755) // ordinary users run what is in it
		scratch = dir
		if bin, executable, err = makeUpconv(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// makeUpconv puts the upconv under test into a directory: a copy of $UPCONV_BIN, since not every
// user can reach every checkout, or one that it builds. It returns what is to be started, and what
// that is.
func makeUpconv(dir string) (start, executable string, err error) {
	path := filepath.Join(dir, "upconv")
	if calls := os.Getenv(refuseVariable); calls != "" {
		executable, err = makeRefused(path, calls)
		return path, executable, err
	}
	built := os.Getenv("UPCONV_BIN")
	if built == "" {
		return path, path, makeBuild(path)
	}
	program, err := os.ReadFile(built)
	if err != nil {
		return "", "", err
	}
	return path, path, os.WriteFile(path, program, 0o755)
}

// makeBuild runs make build for an executable, with variables as NAME=VALUE.
func makeBuild(path string, variables ...string) error {
	build := exec.Command("make", append([]string{"-C", "..", "build", "BINARY=" + path}, variables...)...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build, err, out)
	}
	return nil
}

// skip skips a test for want of something that not every machine has. Where UPCONV_TEST_ALL is set,
// as in CI, nothing may be wanting and it fails the test.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("UPCONV_TEST_ALL") != "" {
		t.Fatalf("would be skipped, but UPCONV_TEST_ALL is set: "+format, args...)
	}
	t.Skipf(format, args...)
}

// needProgram returns the path of a program or skips the test.
func needProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		skip(t, "needs the program %s", name)
	}
	return path
}

// A lab is three hosts. The origin has IPv6 only; the egress has IPv4; the server has 203.0.113.10
// and 2001:db8:1::1 and is reached from both.
//
//	origin  2001:db8:1::2 ---------- 2001:db8:1::1  server  203.0.113.10
//	egress  192.0.2.1 -------------- 192.0.2.2
type lab struct {
	t              testing.TB
	origin, egress string // names, as of ip-netns(8)
	server         *nsdial.Namespace
	serverName     string
}

const (
	serverAddr  = "203.0.113.10"
	egressAddr  = "192.0.2.1"
	originAddr6 = "2001:db8:1::2"
	serverAddr6 = "2001:db8:1::1"
)

var labs atomic.Int64

// newLab makes the hosts; they go away with the test.
func newLab(t testing.TB) *lab {
	t.Helper()
	needRoot(t)
	tag := fmt.Sprintf("uc%d-%d", os.Getpid(), labs.Add(1))
	l := &lab{t: t, origin: tag + "o", egress: tag + "e", serverName: tag + "s"}
	for _, name := range []string{l.origin, l.egress, l.serverName} {
		makeNamespace(t, name)
	}
	link(t, l.egress, "192.0.2.1/24", l.serverName, "192.0.2.2/24", "0.0.0.0/0")
	link(t, l.origin, "2001:db8:1::2/64", l.serverName, "2001:db8:1::1/64", "::/0")
	loopback(t, l.serverName, netlink.AddrAdd, serverAddr)
	var err error
	if l.server, err = nsdial.OpenName(l.serverName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.server.Close() })
	return l
}

// makeNamespace makes a named network namespace with lo up. It goes away with the test.
func makeNamespace(t testing.TB, name string) {
	t.Helper()
	t.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("delete network namespace %s: %v", name, err)
		}
	})
	onThread(t, func() error {
		ns, err := netns.NewNamed(name) // the thread is in it now
		if err != nil {
			return fmt.Errorf("network namespace %s: %w", name, err)
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// inNamespace runs f on a thread that is in the namespace.
func inNamespace(t testing.TB, name string, f func() error) {
	t.Helper()
	onThread(t, func() error {
		ns, err := nsdial.OpenName(name)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := ns.Enter(); err != nil {
			return err
		}
		return f()
	})
}

// loopback gives the loopback device of a namespace an address of its own, or takes it: change is
// netlink.AddrAdd or AddrDel.
func loopback(t testing.TB, namespace string, change func(netlink.Link, *netlink.Addr) error, addr string) {
	t.Helper()
	inNamespace(t, namespace, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		own, err := netlink.ParseAddr(addr + "/32")
		if err != nil {
			return err
		}
		return change(lo, own)
	})
}

// onThread runs f on a thread that ends with it.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

var links atomic.Int64

// link joins two namespaces by a pair of veth interfaces. What is in route goes from a by b.
func link(t testing.TB, a, addrA, b, addrB, route string) {
	t.Helper()
	n := links.Add(1)
	nameA, nameB := fmt.Sprintf("va%d", n), fmt.Sprintf("vb%d", n)
	nsB, err := netns.GetFromName(b)
	if err != nil {
		t.Fatal(err)
	}
	defer nsB.Close()
	up := func(name, addr string) (netlink.Link, *netlink.Addr, error) {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return nil, nil, err
		}
		ip, err := netlink.ParseAddr(addr)
		if err != nil {
			return nil, nil, err
		}
		if ip.IP.To4() == nil {
			ip.Flags = syscall.IFA_F_NODAD // usable at once
		}
		return l, ip, errors.Join(netlink.AddrAdd(l, ip), netlink.LinkSetUp(l))
	}
	inNamespace(t, a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(nsB)})
	})
	var gateway net.IP
	inNamespace(t, b, func() error {
		_, ip, err := up(nameB, addrB)
		if err == nil {
			gateway = ip.IP
		}
		return err
	})
	inNamespace(t, a, func() error {
		l, _, err := up(nameA, addrA)
		if err != nil {
			return err
		}
		_, dst, err := net.ParseCIDR(route)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Gw: gateway})
	})
}

// listen listens at the server, on a port of the kernel's choice where addr ends in ":0".
func (l *lab) listen(addr string) net.Listener {
	l.t.Helper()
	listener, err := l.server.Listen(context.Background(), "tcp", addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	return listener
}

// greet serves connections at the server's IPv4 address with the word hello. It returns
// address:port.
func (l *lab) greet() string {
	listener := l.listen(serverAddr + ":0")
	say(listener, "hello")
	return listener.Addr().String()
}

// say serves the connections of a listener: it writes "WORD PEER\n", where PEER is the address that
// it sees, and waits for the client to close, since to close with data unread resets the
// connection.
func say(listener net.Listener, word string) {
	each(listener, func(conn net.Conn) {
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		fmt.Fprintf(conn, "%s %s\n", word, host)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	})
}

// each serves the connections of a listener, and closes them afterwards.
func each(listener net.Listener, serve func(net.Conn)) {
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

// greeting is what a client reads from greet through the egress.
const greeting = "hello " + egressAddr + "\n"

// timeout bounds every program that a test starts.
const timeout = 60 * time.Second

// command prepares a program that is killed when the test ends or takes too long.
func command(t testing.TB, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, args...)
}

// upconv prepares an upconv command line, which must itself say where the client runs.
func upconv(t testing.TB, args ...string) *exec.Cmd { return command(t, bin, args...) }

// under prepares args to be run in the origin under upconv, with the egress as way out.
func (l *lab) under(args ...string) *exec.Cmd {
	return upconv(l.t, append([]string{"run", "--netns", l.origin, "--via", "netns:" + l.egress, "--"}, args...)...)
}

// plain prepares args to be run in the origin without upconv.
func (l *lab) plain(args ...string) *exec.Cmd { return l.in(l.origin, args...) }

// in prepares args to be run in a namespace without upconv.
func (l *lab) in(name string, args ...string) *exec.Cmd {
	return command(l.t, "ip", append([]string{"netns", "exec", name}, args...)...)
}

// asNobody has a command run as an ordinary user.
func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	return cmd
}

// output runs a command that must succeed and returns its standard output.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\nstdout: %s\nstderr: %s", cmd, err, out.String(), errs.String())
	}
	return out.String()
}

// status runs a command and returns its exit status and what it wrote to both outputs.
func status(t testing.TB, cmd *exec.Cmd) (int, string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// compileC compiles a C program of testdata/ once per test run and returns the executable.
func compileC(t testing.TB, source string, compiler ...string) string {
	t.Helper()
	path := needProgram(t, compiler[0])
	key := source + " " + strings.Join(compiler, " ")
	compiledMu.Lock()
	defer compiledMu.Unlock()
	if exe := compiled[key]; exe != "" {
		return exe
	}
	exe := filepath.Join(scratch, fmt.Sprintf("%s-%d", strings.TrimSuffix(filepath.Base(source), ".c"), len(compiled)))
	args := append(append([]string{}, compiler[1:]...), "-O1", "-Wall", "-o", exe, filepath.Join("testdata", source))
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", source, err, out)
	}
	compiled[key] = exe
	return exe
}

var (
	compiledMu sync.Mutex
	compiled   = map[string]string{}
)
