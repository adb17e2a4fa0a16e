package receive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/testkit"
)

// A filtered is a thread of this process whose receiving calls are stopped and handled by a
// supervisor.
type filtered struct {
	t   *testing.T
	s   *Session
	tid int
	do  chan func()
}

// newFiltered starts the thread and the supervisor; they end with the test.
func newFiltered(t *testing.T, s *Session) *filtered {
	t.Helper()
	f := seccompx.Filter{Default: seccompx.Allow, Rules: []seccompx.Rule{
		{Syscalls: []string{"recvfrom"}, When: []seccompx.Cond{seccompx.Arg(4).NotEqual(0)}, Do: seccompx.UserNotify},
		{Syscalls: []string{"recvfrom"}, When: []seccompx.Cond{seccompx.Arg(3).Low32().HasAny(unix.MSG_ERRQUEUE)}, Do: seccompx.UserNotify},
		{Syscalls: []string{"recvmsg", "recvmmsg"}, Do: seccompx.UserNotify},
	}}
	program, err := f.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	th := &filtered{t: t, s: s, do: make(chan func())}
	ready, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		seccompx.OnOwnThread(func() {
			l, err := seccompx.Install(program, seccompx.InstallOptions{NoNewPrivs: true, Listener: true})
			s.Listener, th.tid = l, unix.Gettid()
			ready <- err
			if err != nil {
				return
			}
			for do := range th.do {
				do()
			}
		})
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		answerAll(s)
	}()
	t.Cleanup(func() {
		close(th.do)
		for waiting := true; waiting; {
			select {
			case <-ended:
				waiting = false
			case <-time.After(time.Second): // after a failure
				for _, p := range waitingCalls(&s.Receivers, nil) {
					p.endWith(unix.EINTR)
				}
			}
		}
		<-served
		s.Listener.Close()
	})
	return th
}

// answerAll answers what is received until nobody is left under the filter.
func answerAll(s *Session) {
	w := newWorker(s)
	defer w.Close()
	var n seccompx.Notification
	for s.Listener.Receive(&n) == nil {
		if out := handle(w, &n); out.State != session.StateElsewhere {
			s.Respond(n.ID, out)
		}
		w.Tidy()
	}
}

// recvResult is what a receiving call returned.
type recvResult struct {
	n     int
	errno unix.Errno
	took  time.Duration
}

// call makes a call on the thread; the result comes later.
func (th *filtered) call(nr uintptr, args ...uintptr) <-chan recvResult {
	args = append(args, make([]uintptr, 6-len(args))...)
	out := make(chan recvResult, 1)
	th.do <- func() {
		began := time.Now()
		r, _, errno := unix.Syscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
		if errno != 0 {
			r = 0
		}
		out <- recvResult{int(r), errno, time.Since(began)}
	}
	return out
}

// result waits for the end of a call.
func (th *filtered) result(out <-chan recvResult) recvResult {
	th.t.Helper()
	select {
	case r := <-out:
		return r
	case <-time.After(10 * time.Second):
		th.t.Fatal("the call does not return")
		return recvResult{}
	}
}

// waiting waits until so many calls wait.
func (th *filtered) waiting(n int) {
	th.t.Helper()
	all := &th.s.Receivers
	testkit.Until(th.t, fmt.Sprintf("%d calls wait", n), func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return len(all.waiting) == n
	})
}

// recvfrom has the thread receive.
func (th *filtered) recvfrom(a *testkit.Arena, fd, flags int) <-chan recvResult {
	a.Fill()
	a.Put32(lengthAt, 16)
	return th.call(unix.SYS_RECVFROM, uintptr(fd), uintptr(a.At(dataAt)), 100, uintptr(flags), uintptr(a.At(namesAt)), uintptr(a.At(lengthAt)))
}

func TestReceiveWaits(t *testing.T) {
	before := testkit.OpenFDs(t)
	t.Run("all", testReceiveWaits)
	testkit.Until(t, "everything is closed", func() bool { return testkit.OpenFDs(t) <= before+4 }) // what a supervisor keeps for good
}

