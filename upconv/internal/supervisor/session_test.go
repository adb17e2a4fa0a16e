package supervisor

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/testkit"
	"github.com/upconv/upconv/upconv/policy"
)

// testSession returns a session without a listener, for what needs none. Its node ends with the
// test.
func testSession(t testing.TB) *Session {
	t.Helper()
	n, err := NewNode(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n.newSession()
}

// served is a thread of this process that has a session to itself.
type served struct {
	session *Session
	do      chan func()
	ended   chan struct{}
}

// refusing returns the plan of a session that refuses what goes to 127.0.0.9 with an errno.
func refusing(t *testing.T, errno string) *Plan {
	t.Helper()
	rule, err := policy.ParseRule("127.0.0.9=reject:" + errno)
	if err != nil {
		t.Fatal(err)
	}
	decided, err := policy.New([]policy.Rule{rule}, policy.Route{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(decided, nil, policy.UDPConnected, policy.SwapAtConnect)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve starts a thread whose calls a session of the node answers.
func serve(t *testing.T, n *Node, p *Plan) *served {
	t.Helper()
	f := p.Filter()
	program, err := f.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	inet, _ := linux.NewSocket(unix.AF_INET, unix.SOCK_STREAM, 0)
	netlink, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	here, err := nsdial.OpenCurrent()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	origin, err := netns.NewOrigin(netns.OriginSockets{Inet: inet, Inet6: -1, Netlink: netlink, Partner: -1, Partner6: -1}, here.Inode())
	if err != nil {
		t.Fatal(err)
	}
	th := &served{do: make(chan func()), ended: make(chan struct{})}
	listening := make(chan *seccompx.Listener)
	go func() {
		defer close(th.ended)
		seccompx.OnOwnThread(func() {
			l, err := seccompx.Install(program, seccompx.InstallOptions{NoNewPrivs: true, Listener: true})
			if err != nil {
				t.Error(err)
			}
			listening <- l
			for do := range th.do {
				do()
			}
		})
	}()
	l := <-listening
	if l == nil {
		t.FailNow()
	}
	th.session = n.NewSession(p, Parts{Listener: l, Origin: origin})
	if err := th.session.Start(); err != nil {
		t.Fatal(err)
	}
	return th
}

// connect has the thread connect to 127.0.0.9, and returns what connect(2) says.
func (th *served) connect() (errno unix.Errno) {
	done := make(chan struct{})
	th.do <- func() {
		defer close(done)
		fd, _ := linux.NewSocket(unix.AF_INET, unix.SOCK_STREAM, 0)
		defer linux.Close(fd)
		errno = linux.Connect(fd, []byte{unix.AF_INET, 0, 0, 9, 127, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0})
	}
	<-done
	return errno
}

// end ends the thread, and its session with it.
func (th *served) end(t *testing.T) {
	t.Helper()
	close(th.do)
	<-th.ended
	if err := th.session.Wait(); err != nil {
		t.Error(err)
	}
	th.session.close()
}

// TestSessions has two sessions with different policies in one process, and ends one while the
// other serves. A third one begins then. Nothing is left of any.
func TestSessions(t *testing.T) {
	n, err := NewNode(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	before := testkit.OpenFDs(t)
	one, other := serve(t, n, refusing(t, "EPERM")), serve(t, n, refusing(t, "EHOSTUNREACH"))
	check := func(th *served, want unix.Errno) {
		t.Helper()
		if got := th.connect(); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for range 100 {
		check(one, unix.EPERM)
		check(other, unix.EHOSTUNREACH)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			check(other, unix.EHOSTUNREACH)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	one.end(t)
	third := serve(t, n, refusing(t, "ENETDOWN"))
	for range 100 {
		check(third, unix.ENETDOWN)
	}
	close(stop)
	<-stopped
	check(other, unix.EHOSTUNREACH)
	other.end(t)
	third.end(t)
	testkit.Until(t, "all is closed", func() bool { return testkit.OpenFDs(t) <= before })
	n.Close()
}

// TestSessionFails says that a session which cannot go on says why.
func TestSessionFails(t *testing.T) {
	s := testSession(t)
	why := errors.New("why")
	s.Fail(why)
	s.Fail(errors.New("another reason"))
	if err := s.Wait(); err != why {
		t.Error(err)
	}
}
