package integration

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
)

// outskirts is a lab with destinations that fail in every way.
type outskirts struct {
	*lab
	port, closed string // at any address of the server: a greeting, nothing
	late         atomic.Int32
	bound        atomic.Int32
}

// Destinations as the egress sees them.
const (
	noRoute          = "198.51.100.9"
	prohibitRoute    = "198.51.100.1"
	unreachableRoute = "198.51.100.2"
	blackholeRoute   = "198.51.100.3"
	noNeighbour      = "192.0.2.77"
	dropped          = "203.0.113.99"
	icmpUnreachable  = "203.0.113.78"
)

func newOutskirts(t testing.TB) *outskirts {
	t.Helper()
	o := &outskirts{lab: newLab(t)}
	ip := func(args ...string) {
		t.Helper()
		output(t, command(t, "ip", args...))
	}
	sysctl := func(where, name, value string) {
		t.Helper()
		output(t, o.in(where, "sh", "-c", "for f in /proc/sys/net/ipv4/"+name+"; do echo "+value+" >$f; done"))
	}
	e, s := o.egress, o.serverName
	ip("-n", e, "route", "del", "default")
	ip("-n", e, "route", "add", "203.0.113.0/24", "via", "192.0.2.2")
	ip("-n", e, "route", "add", "prohibit", prohibitRoute)
	ip("-n", e, "route", "add", "unreachable", unreachableRoute)
	ip("-n", e, "route", "add", "blackhole", blackholeRoute)
	ip("-n", s, "route", "add", "blackhole", "203.0.113.96/27")
	ip("-n", s, "route", "add", "unreachable", icmpUnreachable)
	sysctl(e, "neigh/*/retrans_time_ms", "50")
	sysctl(s, "ip_forward", "1")
	sysctl(s, "icmp_ratelimit", "0")

	listener := o.listen("0.0.0.0:0")
	say(listener, "hello")
	_, o.port, _ = net.SplitHostPort(listener.Addr().String())
	closed, err := o.server.Listen(context.Background(), "tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	_, o.closed, _ = net.SplitHostPort(closed.Addr().String())
	closed.Close()
	return o
}

// run runs a probe. For each "now" it says, arrive is called.
func (o *outskirts) run(t *testing.T, cmd *exec.Cmd, arrive func()) string {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return ""
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return ""
	}
	defer cmd.Wait()
	var text strings.Builder
	said := 0
	buf := make([]byte, 64<<10)
	for {
		n, err := stdout.Read(buf)
		text.Write(buf[:n])
		if now := strings.Count(text.String(), "now\n"); now > said {
			said = now
			arrive()
		}
		if err != nil {
			break
		}
	}
	if errs.Len() > 0 {
		t.Errorf("%v wrote to standard error:\n%s", cmd, errs.String())
	}
	return text.String()
}