func testReceiveWaits(t *testing.T) {
	s := receiveSupervisor(t)
	th := newFiltered(t, s)
	a := testkit.NewArena(t)
	p := newPair(t, unix.AF_INET)
	timeout := func(fd int, d time.Duration) {
		limit := unix.NsecToTimeval(int64(d))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			t.Fatal(err)
		}
	}
	source := testkit.SockaddrLoopback(unix.AF_INET, p.peer)
	check := func(t *testing.T, got recvResult, data string) {
		t.Helper()
		if got.errno != 0 || got.n != len(data) || string(a.Good[dataAt:dataAt+got.n]) != data || !bytes.Equal(a.Good[namesAt:namesAt+16], source) {
			t.Errorf("%d, %v, %q from %x", got.n, got.errno, a.Good[dataAt:dataAt+max(0, got.n)], a.Good[namesAt:namesAt+16])
		}
	}
	send := func(t *testing.T, data string) {
		t.Helper()
		testkit.RawSendto(t, p.to6, []byte(data), testkit.SockaddrLoopback(unix.AF_INET6, p.own))
	}

	t.Run("datagram", func(t *testing.T) {
		out := th.recvfrom(a, p.six, 0)
		th.waiting(1)
		send(t, "one")
		check(t, th.result(out), "one")
	})
	t.Run("there already", func(t *testing.T) {
		send(t, "two")
		check(t, th.result(th.recvfrom(a, p.six, 0)), "two")
	})
	t.Run("MSG_PEEK", func(t *testing.T) {
		out := th.recvfrom(a, p.six, unix.MSG_PEEK)
		th.waiting(1)
		send(t, "three")
		check(t, th.result(out), "three")
		check(t, th.result(th.recvfrom(a, p.six, 0)), "three")
	})
	t.Run("long wait", func(t *testing.T) {
		out := th.recvfrom(a, p.six, 0)
		th.waiting(1)
		testkit.Until(t, "it has been looked at", func() bool {
			return len(waitingCalls(&s.Receivers, func(r *receiver) bool { return r.held.Looked() })) == 1
		})
		send(t, "four")
		check(t, th.result(out), "four")
	})
	t.Run("not waiting", func(t *testing.T) {
		if got := th.result(th.recvfrom(a, p.six, unix.MSG_DONTWAIT)); got.errno != unix.EAGAIN {
			t.Errorf("MSG_DONTWAIT: %+v", got)
		}
		unix.SetNonblock(p.six, true)
		defer unix.SetNonblock(p.six, false)
		if got := th.result(th.recvfrom(a, p.six, 0)); got.errno != unix.EAGAIN {
			t.Errorf("O_NONBLOCK: %+v", got)
		}
		if got := th.result(th.recvfrom(a, p.six, unix.MSG_ERRQUEUE)); got.errno != unix.EAGAIN {
			t.Errorf("MSG_ERRQUEUE: %+v", got)
		}
	})
	t.Run("SO_RCVTIMEO", func(t *testing.T) {
		timeout(p.six, 200*time.Millisecond)
		defer timeout(p.six, 0)
		got := th.result(th.recvfrom(a, p.six, 0))
		if got.errno != unix.EAGAIN || got.took < 200*time.Millisecond || got.took > 5*time.Second {
			t.Errorf("%+v", got)
		}
		send(t, "five")
		check(t, th.result(th.recvfrom(a, p.six, 0)), "five")
	})
	t.Run("shutdown", func(t *testing.T) {
		q := newPair(t, unix.AF_INET)
		out := th.recvfrom(a, q.six, 0)
		th.waiting(1)
		unix.Shutdown(q.six, unix.SHUT_RD) // ENOTCONN, and yet
		if got := th.result(out); got.errno != 0 || got.n != 0 {
			t.Errorf("%+v", got)
		}
		if length := binary.NativeEndian.Uint32(a.Good[lengthAt:]); length != 0 {
			t.Errorf("an address of %d bytes", length)
		}
		if got := th.result(th.recvfrom(a, q.six, 0)); got.errno != 0 || got.n != 0 { // from now on
			t.Errorf("once more: %+v", got)
		}
		if got := th.result(th.recvfrom(a, q.six, unix.MSG_DONTWAIT)); got.errno != unix.EAGAIN {
			t.Errorf("not waiting: %+v", got)
		}
	})
	t.Run("error", func(t *testing.T) {
		q := newPair(t, unix.AF_INET)
		closed := testkit.Socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
		port := bindBoth(t, testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), unix.AF_INET, closed)
		unix.Close(closed)
		q.set(t, unix.IP_RECVERR, 1)
		out := th.recvfrom(a, q.six, 0)
		th.waiting(1)
		testkit.RawSendto(t, q.six, []byte("x"), testkit.SockaddrLoopback(unix.AF_INET6, port))
		if got := th.result(out); got.errno != unix.ECONNREFUSED {
			t.Errorf("%+v", got)
		}
		// The error is in the error queue, which nobody reads. That must keep nobody busy.
		out = th.recvfrom(a, q.six, 0)
		th.waiting(1)
		if used := processorTime(300 * time.Millisecond); used > 100*time.Millisecond {
			t.Errorf("waiting has taken %v of the processor", used)
		}
		testkit.RawSendto(t, q.to6, []byte("six"), testkit.SockaddrLoopback(unix.AF_INET6, q.own))
		if got := th.result(out); got.errno != 0 || got.n != 3 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("signal", func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGUSR1) // a handler with SA_RESTART
		defer signal.Stop(signals)
		out := th.recvfrom(a, p.six, 0)
		th.waiting(1)
		if err := unix.Tgkill(os.Getpid(), th.tid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		select {
		case <-signals:
		case <-time.After(10 * time.Second):
			t.Fatal("the signal has not been taken")
		}
		th.waiting(1) // again
		send(t, "seven")
		check(t, th.result(out), "seven")

		timeout(p.six, time.Minute)
		defer timeout(p.six, 0)
		out = th.recvfrom(a, p.six, 0)
		th.waiting(1)
		unix.Tgkill(os.Getpid(), th.tid, unix.SIGUSR1)
		if got := th.result(out); got.errno != unix.EINTR {
			t.Errorf("with a timeout: %+v", got)
		}
		<-signals
	})
	t.Run("recvmsg", func(t *testing.T) {
		p.set(t, unix.IP_RECVTTL, 1)
		defer p.set(t, unix.IP_RECVTTL, 0)
		sc := scenario{nr: unix.SYS_RECVMSG, each: []scenarioMessage{{name: 1, room: 16, control: 1, controlRoom: 100, vector: []int{2, 0, 10}}}}
		a.Fill()
		args := sc.prepare(a)
		out := th.call(sc.nr, uintptr(p.six), uintptr(args[1]), uintptr(args[2]))
		th.waiting(1)
		send(t, "eight")
		check(t, th.result(out), "eight")
		m, _, ok, _ := siit.TakeControl(a.Good[controlAt:controlAt+100], false)
		if !ok || m.Level != unix.IPPROTO_IP || m.Name != unix.IP_TTL || !bytes.Equal(m.Data, testkit.CmsgInt(64)) {
			t.Errorf("control message %+v", m)
		}
	})
	many := func(flags uint32, limit int, count int) <-chan recvResult {
		sc := scenario{nr: unix.SYS_RECVMMSG, flags: flags, count: count, limit: limit}
		for range count {
			sc.each = append(sc.each, scenarioMessage{name: 1, room: 16, vector: []int{16}})
		}
		a.Fill()
		args := sc.prepare(a)
		return th.call(sc.nr, uintptr(p.six), uintptr(args[1]), uintptr(args[2]), uintptr(args[3]), uintptr(args[4]))
	}
	lengths := func() (list []int) {
		for i := range 4 {
			list = append(list, int(int32(binary.NativeEndian.Uint32(a.Good[headersAt+64*i+56:]))))
		}
		return list
	}
	const untouched = int(-0x55555556)
	compare := func(t *testing.T, got recvResult, n int, want ...int) {
		t.Helper()
		if got.errno != 0 || got.n != n || fmt.Sprint(lengths()) != fmt.Sprint(want) {
			t.Errorf("%d, %v: %v, want %d: %v", got.n, got.errno, lengths(), n, want)
		}
	}
	t.Run("recvmmsg", func(t *testing.T) {
		out := many(0, 0, 3)
		for i, data := range []string{"a", "bb", "ccc"} {
			th.waiting(1)
			testkit.Until(t, "it has the datagrams before", func() bool {
				return len(waitingCalls(&s.Receivers, func(r *receiver) bool { return int(r.done) == i })) == 1
			})
			send(t, data)
		}
		compare(t, th.result(out), 3, 1, 2, 3, untouched)
	})
	t.Run("MSG_WAITFORONE", func(t *testing.T) {
		out := many(unix.MSG_WAITFORONE, 0, 3)
		th.waiting(1)
		send(t, "a")
		compare(t, th.result(out), 1, 1, untouched, untouched, untouched)
	})
	t.Run("recvmmsg, timeout", func(t *testing.T) {
		out := many(0, 2, 3) // looked at when a datagram has come
		th.waiting(1)
		send(t, "a")
		compare(t, th.result(out), 1, 1, untouched, untouched, untouched)
	})
	t.Run("recvmmsg, SO_RCVTIMEO", func(t *testing.T) {
		timeout(p.six, 300*time.Millisecond)
		defer timeout(p.six, 0)
		out := many(0, 0, 3)
		th.waiting(1)
		send(t, "a")
		compare(t, th.result(out), 1, 1, untouched, untouched, untouched)
	})
	t.Run("recvmmsg, shutdown", func(t *testing.T) {
		before := p.six
		q := newPair(t, unix.AF_INET)
		p.six = q.six
		defer func() { p.six = before }()
		out := many(0, 0, 3)
		th.waiting(1)
		unix.Shutdown(q.six, unix.SHUT_RD)
		compare(t, th.result(out), 3, 0, 0, 0, untouched)
	})
	t.Run("recvmmsg, more than at a time", func(t *testing.T) {
		const count = 3*maxInOneGo + 5
		unix.SetsockoptInt(p.six, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
		b := testkit.NewArenaOf(t, 64*count/testkit.PageSize+1)
		b.Fill()
		for i := range count { // without names, data and control
			b.Put64(64*i, b.At(0), 0, 0, 0, 0, 0)
		}
		for range count - 1 {
			send(t, "x")
		}
		out := th.call(unix.SYS_RECVMMSG, uintptr(p.six), uintptr(b.At(0)), count)
		th.waiting(1)
		send(t, "x")
		if got := th.result(out); got.errno != 0 || got.n != count {
			t.Errorf("%+v", got)
		}
		for range count {
			send(t, "x")
		}
		if got := th.result(th.call(unix.SYS_RECVMMSG, uintptr(p.six), uintptr(b.At(0)), 3*maxInOneGo, unix.MSG_DONTWAIT)); got.n != 3*maxInOneGo {
			t.Errorf("%+v", got)
		}
	})
	if n := len(waitingCalls(&s.Receivers, nil)); n != 0 {
		t.Errorf("%d calls are still waiting", n)
	}
}

