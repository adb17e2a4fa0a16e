package integration

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// A swapCase is a case of one of the swap_*.c programs of testdata/.
type swapCase struct {
	name string
	args []string // SERVER and PORT stand for the greeting's address
	wrap []string // a program that starts it
	// want are lines that it must print natively, or the test cannot tell anything; separated by ";
	// ".
	want string
	need func(testing.TB) // skips it where something that it is about is not to be had
}

// compareSwaps runs each case natively, in the egress, and under upconv, in the origin: it must
// print the same.
func compareSwaps(t *testing.T, l *lab, source, addr string, cases []swapCase) {
	t.Helper()
	host, port := split(t, addr)
	probe := compileC(t, source, "gcc", "-static", "-pthread")
	for _, c := range cases {
		name := c.name
		if name == "" {
			name = strings.Join(c.args, " ")
		}
		t.Run(name, func(t *testing.T) {
			if c.need != nil {
				c.need(t)
			}
			args := append(slices.Clone(c.wrap), probe, c.args[0], host, port)
			args = append(args, c.args[1:]...)
			_, native := status(t, l.in(l.egress, args...))
			for line := range strings.SplitSeq(c.want, "; ") {
				if line != "" && !strings.Contains("\n"+native, "\n"+line+"\n") {
					t.Errorf("natively it did not say %q: this test cannot tell anything", line)
				}
			}
			if !strings.HasSuffix(native, "end\n") {
				t.Fatalf("natively it did not come to an end\n%s", native)
			}
			_, under := status(t, l.under(args...))
			sameOutput(t, native, under)
		})
	}
}

// TestSwapFile is about the open file and the descriptors that refer to it.
func TestSwapFile(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	unshare := []string{needProgram(t, "unshare"), "--pid", "--fork", "--"}
	compareSwaps(t, l, "swap_file.c", l.greet(), []swapCase{
		{args: []string{"flags"}, want: "after: F_GETFL 4002 F_GETFD 1; after: F_GETFL 2 F_GETFD 0; by ioctl: F_GETFL 4002 F_GETFD 1"},
		{args: []string{"async"}, want: "it: SIGIO; it: signals in 1 out 1 odd 0 fd right band with POLLIN; the child: signals in 1 out 1 odd 0 fd right band with POLLIN; the other thread: signals"},
		{name: "async in a pid namespace", args: []string{"async"}, wrap: unshare, want: "it: signals in 1 out 1 odd 0 fd right band with POLLIN"},
		{args: []string{"numbers"}, want: "through 7, number 3: cookie the same F_GETFD 1 F_GETFL 4002 the same file; the other socket: cookie as before"},
		{args: []string{"many-numbers"}, want: "300 numbers: the same socket 300, FD_CLOEXEC as set 300, connected 300"},
		{args: []string{"across-threads"}, want: "cookie the same; the lowest number: is free again"},
		{args: []string{"owner"}, need: needUsers, want: "mode 140777 uid 65534 gid 65534 size 0 nlink 1; fchown: 0 uid 4321 gid 5432"},
	})
}

// echo sends back what it reads.
func echo(listener net.Listener) {
	each(listener, func(conn net.Conn) { io.Copy(conn, conn) })
}

// TestSwapEpoll is about sockets that are in epoll sets before they are connected.
func TestSwapEpoll(t *testing.T) {
	o := newOutskirts(t)
	o.tag(t)
	listener := o.listen(serverAddr + ":0")
	echo(listener)
	const connected = "4 123456789abcdef0"
	cases := []swapCase{
		{args: []string{"crowd"}, want: "2000 others before, 2000 after, 2000 the same; all at once: 2000"},
		{args: []string{"twice"}, need: needBPF, want: "connected: 4 123456789abcdef1; connected: 4 123456789abcdef2"},
		{args: []string{"waiting", "blocking", "edge", "3000"}, want: "the waiting thread sees 1: " + connected},
		{args: []string{"waiting", "non-blocking", "edge", "3000"}, want: "the waiting thread sees 1: " + connected},
	}
	for _, how := range []string{"blocking", "non-blocking"} {
		cases = append(cases,
			swapCase{args: []string{"matrix", how}, need: needBPF, want: "level, looked at before, by another number; connected: 4 123456789abcdef3; once more: none"},
			swapCase{args: []string{"several", how}, want: "connected: " + connected},
			swapCase{args: []string{"nested", how}, want: "outer: 1 123456789abcdef2; inner: 4 123456789abcdef0"},
			swapCase{args: []string{"inherited", how}, want: "the child sees: " + connected},
			swapCase{name: "refused " + how, args: []string{"refused", how, o.closed},
				want: map[string]string{"blocking": "connect: -1 ECONNREFUSED; connect elsewhere: 0", "non-blocking": "SO_ERROR: ECONNREFUSED"}[how]})
	}
	compareSwaps(t, o.lab, "swap_epoll.c", listener.Addr().String(), cases)
	// Nobody answers here.
	compareSwaps(t, o.lab, "swap_epoll.c", dropped+":80", []swapCase{
		{name: "waiting for nothing, edge", args: []string{"waiting", "non-blocking", "edge", "100"}, want: "the waiting thread sees 0: 0 0; state: SYN_SENT"},
		{name: "waiting for nothing, one-shot", args: []string{"waiting", "non-blocking", "one-shot", "100"}, want: "the waiting thread sees 0: 0 0"},
		{name: "never early", args: []string{"never-early"}, want: "early: none; state: SYN_SENT"},
	})
}