// TestConnect compares connect(2) natively, in the egress, with what it is like under upconv in the
// origin.
func TestConnect(t *testing.T) {
	o := newOutskirts(t)
	var running sync.WaitGroup
	slots := make(chan struct{}, 12)
	for _, abi := range []struct {
		name  string
		probe string
	}{
		{"amd64", compileC(t, "connect_probe.c", "gcc", "-static", "-pthread")},
		{"i386", compileC(t, "connect_probe.c", "gcc", "-static", "-pthread", "-m32")},
	} {
		for _, test := range []struct {
			name string
			args string // of connect_probe; OPEN and CLOSED are ports, LATE an address that does not answer until "now", BOUND a port
			want string // lines that must be among what it prints, separated by "; "
			abi  string // "" for all
			home bool   // compare with the origin instead of the egress
		}{
			{name: "success", args: "blocking SERVER OPEN", want: "connect: 0; SO_ERROR: 0; greeting: hello 192.0.2.1; local: family 2 address 192.0.2.1"},
			{name: "refused", args: "blocking SERVER CLOSED", want: "connect: -1 ECONNREFUSED"},
			{name: "no route", args: "blocking " + noRoute + " 80", want: "connect: -1 ENETUNREACH"},
			{name: "prohibit route", args: "blocking " + prohibitRoute + " 80", want: "connect: -1 EACCES"},
			{name: "unreachable route", args: "blocking " + unreachableRoute + " 80", want: "connect: -1 EHOSTUNREACH"},
			{name: "blackhole route", args: "blocking " + blackholeRoute + " 80", want: "connect: -1 EINVAL"},
			{name: "no neighbour", args: "blocking " + noNeighbour + " 80", want: "connect: -1 EHOSTUNREACH"},
			{name: "ICMP unreachable", args: "blocking " + icmpUnreachable + " 80 icmp", want: "connect: -1 EHOSTUNREACH"},
			{name: "broadcast", args: "blocking 192.0.2.255 80", want: "connect: -1 ENETUNREACH"},
			{name: "port 0", args: "blocking SERVER 0", want: "connect: -1 ECONNREFUSED"},
			{name: "timed out by TCP_SYNCNT", args: "blocking " + dropped + " 80 syncnt", want: "connect: -1 ETIMEDOUT; connect: waited"},
			{name: "timed out by TCP_USER_TIMEOUT", args: "blocking " + dropped + " 80 user-timeout", want: "connect: -1 ETIMEDOUT; connect: waited"},

			{name: "flags", args: "flags SERVER OPEN", want: "after: F_GETFL 4002 F_GETFD 1; after: F_GETFL 2 F_GETFD 0"},
			{name: "flags, refused", args: "flags SERVER CLOSED"},
			{name: "flags, no route", args: "flags " + noRoute + " 80"},

			{name: "non-blocking, poll", args: "nonblocking SERVER OPEN poll", want: "connect: -1 EINPROGRESS; connect once more: -1 EISCONN"},
			{name: "non-blocking, select", args: "nonblocking SERVER OPEN select", want: "connect: -1 EINPROGRESS; select: 1 writable 1 exceptional 0"},
			{name: "non-blocking, epoll", args: "nonblocking SERVER OPEN epoll", want: "connect: -1 EINPROGRESS; epoll: 1 4 123456789abcdef"},
			{name: "non-blocking refused, poll", args: "nonblocking SERVER CLOSED poll", want: "SO_ERROR: ECONNREFUSED"},
			{name: "non-blocking refused, select", args: "nonblocking SERVER CLOSED select", want: "SO_ERROR: ECONNREFUSED"},
			{name: "non-blocking refused, epoll", args: "nonblocking SERVER CLOSED epoll", want: "SO_ERROR: ECONNREFUSED"},
			{name: "non-blocking, no route", args: "nonblocking " + noRoute + " 80 poll", want: "connect: -1 ENETUNREACH"},
			{name: "non-blocking, prohibited", args: "nonblocking " + prohibitRoute + " 80 poll", want: "connect: -1 EACCES"},
			{name: "result by a second connect", args: "result-by-connect SERVER OPEN", want: "connect, for the result: 0"},
			{name: "result by a second connect, refused", args: "result-by-connect SERVER CLOSED", want: "connect, for the result: -1 ECONNREFUSED"},
			{name: "result by a second connect, timed out", args: "result-by-connect " + dropped + " 80 1200", want: "connect, for the result: -1 ETIMEDOUT"},
			{name: "pending", args: "pending " + dropped + " 80", want: "connect: -1 EINPROGRESS; connect again: -1 EALREADY"},
			{name: "in an epoll set before", args: "epoll-before SERVER OPEN", want: "epoll: 1 4; EPOLL_CTL_MOD: 0; EPOLL_CTL_DEL: 0"},
			{name: "in an epoll set before, refused", args: "epoll-before SERVER CLOSED", want: "SO_ERROR: ECONNREFUSED"},

			{name: "signal, restart", args: "signal " + dropped + " 80 restart 0 thread", want: "connect: -1 ETIMEDOUT; handled: 1 elsewhere 0"},
			{name: "signal, restart, to the process", args: "signal " + dropped + " 80 restart 0 process", want: "connect: -1 ETIMEDOUT; handled: 1 elsewhere 0"},
			{name: "signal, restart, single thread", args: "signal " + dropped + " 80 restart 0 single", want: "connect: -1 ETIMEDOUT; handled: 1 elsewhere 0"},
			{name: "signals in a row", args: "signals-in-a-row " + dropped + " 80", want: "connect: -1 ETIMEDOUT; handled: 10"},
			{name: "signal", args: "signal " + dropped + " 80 no 0 thread", want: "connect: -1 EINTR; handled: 1 elsewhere 0; state: SYN_SENT; connect again: -1 EALREADY; SO_ERROR: ETIMEDOUT"},
			{name: "signal to the process", args: "signal " + dropped + " 80 no 0 process", want: "connect: -1 EINTR; handled: 1 elsewhere 0"},
			{name: "signal, single thread", args: "signal " + dropped + " 80 no 0 single", want: "connect: -1 EINTR; handled: 1 elsewhere 0"},
			{name: "signal, SO_SNDTIMEO", args: "signal " + dropped + " 80 no 5000 thread", want: "connect: -1 EINTR; handled: 1 elsewhere 0; connect again: -1 EALREADY"},
			{name: "signal, SO_SNDTIMEO, to the process", args: "signal " + dropped + " 80 no 5000 process", want: "connect: -1 EINTR; handled: 1 elsewhere 0"},
			{name: "signal, SO_SNDTIMEO, single thread", args: "signal " + dropped + " 80 no 5000 single", want: "connect: -1 EINTR; handled: 1 elsewhere 0"},
			{name: "signal, SO_SNDTIMEO, restart", args: "signal " + dropped + " 80 restart 5000 thread", want: "connect: -1 EINTR; handled: 1 elsewhere 0"},
			{name: "signal, SO_SNDTIMEO, restart, to the process", args: "signal " + dropped + " 80 restart 5000 process", want: "connect: -1 EINTR; handled: 1 elsewhere 0"},
			{name: "signal ignored", args: "signal-not-for-it " + dropped + " 80 ignored 0", want: "connect: -1 ETIMEDOUT; handled: 0 elsewhere 0"},
			{name: "signal ignored, SO_SNDTIMEO", args: "signal-not-for-it " + dropped + " 80 ignored 1000", want: "connect: -1 EINPROGRESS; connect: waited; handled: 0 elsewhere 0"},
			{name: "signal ignored by default, SO_SNDTIMEO", args: "signal-not-for-it " + dropped + " 80 default 1000", want: "connect: -1 EINPROGRESS; connect: waited"},
			{name: "signal elsewhere", args: "signal-not-for-it " + dropped + " 80 elsewhere 0", want: "connect: -1 ETIMEDOUT; handled: 0 elsewhere 2"},
			{name: "signal elsewhere, SO_SNDTIMEO", args: "signal-not-for-it " + dropped + " 80 elsewhere 1000", want: "connect: -1 EINPROGRESS; connect: waited; handled: 0 elsewhere 2"},
			{name: "signal blocked, SO_SNDTIMEO", args: "signal-not-for-it " + dropped + " 80 blocked 1000", want: "connect: -1 EINPROGRESS; connect: waited; handled: 0 elsewhere 0"},

			{name: "late", args: "late LATE OPEN plain 0", want: "connect: 0; greeting: hello 192.0.2.1"},
			{name: "late, SO_SNDTIMEO", args: "late LATE OPEN plain 8000", want: "connect: 0; greeting: hello 192.0.2.1"},
			{name: "late, restart", args: "late LATE OPEN restart 0", want: "connect: 0; handled: 1; connect once more: -1 EISCONN; greeting: hello 192.0.2.1"},
			{name: "late, interrupted", args: "late LATE OPEN no 0", want: "connect: -1 EINTR; connect again: 0; connect once more: -1 EISCONN; greeting: hello 192.0.2.1"},
			{name: "late, interrupted, waits again", args: "late LATE OPEN no 0 again", want: "connect: -1 EINTR; connect again: 0; greeting: hello 192.0.2.1"},
			{name: "late, interrupted, SO_SNDTIMEO, waits again", args: "late LATE OPEN no 8000 again", want: "connect: -1 EINTR; connect again: 0; greeting: hello 192.0.2.1"},

			{name: "SO_SNDTIMEO", args: "sndtimeo " + dropped + " 80 300", want: "connect: -1 EINPROGRESS; on time; connect: -1 EALREADY"},
			{name: "SO_SNDTIMEO short", args: "sndtimeo " + dropped + " 80 1", want: "connect: -1 EINPROGRESS; on time; connect: -1 EALREADY"},
			{name: "SO_SNDTIMEO, success", args: "sndtimeo SERVER OPEN 5000", want: "connect: 0; greeting: hello 192.0.2.1"},
			{name: "SO_SNDTIMEO, refused", args: "sndtimeo SERVER CLOSED 5000", want: "connect: -1 ECONNREFUSED"},
			{name: "SO_SNDTIMEO, no neighbour", args: "sndtimeo " + noNeighbour + " 80 5000", want: "connect: -1 EHOSTUNREACH"},
			{name: "SO_SNDTIMEO, no route", args: "sndtimeo " + noRoute + " 80 5000", want: "connect: -1 ENETUNREACH"},

			{name: "bad arguments", args: "bad SERVER OPEN",
				want: "NULL: -1 EFAULT; half in nothing: -1 EFAULT; length 15: -1 EINVAL; length 129: -1 EINVAL; fd -1: -1 EBADF; a device: -1 ENOTSOCK; in the end: 0; length 128: 0"},
			{name: "IPv4-mapped", args: "inet6 SERVER OPEN", want: "mapped: 0; mapped, short: 0; greeting: hello 192.0.2.1"},
			{name: "IPv4-mapped, refused", args: "inet6 SERVER CLOSED", want: "mapped: -1 ECONNREFUSED"},
			{name: "other sockets", args: "other SERVER OPEN", home: true},
			{name: "connected", args: "connected SERVER OPEN", want: "connect again: -1 EISCONN; connect anew: 0"},
			{name: "refused, then elsewhere", args: "then SERVER CLOSED OPEN", want: "connect: -1 ECONNREFUSED; connect elsewhere: 0; greeting: hello 192.0.2.1"},
			{name: "refused, then refused", args: "then SERVER CLOSED CLOSED", want: "connect elsewhere: -1 ECONNREFUSED"},
			{name: "options", args: "options SERVER OPEN", want: "SO_MARK: 77; TCP_KEEPIDLE: 77"},
			{name: "bound", args: "bound SERVER OPEN BOUND", want: "bind: 0; connect: 0; port: the same"},
			{name: "fast open", args: "fastopen SERVER OPEN", want: "connect: 0; write: 1; greeting: hello 192.0.2.1"},

			{name: "garbage in registers", args: "garbage SERVER OPEN", want: "garbage 1: 0; garbage 7: 0; peer: family 2 address 203.0.113.10", abi: "amd64"},
			{name: "i386 calls", args: "int80 SERVER OPEN", want: "int80 0: 0; int80 1: 0; int80 3: 0", abi: "amd64"},
			{name: "socketcall", args: "socketcall SERVER OPEN", want: "socketcall: 0; socketcall: -1 EINPROGRESS; socketcall, long: -1 EINVAL", abi: "i386"},
		} {
			if test.abi != "" && test.abi != abi.name {
				continue
			}
			if abi.name == "i386" && (strings.HasPrefix(test.args, "signal-not") || strings.HasPrefix(test.name, "late,")) {
				continue // long, and not about the calling convention
			}
			slots <- struct{}{} // most of these wait: more at once than there are processors
			running.Go(func() {
				defer func() { <-slots }()
				t.Run(test.name+"/"+abi.name, func(t *testing.T) {
					arguments := func() (args []string, arrive func()) {
						args = []string{abi.probe}
						for _, arg := range strings.Fields(test.args) {
							switch arg {
							case "SERVER":
								arg = serverAddr
							case "OPEN":
								arg = o.port
							case "CLOSED":
								arg = o.closed
							case "BOUND":
								arg = strconv.Itoa(20000 + 10*int(o.bound.Add(1)))
							case "LATE":
								late := fmt.Sprintf("203.0.113.%d", 100+o.late.Add(1)) // up to .127
								arg, arrive = late, func() { loopback(t, o.serverName, netlink.AddrAdd, late) }
							}
							args = append(args, arg)
						}
						return args, arrive
					}
					args, arrive := arguments()
					where := o.egress
					if test.home {
						where = o.origin
					}
					natively := make(chan string)
					go func() { natively <- o.run(t, o.in(where, args...), arrive) }()
					args2, arrive2 := arguments()
					cmd := o.under(args2...)
					if test.home { // what is none of upconv's business; datagrams are, unless it is told that they are not
						cmd = upconv(t, append([]string{"run", "--netns", o.origin, "--via", "netns:" + o.egress, "--udp", "off", "--"}, args2...)...)
					}
					under := o.run(t, cmd, arrive2)
					native := <-natively
					for _, line := range strings.Split(test.want, "; ") {
						if line != "" && !strings.Contains("\n"+native, "\n"+line+"\n") {
							t.Errorf("natively it did not say %q: this test cannot tell anything", line)
						}
					}
					if !strings.HasSuffix(native, "end\n") {
						t.Errorf("natively it did not come to an end")
					}
					if native == under {
						return
					}
					a, b := strings.Split(native, "\n"), strings.Split(under, "\n")
					for i := range max(len(a), len(b)) {
						if i >= len(a) || i >= len(b) || a[i] != b[i] {
							t.Errorf("differ from line %d on\nnative:\n%s\nupconv:\n%s", i+1, native, under)
							break
						}
					}
				})
			})
		}
	}
	running.Wait()
}