// TestReceiveFollows puts other sockets into the place of one that is waited for.
func TestReceiveFollows(t *testing.T) {
	s := receiveSupervisor(t)
	th := newFiltered(t, s)
	a := testkit.NewArena(t)
	first, second := newPair(t, unix.AF_INET), newPair(t, unix.AF_INET)
	fd, err := unix.FcntlInt(uintptr(first.six), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	other, err := unix.FcntlInt(uintptr(second.six), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	swap := func(to int) {
		t.Helper()
		old, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(old)
		if err := unix.Dup3(to, fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		cookie := s.Receivers.NoteMove(old)
		s.Receivers.Follow(cookie, to)
		s.Receivers.Follow(cookie, to) // again, for nothing
	}
	from := func(p *pair, got recvResult) {
		t.Helper()
		if got.errno != 0 || got.n != 4 || !bytes.Equal(a.Good[namesAt:namesAt+16], testkit.SockaddrLoopback(unix.AF_INET, p.peer)) {
			t.Errorf("%+v from %x", got, a.Good[namesAt:namesAt+16])
		}
	}
	send := func(p *pair) {
		testkit.RawSendto(t, p.to6, []byte("data"), testkit.SockaddrLoopback(unix.AF_INET6, p.own))
	}

	out := th.recvfrom(a, fd, 0)
	th.waiting(1)
	swap(second.six)
	th.waiting(1)
	send(first) // to nobody
	send(second)
	from(second, th.result(out))

	send(second) // is there before anybody looks
	swap(first.six)
	first.drain()
	out = th.recvfrom(a, fd, 0)
	th.waiting(1)
	swap(second.six)
	from(second, th.result(out))

	// One of the program's own family: the kernel takes over.
	out = th.recvfrom(a, fd, 0)
	th.waiting(1)
	swap(first.four)
	th.waiting(0)
	testkit.RawSendto(t, first.to4, []byte("data"), testkit.SockaddrLoopback(unix.AF_INET, first.own))
	from(first, th.result(out))

	// Another one is nobody's business.
	swap(first.six)
	out = th.recvfrom(a, fd, 0)
	th.waiting(1)
	s.Receivers.Follow(s.Receivers.NoteMove(first.to6), second.six)
	send(first)
	from(first, th.result(out))

	// A swap while the call is being taken up, when it has a copy of the old socket already and
	// does not wait yet.
	swap(first.six)
	r := reception{s: s, c: session.Call{ID: 1 << 60, TID: th.tid, FD: fd}, family: unix.AF_INET6, pass: *first.passport(), moves: s.Receivers.moves.Load()}
	var errno unix.Errno
	if r.fd, errno = s.Targets.Getfd(th.tid, fd); errno != 0 {
		t.Fatal(errno)
	}
	second.drain()
	swap(second.six)
	s.Receivers.wait(&r, nothingYet)
	waiting := waitingCalls(&s.Receivers, nil)
	if len(waiting) != 1 || linux.CookieOf(waiting[0].fd) != linux.CookieOf(second.six) {
		t.Fatalf("%d wait, and not for the new socket", len(waiting))
	}
	waiting[0].endWith(unix.EINTR)
}

// waitingCalls returns the calls that wait, or those of them for which condition is true.
func waitingCalls(all *receivers, condition func(*receiver) bool) (list []*receiver) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, p := range all.waiting {
		if condition == nil {
			list = append(list, p)
			continue
		}
		p.mu.Lock()
		if !p.busy && condition(p) {
			list = append(list, p)
		}
		p.mu.Unlock()
	}
	return list
}

// processorTime returns what this process takes of the processors in a time.
func processorTime(d time.Duration) time.Duration {
	now := func() time.Duration {
		var usage unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &usage)
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	began := now()
	time.Sleep(d)
	return now() - began
}

// TestReceiveUnix receives from a Unix datagram socket, which is in the place of a UDP one.
func TestReceiveUnix(t *testing.T) {
	s := receiveSupervisor(t)
	th := newFiltered(t, s)
	a := testkit.NewArena(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there := pair[0], pair[1]
	defer unix.Close(here)
	defer unix.Close(there)
	p := samplePassport(unix.AF_INET)
	p.Proto, p.LocalPort = unix.IPPROTO_UDP, 40000
	if errno := p.PutOnUnix(here); errno != 0 {
		t.Fatal(errno)
	}
	var name [linux.SizeofSockaddrIn6]byte
	p.Sockaddr(p.Peer, &name)
	check := func(what string, got recvResult, n, length int) {
		t.Helper()
		if got.errno != 0 || got.n != n || !bytes.Equal(a.Good[namesAt:namesAt+16], name[:16]) || length >= 0 && int(binary.NativeEndian.Uint32(a.Good[lengthAt:])) != length {
			t.Errorf("%s: %+v from %x", what, got, a.Good[namesAt:namesAt+16])
		}
	}
	out := th.recvfrom(a, here, 0)
	th.waiting(1)
	unix.Write(there, []byte("hello"))
	check("waiting", th.result(out), 5, 16)
	unix.Write(there, make([]byte, 1000))
	check("MSG_TRUNC", th.result(th.recvfrom(a, here, unix.MSG_TRUNC)), 1000, 16)
	unix.Write(there, nil)
	check("empty", th.result(th.recvfrom(a, here, unix.MSG_OOB)), 0, 16) // which UDP knows nothing of
	unix.Write(there, []byte("data"))
	if got := th.result(th.recvfrom(a, here, unix.MSG_ERRQUEUE)); got.errno != unix.EAGAIN {
		t.Errorf("the error queue: %+v", got)
	}
	check("is still there", th.result(th.recvfrom(a, here, 0)), 4, 16)

	// Longer than any datagram of UDP.
	long := bytes.Repeat([]byte("x"), 100<<10)
	if _, err := unix.Write(there, long); err != nil {
		t.Fatal(err)
	}
	b := testkit.NewArenaOf(t, 48)
	b.Fill()
	got := th.result(th.call(unix.SYS_RECVFROM, uintptr(here), uintptr(b.At(0)), uintptr(len(b.Good)), 0, uintptr(a.At(namesAt)), uintptr(a.At(lengthAt))))
	if got.n != len(long) || !bytes.Equal(b.Good[:len(long)], long) || b.Good[len(long)] != 0xaa {
		t.Errorf("a long one: %+v", got)
	}

	// Descriptors and credentials are not for the program, and not for the supervisor either;
	// timestamps are.
	if err := unix.SetsockoptInt(here, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		t.Fatal(err)
	}
	before := testkit.OpenFDs(t)
	for range 20 {
		if err := unix.Sendmsg(there, []byte("fds"), unix.UnixRights(there, there, there), nil, 0); err != nil {
			t.Fatal(err)
		}
		sc := scenario{nr: unix.SYS_RECVMSG, each: []scenarioMessage{{name: 1, room: 16, control: 1, controlRoom: 100, vector: []int{10}}}}
		a.Fill()
		args := sc.prepare(a)
		check("SCM_RIGHTS", th.result(th.call(sc.nr, uintptr(here), uintptr(args[1]), 0)), 3, -1)
		flags, used := binary.NativeEndian.Uint32(a.Good[48:]), binary.NativeEndian.Uint64(a.Good[40:])
		m, _, ok, _ := siit.TakeControl(a.Good[controlAt:controlAt+int(min(used, 100))], false)
		if flags != 0 || used != 32 || !ok || m.Level != unix.SOL_SOCKET || m.Name != unix.SO_TIMESTAMPNS {
			t.Fatalf("msg_flags %#x, %d bytes of control messages: %+v", flags, used, m)
		}
	}
	if after := testkit.OpenFDs(t); after > before+3 {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	unix.Shutdown(there, unix.SHUT_WR)
	unix.Shutdown(here, unix.SHUT_RD)
	if got := th.result(th.recvfrom(a, here, 0)); got.errno != 0 || got.n != 0 {
		t.Errorf("after shutdown: %+v", got)
	}
}

// TestReceiveOthers has calls on sockets that are none of this file's business go on natively.
func TestReceiveOthers(t *testing.T) {
	s := receiveSupervisor(t)
	th := newFiltered(t, s)
	a := testkit.NewArena(t)
	p := newPair(t, unix.AF_INET)
	testkit.RawSendto(t, p.to4, []byte("v4"), testkit.SockaddrLoopback(unix.AF_INET, p.own))
	if got := th.result(th.recvfrom(a, p.four, 0)); got.n != 2 || !bytes.Equal(a.Good[namesAt:namesAt+16], testkit.SockaddrLoopback(unix.AF_INET, p.peer)) {
		t.Errorf("an AF_INET socket: %+v", got)
	}
	testkit.RawSendto(t, p.four, []byte("v6"), testkit.SockaddrLoopback(unix.AF_INET, p.peer))
	plain := testkit.Socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	bindBoth(t, testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), unix.AF_INET, plain)
	name, _ := unix.Getsockname(plain)
	if err := unix.Sendto(p.to6, []byte("six"), 0, name); err != nil {
		t.Fatal(err)
	}
	if got := th.result(th.recvfrom(a, plain, 0)); got.n != 3 || binary.NativeEndian.Uint16(a.Good[namesAt:]) != unix.AF_INET6 {
		t.Errorf("a plain AF_INET6 socket: %+v", got)
	}
	if got := th.result(th.recvfrom(a, 999, 0)); got.errno != unix.EBADF {
		t.Errorf("no descriptor: %+v", got)
	}
	s.AnyCrossed.Store(false)
	testkit.RawSendto(t, p.to6, []byte("six"), testkit.SockaddrLoopback(unix.AF_INET6, p.own))
	if got := th.result(th.recvfrom(a, p.six, 0)); got.n != 3 || binary.NativeEndian.Uint16(a.Good[namesAt:]) != unix.AF_INET6 {
		t.Errorf("before any socket has been replaced: %+v", got)
	}
	s.AnyCrossed.Store(true)

	// A stream socket, but for its error queue.
	stream, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stream[0])
	defer unix.Close(stream[1])
	pass := samplePassport(unix.AF_INET)
	pass.Proto = unix.IPPROTO_TCP
	if errno := pass.PutOnUnix(stream[0]); errno != 0 {
		t.Fatal(errno)
	}
	unix.Write(stream[1], []byte("stream"))
	if got := th.result(th.recvfrom(a, stream[0], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)); got.errno != unix.EAGAIN {
		t.Errorf("the error queue of a stream: %+v", got)
	}
	if got := th.result(th.recvfrom(a, stream[0], 0)); got.n != 6 {
		t.Errorf("a stream: %+v", got)
	}
}

// envReceivers has this program be the child of TestReceiveManyWait.
const envReceivers = "UPCONV_TEST_RECEIVERS" // how many

// manyWait is a program whose threads each wait on one of the sockets that it is given, which are
// the descriptors from 3 on: every other one for a datagram, and the rest for two.
func manyWait(count int) {
	var done sync.WaitGroup
	for i := range count {
		done.Go(func() {
			var name [2][32]byte
			var data [2][16]byte
			if i%2 == 0 {
				length := uint32(len(name[0]))
				n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(3+i), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data[0])), 0,
					uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&length)))
				if errno != 0 || string(data[0][:n]) != "datagram" || length != linux.SizeofSockaddrIn || name[0][0] != unix.AF_INET {
					fmt.Printf("%d: %v, %q, %x\n", i, errno, data[0][:n], name[0][:length])
				}
				return
			}
			var vectors [2]unix.Iovec
			var messages [2]struct {
				unix.Msghdr
				length uint32
			}
			for k := range messages {
				vectors[k].Base = &data[k][0]
				vectors[k].SetLen(len(data[k]))
				messages[k].Msghdr = unix.Msghdr{Name: &name[k][0], Namelen: uint32(len(name[k])), Iov: &vectors[k], Iovlen: 1}
			}
			n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(3+i), uintptr(unsafe.Pointer(&messages)), 2, 0, 0, 0)
			for k, want := range []string{"datagram", "another"} {
				if errno != 0 || n != 2 || string(data[k][:messages[k].length]) != want || messages[k].Namelen != linux.SizeofSockaddrIn || name[k][0] != unix.AF_INET {
					fmt.Printf("%d: %v, %d, %q, %x\n", i, errno, n, data[k], name[k])
				}
			}
		})
	}
	done.Wait()
	fmt.Println("end")
}

// receivingChild starts this program as one of count threads that wait, under the filter of th.
// ports are those of its sockets.
func (th *filtered) receivingChild(count int) (child *exec.Cmd, out *bytes.Buffer, ports []uint16) {
	t := th.t
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out = &bytes.Buffer{}
	child = exec.Command(exe, "-test.run=^TestReceiveManyWait$")
	child.Env, child.Stdout, child.Stderr = append(os.Environ(), fmt.Sprintf("%s=%d", envReceivers, count)), out, out
	for range count {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "socket")
		defer file.Close() // the supervisor has copies
		if errno := linux.Bind(fd, testkit.SockaddrLoopback(unix.AF_INET6, 0)); errno != 0 {
			t.Fatal(errno)
		}
		p := samplePassport(unix.AF_INET)
		p.Proto = unix.IPPROTO_UDP
		if errno := p.PutOn6(fd); errno != 0 {
			t.Fatal(errno)
		}
		name, _ := unix.Getsockname(fd)
		ports = append(ports, uint16(name.(*unix.SockaddrInet6).Port))
		child.ExtraFiles = append(child.ExtraFiles, file)
	}
	started := make(chan error)
	th.do <- func() { started <- child.Start() }
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if child.ProcessState == nil {
			child.Process.Kill()
			child.Wait()
		}
	})
	th.waiting(count)
	return child, out, ports
}