// TestConnectReject answers at once with the errno that the rule names.
func TestConnectReject(t *testing.T) {
	o := newOutskirts(t)
	probe := compileC(t, "connect_probe.c", "gcc", "-static", "-pthread")
	for route, errno := range map[string]string{
		"reject": "ENETUNREACH", "reject:ECONNREFUSED": "ECONNREFUSED", "reject:EACCES": "EACCES", "reject:EPERM": "EPERM",
		"reject:ETIMEDOUT": "ETIMEDOUT", "reject:EHOSTUNREACH": "EHOSTUNREACH", "reject:EADDRNOTAVAIL": "EADDRNOTAVAIL",
		"reject:EAGAIN": "EAGAIN", "reject:EINTR": "EINTR", "reject:EHWPOISON": "EHWPOISON",
	} {
		t.Run(route, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"blocking", serverAddr, o.port, "no"}, {"nonblocking", serverAddr, o.port, "poll"}} {
				cmd := upconv(t, append([]string{"run", "--netns", o.origin, "--rule", serverAddr + "=" + route, "--via", "netns:" + o.egress, "--", probe}, args...)...)
				got := o.run(t, cmd, nil)
				if !strings.HasPrefix(got, "connect: -1 "+errno+"\n") || strings.Contains(got, "waited") || strings.Contains(got, "ESTABLISHED") {
					t.Errorf("%v: %s", args, got)
				}
			}
		})
	}
}

func TestConnectIOUring(t *testing.T) {
	o := newOutskirts(t)
	for _, flags := range [][]string{{"-static"}, {"-static", "-m32"}} {
		probe := compileC(t, "connect_probe.c", append([]string{"gcc", "-pthread"}, flags...)...)
		if got := o.run(t, o.under(probe, "io_uring", serverAddr, "1"), nil); got != "io_uring_setup: -1 ENOSYS\nend\n" {
			t.Errorf("%v: %s", flags, got)
		}
	}
}