// TestReceiveManyWait has a thousand calls wait at a time.
func TestReceiveManyWait(t *testing.T) {
	const count = 1000
	if n, err := strconv.Atoi(os.Getenv(envReceivers)); err == nil {
		debug.SetMaxThreads(4 * count)
		manyWait(n)
		os.Exit(0)
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); limit.Cur < 8*count {
		t.Fatalf("needs %d descriptors, may have %d", 8*count, limit.Cur)
	}
	before := testkit.OpenFDs(t)
	t.Run("all", func(t *testing.T) {
		th := newFiltered(t, receiveSupervisor(t))
		sender := testkit.Socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
		child, out, ports := th.receivingChild(count)
		const share = 8 // of one processor, and much more than it is; the race detector takes a multiple
		used := processorTime(2 * time.Second)
		t.Logf("%d that wait take %v of the processor in 2 s", count, used)
		if used > 2*time.Second/share {
			t.Errorf("%d that wait take %v of the processor in 2 s", count, used)
		}
		began := time.Now()
		for _, port := range ports {
			testkit.RawSendto(t, sender, []byte("datagram"), testkit.SockaddrLoopback(unix.AF_INET6, port))
		}
		th.waiting(count / 2)
		testkit.Until(t, "all have the first one", func() bool {
			return len(waitingCalls(&th.s.Receivers, func(r *receiver) bool { return r.done == 1 })) == count/2
		})
		for i, port := range ports {
			if i%2 == 1 {
				testkit.RawSendto(t, sender, []byte("another"), testkit.SockaddrLoopback(unix.AF_INET6, port))
			}
		}
		if err := child.Wait(); err != nil || out.String() != "end\n" {
			t.Errorf("%v\n%s", err, out.String())
		}
		t.Logf("all served within %v", time.Since(began))
	})
	testkit.Until(t, "everything is closed", func() bool { return testkit.OpenFDs(t) <= before+4 })
}

// TestReceiveTargetDies kills a program whose calls wait.
func TestReceiveTargetDies(t *testing.T) {
	th := newFiltered(t, receiveSupervisor(t))
	before := testkit.OpenFDs(t)
	child, _, _ := th.receivingChild(20)
	if testkit.OpenFDs(t) < before+20 {
		t.Error("the sockets are not the supervisor's")
	}
	child.Process.Kill()
	child.Wait()
	th.waiting(0)
	testkit.Until(t, "everything is closed", func() bool { return testkit.OpenFDs(t) <= before+4 })
}
