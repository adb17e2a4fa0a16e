package receive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/testkit"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// receiveSupervisor is a supervisor that has nobody to supervise. To it, ::1 is what 127.0.0.1 has
// been translated to.
func receiveSupervisor(t testing.TB, rules ...string) *Session {
	t.Helper()
	var parsed []policy.Rule
	for _, rule := range rules {
		r, err := policy.ParseRule(rule)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, r)
	}
	decided, err := policy.New(parsed, policy.Route{Kind: policy.NAT64, Target: "2001:db8:64::/96"})
	if err != nil {
		t.Fatal(err)
	}
	mappings, err := nat64.NewMappings([]nat64.Mapping{{IPv4: netip.MustParsePrefix("127.0.0.1/32"), IPv6: netip.MustParsePrefix("::1/128")}})
	if err != nil {
		t.Fatal(err)
	}
	n, err := session.NewNode(slog.New(slog.DiscardHandler), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s := &Session{}
	s.Init(n, func() {})
	s.Needs = session.Needs{Swaps: true, Inet6: true, Unix: true}
	s.Rules.Store(&session.Ruleset{Policy: decided, Mappings: mappings})
	s.AnyCrossed.Store(true)
	return s
}

// pair is an AF_INET socket and an AF_INET6 one in its place, each with somebody who sends to it,
// all at the same ports.
type pair struct {
	four, six  int
	to4, to6   int // who sends
	own, peer  uint16
	passFamily int
}

// sockaddrMapped is that of IPv4, as a socket of the family takes it.
func sockaddrMapped(family int, port uint16) []byte {
	var name [linux.SizeofSockaddrIn6]byte
	p := passport.Passport{Family: family}
	return name[:p.Sockaddr(netip.AddrPortFrom(linux.Loopback4, port), &name)]
}

// bindBoth is testkit.BindBoth for a first socket of any family.
func bindBoth(t testing.TB, four, family, six int) uint16 {
	t.Helper()
	return testkit.BindBoth(t, four, six, func(port uint16) []byte { return sockaddrMapped(family, port) })
}

func newPair(t testing.TB, passFamily int) *pair {
	t.Helper()
	const kind = unix.SOCK_DGRAM
	p := &pair{
		passFamily: passFamily,
		four:       testkit.Socket(t, passFamily, kind, 0), six: testkit.Socket(t, unix.AF_INET6, kind, 0),
		to4: testkit.Socket(t, unix.AF_INET, kind, 0), to6: testkit.Socket(t, unix.AF_INET6, kind, 0),
	}
	p.own, p.peer = bindBoth(t, p.four, passFamily, p.six), bindBoth(t, p.to4, unix.AF_INET, p.to6)
	if errno := p.passport().PutOn6(p.six); errno != 0 {
		t.Fatal(errno)
	}
	return p
}

func (p *pair) passport() *passport.Passport {
	return &passport.Passport{Family: p.passFamily, Proto: unix.IPPROTO_UDP, Peer: netip.MustParseAddrPort("203.0.113.10:53"), Local: linux.Loopback4}
}

// set sets an option of IPv4 on both.
func (p *pair) set(t testing.TB, name, value int) {
	t.Helper()
	for _, fd := range []int{p.four, p.six} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, name, value); err != nil {
			t.Fatal(err)
		}
	}
	if p.passFamily == unix.AF_INET {
		sockstate.MapOption(p.six, name)
		return
	}
	for _, m := range sockstate.MappedOptions { // a program with an AF_INET6 socket sets both
		if m.Inet == name {
			unix.SetsockoptInt(p.four, unix.IPPROTO_IPV6, m.Inet6, value)
			unix.SetsockoptInt(p.six, unix.IPPROTO_IPV6, m.Inet6, value)
		}
	}
}

// send sends the same to both.
func (p *pair) send(t testing.TB, data []byte, tos int) {
	t.Helper()
	unix.SetsockoptInt(p.to4, unix.IPPROTO_IP, unix.IP_TOS, tos)
	unix.SetsockoptInt(p.to6, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
	testkit.RawSendto(t, p.to4, data, testkit.SockaddrLoopback(unix.AF_INET, p.own))
	testkit.RawSendto(t, p.to6, data, testkit.SockaddrLoopback(unix.AF_INET6, p.own))
}

// drain takes everything that has come.
func (p *pair) drain() {
	for _, fd := range []int{p.four, p.six} {
		for _, flags := range []int{0, unix.MSG_ERRQUEUE} {
			for {
				_, _, err := unix.Recvfrom(fd, make([]byte, 1), flags|unix.MSG_DONTWAIT)
				if err == unix.EAGAIN {
					break
				}
			}
		}
	}
}

// newWorker returns a worker of a session.
func newWorker(s *Session) *Worker {
	w := &Worker{}
	w.Init(s, nil)
	return w
}

// handle has a worker decide about a call of this architecture.
func handle(w *Worker, n *seccompx.Notification) session.Outcome {
	c := &session.Call{ID: n.ID, TID: int(n.PID), Args: n.Data.Args, FD: int(int32(n.Data.Args[0]))}
	switch n.Data.Nr {
	case unix.SYS_RECVFROM:
		c.Name = "recvfrom"
		return w.Recvfrom(c)
	case unix.SYS_RECVMSG:
		c.Name = "recvmsg"
		return w.Recvmsg(c)
	case unix.SYS_RECVMMSG:
		c.Name = "recvmmsg"
		return w.Recvmmsg(c)
	}
	return session.CarryOn
}

// handled has a worker handle a call, and makes it natively if that is what the worker says.
func handled(t testing.TB, w *Worker, a *testkit.Arena, nr uintptr, fd int, args [6]uint64) testkit.CallResult {
	t.Helper()
	args[0] = uint64(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := handle(w, &seccompx.Notification{PID: uint32(unix.Gettid()), Data: seccompx.Data{Nr: int32(nr), Arch: seccompx.NativeArch(), Args: args}})
	w.Tidy()
	if out.State == session.StateElsewhere {
		t.Fatalf("call %d %#x waits", nr, args)
	}
	if !out.Returns() {
		return testkit.MakeCall(a, nr, fd, args)
	}
	if out.Errno != 0 {
		out.Value = 0
	}
	return testkit.CallResult{Value: uint64(out.Value), Errno: out.Errno, Memory: bytes.Clone(a.Good)}
}

// both makes a call on both sockets of a pair, prepared by prepare each time, and compares what it
// did.
func (p *pair) both(t testing.TB, w *Worker, a *testkit.Arena, what string, nr uintptr, prepare func() [6]uint64) testkit.CallResult {
	t.Helper()
	a.Fill()
	args := prepare()
	want := testkit.MakeCall(a, nr, p.four, args)
	a.Fill()
	args = prepare()
	got := handled(t, w, a, nr, p.six, args)
	for _, r := range []*testkit.CallResult{&got, &want} {
		if left := r.Memory[timeoutAt:]; binary.NativeEndian.Uint64(left) == plenty-1 {
			clear(left[8:16]) // a little less than the other one's, or more
		}
	}
	// An ICMP error has a precedence of its own, RFC 1812 section 4.3.2.5.
	tos := siit.AppendControl(nil, unix.IPPROTO_IP, unix.IP_TOS, nil)[4:]
	for _, r := range []*testkit.CallResult{&got, &want} {
		r.Memory = bytes.ReplaceAll(r.Memory, append(bytes.Clone(tos), 0xc0), append(bytes.Clone(tos), 0))
	}
	if got.Value != want.Value || got.Errno != want.Errno || !bytes.Equal(got.Memory, want.Memory) {
		t.Errorf("%s: %d, %v, natively %d, %v%s", what, got.Value, got.Errno, want.Value, want.Errno, testkit.MemoryDifference(got.Memory, want.Memory))
	}
	return got
}

// Where things are in the arena.
const (
	headersAt = 0                // struct mmsghdr
	vectorsAt = testkit.PageSize // struct iovec
	namesAt   = 2 * testkit.PageSize
	controlAt = 4 * testkit.PageSize
	lengthAt  = 7 * testkit.PageSize
	timeoutAt = 7*testkit.PageSize + 64
	dataAt    = 8 * testkit.PageSize

	plenty = 1 << 40 // seconds
)

// scenario is a call of which everything is chosen at random.
type scenario struct {
	nr    uintptr
	flags uint32
	count int
	each  []scenarioMessage
	size  int
	name  int // 0: none; 1: good, 2: nowhere, 3: read-only, 4: at the end of the page
	room  int32
	where int // of the length: 0: good, 1: NULL, 2: read-only
	limit int // of recvmmsg: 0: none, 1: plenty, 2: zero, 3: invalid, 4: nowhere
	short int // of recvmsg: so many bytes of the struct msghdr are nowhere
}

type scenarioMessage struct {
	name, control int
	room          int32
	controlRoom   uint64
	vector        []int // sizes; -1: nowhere, -2: read-only, -3: over the end, -4: negative
	vectorWhere   int   // 0: good, 1: NULL, 2: too many
}

func randomScenario(rnd *rand.Rand) (s scenario) {
	s.nr = []uintptr{unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG}[rnd.Intn(3)]
	rare := func(n int) bool { return rnd.Intn(n) == 0 }
	s.flags = unix.MSG_DONTWAIT
	for _, flag := range []uint32{unix.MSG_PEEK, unix.MSG_TRUNC, unix.MSG_ERRQUEUE, unix.MSG_WAITFORONE, unix.MSG_CMSG_CLOEXEC, unix.MSG_WAITALL, unix.MSG_OOB, unix.MSG_CTRUNC} {
		if rare(5) {
			s.flags |= flag
		}
	}
	if rare(60) {
		s.flags |= msgCompat
	}
	place := func() int {
		if rare(6) {
			return rnd.Intn(5)
		}
		return 1
	}
	room := func() int32 {
		if rare(3) {
			return []int32{0, 1, 2, 7, 8, 15, 17, 28, 128, 4096, -1, -1 << 31, 1<<31 - 1}[rnd.Intn(13)]
		}
		return 16
	}
	s.name, s.room, s.size = place(), room(), []int{0, 1, 10, 100, 2000, 70000}[rnd.Intn(6)]
	if rare(8) {
		s.where = rnd.Intn(3)
	}
	if rare(3) {
		s.limit = rnd.Intn(5)
	}
	s.count = 1
	if s.nr == unix.SYS_RECVMMSG {
		s.count = rnd.Intn(5)
	}
	if rare(12) {
		s.short = []int{1, 4, 8, 9, 30, 56}[rnd.Intn(6)]
	}
	for range max(s.count, 1) {
		m := scenarioMessage{name: place(), room: room(), control: place()}
		m.controlRoom = uint64(rnd.Intn(260))
		if rare(10) {
			m.controlRoom = []uint64{1 << 31, 1<<64 - 1, 1 << 20}[rnd.Intn(3)]
		}
		if rare(3) {
			m.control, m.controlRoom = 0, uint64(rnd.Intn(2)*64)
		}
		for range rnd.Intn(4) {
			m.vector = append(m.vector, []int{0, 1, 3, 10, 100, 1000, 2000, 5000}[rnd.Intn(8)])
			if rare(12) {
				m.vector[len(m.vector)-1] = -1 - rnd.Intn(4)
			}
		}
		if rare(10) {
			m.vectorWhere = rnd.Intn(4)
		}
		s.each = append(s.each, m)
	}
	return s
}

// placeIn returns where something of a size is.
func placeIn(a *testkit.Arena, how, good, size int) uint64 {
	switch how {
	case 0:
		return 0
	case 2:
		return a.Forbidden
	case 3:
		return a.ReadOnly
	case 4:
		return a.Forbidden - uint64(size)/2 // part of it is good
	}
	return a.At(good)
}

// prepare writes the scenario's structs, and returns the arguments of the call.
func (s *scenario) prepare(a *testkit.Arena) [6]uint64 {
	if s.nr == unix.SYS_RECVFROM {
		where := a.At(lengthAt)
		switch s.where {
		case 1:
			where = 0
		case 2:
			where = a.ReadOnly
		}
		a.Put32(lengthAt, uint32(s.room))
		return [6]uint64{0, a.At(dataAt), uint64(s.size), uint64(s.flags), placeIn(a, s.name, namesAt, 16), where}
	}
	size := 56
	if s.nr == unix.SYS_RECVMMSG {
		size = 64
	}
	vectors, data := vectorsAt, dataAt
	for i, m := range s.each {
		at := headersAt + i*size
		vector := a.At(vectors)
		count := uint64(len(m.vector))
		switch m.vectorWhere {
		case 1:
			vector = 0
		case 2:
			count = linux.MaxIovecs + 1
		case 3:
			vector = a.Forbidden - 8
		}
		a.Put64(at, placeIn(a, m.name, namesAt+i*256, 16), uint64(uint32(m.room)), vector, count,
			placeIn(a, m.control, controlAt+i*512, 48), m.controlRoom)
		for _, v := range m.vector {
			base, length := a.At(data), uint64(v)
			switch v {
			case -1:
				base, length = a.Forbidden, 10
			case -2:
				base, length = a.ReadOnly, 10
			case -3:
				base, length = a.Forbidden-5, 10
			case -4:
				length = 1 << 63
			default:
				data += v
			}
			a.Put64(vectors, base, length)
			vectors += 16
		}
	}
	if s.nr == unix.SYS_RECVMSG {
		if s.short > 0 {
			end := len(a.Good) - (size - s.short)
			copy(a.Good[end:], a.Good[headersAt:headersAt+size])
			return [6]uint64{0, a.At(end), uint64(s.flags)}
		}
		return [6]uint64{0, a.At(headersAt), uint64(s.flags)}
	}
	limit := a.At(timeoutAt)
	switch s.limit {
	case 0:
		limit = 0
	case 1:
		a.Put64(timeoutAt, plenty, 0)
	case 2:
		a.Put64(timeoutAt, 0, 0)
	case 3:
		a.Put64(timeoutAt, 0, 1e9)
	case 4:
		limit = a.Forbidden
	}
	return [6]uint64{0, a.At(headersAt), uint64(s.count), uint64(s.flags), limit}
}

// compareAtRandom makes calls at random on both sockets of a pair.
func compareAtRandom(t *testing.T, passFamily int, seed int64, rounds int) {
	rnd := rand.New(rand.NewSource(seed))
	s := receiveSupervisor(t)
	w := newWorker(s)
	defer w.Close()
	a := testkit.NewArena(t)
	p := newPair(t, passFamily)
	// What the kernel does not put into the name is what happened to be there.
	closed4, closed6 := testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), testkit.Socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	closed := bindBoth(t, closed4, unix.AF_INET, closed6)
	unix.Close(closed4)
	unix.Close(closed6)
	options := []int{unix.IP_RECVTTL, unix.IP_RECVTOS, unix.IP_PKTINFO, unix.IP_RECVORIGDSTADDR, unix.IP_RECVERR}
	calls, succeeded := 0, 0
	for round := 0; round < rounds && !t.Failed(); round++ {
		for _, option := range options {
			if rnd.Intn(10) == 0 {
				p.drain() // what has come before knows nothing of it
				p.set(t, option, rnd.Intn(2))
			}
		}
		for range rnd.Intn(3) {
			data := make([]byte, []int{0, 1, 10, 100, 1000, 1400, 9000}[rnd.Intn(7)])
			rnd.Read(data)
			p.send(t, data, rnd.Intn(64)<<2)
		}
		if rnd.Intn(6) == 0 { // an error, for the queue or at once
			testkit.RawSendto(t, p.four, []byte("nobody"), sockaddrMapped(passFamily, closed))
			testkit.RawSendto(t, p.six, []byte("nobody"), testkit.SockaddrLoopback(unix.AF_INET6, closed))
		}
		sc := randomScenario(rnd)
		what := fmt.Sprintf("seed %d, round %d: %+v", seed, round, sc)
		got := p.both(t, w, a, what, sc.nr, func() [6]uint64 { return sc.prepare(a) })
		if sc.nr == unix.SYS_RECVMMSG { // what has ended it early is natively kept for the next call
			for _, fd := range []int{p.four, p.six} {
				unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			}
		}
		calls++
		if got.Errno == 0 {
			succeeded++
		}
	}
	if calls == rounds && rounds > 100 && succeeded < rounds/5 {
		t.Errorf("only %d of %d calls received anything", succeeded, calls)
	}
}

// TestReceiveAsNatively makes calls of all kinds, good and bad, on an AF_INET socket and on an
// AF_INET6 one in the place of one, and compares everything that can be seen of them.
func TestReceiveAsNatively(t *testing.T) {
	for name, family := range map[string]int{"AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6} {
		t.Run(name, func(t *testing.T) {
			for seed := range int64(4) {
				compareAtRandom(t, family, seed, 400)
			}
		})
	}
}

func FuzzReceiveAsNatively(f *testing.F) {
	f.Add(int64(1), true)
	f.Fuzz(func(t *testing.T, seed int64, inet6 bool) {
		family := unix.AF_INET
		if inet6 {
			family = unix.AF_INET6
		}
		compareAtRandom(t, family, seed, 20)
	})
}

// TestReceiveTimeout reads the timeouts of recvmmsg(2) in each layout, and writes what is left of
// them.
func TestReceiveTimeout(t *testing.T) {
	a := testkit.NewArena(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	at := a.At(0)
	for _, c := range []struct {
		what           string
		compat, time64 bool
		words          []uint32
		sec, nsec      int64
		ok             bool
	}{
		{"native", false, true, []uint32{5, 1, 7, 0}, 5 + 1<<32, 7, true},
		{"native, dirty", false, true, []uint32{5, 0, 7, 1}, 5, 7 + 1<<32, false},
		{"i386, recvmmsg_time64", true, true, []uint32{5, 1, 7, 0xaaaaaaaa}, 5 + 1<<32, 7, true},
		{"i386, recvmmsg", true, false, []uint32{5, 7}, 5, 7, true},
		{"i386, negative", true, false, []uint32{0xffffffff, 7}, -1, 7, false},
		{"i386, nanoseconds", true, false, []uint32{1, 1e9}, 1, 1e9, false},
	} {
		a.Fill()
		for i, w := range c.words {
			a.Put32(4*i, w)
		}
		before := bytes.Clone(a.Good[:32])
		target := &session.Call{TID: unix.Gettid(), Layout: linux.Layout{Compat: c.compat}}
		limit := timeout{at: at, time64: c.time64}
		if ok := limit.read(target); ok != c.ok || limit.sec != c.sec || limit.nsec != c.nsec {
			t.Errorf("%s: %d s, %d ns, %v", c.what, limit.sec, limit.nsec, ok)
		}
		limit.leftSec, limit.leftNsec = c.sec, c.nsec
		if c.compat && c.time64 {
			copy(before[12:], []byte{0, 0, 0, 0})
		}
		if !limit.write(target) || !bytes.Equal(a.Good[:32], before) {
			t.Errorf("%s: %x, want %x", c.what, a.Good[:32], before)
		}
	}
	limit := timeout{at: 1, sec: 3, nsec: 0, began: time.Now().Add(-time.Second - time.Millisecond)}
	if limit.passed() || limit.leftSec != 1 || limit.leftNsec < 9e8 {
		t.Errorf("%d s, %d ns are left", limit.leftSec, limit.leftNsec)
	}
	limit = timeout{at: 1, sec: 1, nsec: 0, began: time.Now().Add(-time.Second)}
	if !limit.passed() || limit.leftSec != 0 || limit.leftNsec != 0 {
		t.Errorf("%d s, %d ns are left", limit.leftSec, limit.leftNsec)
	}
}

func samplePassport(family int) passport.Passport {
	return passport.Passport{Family: family, Proto: unix.IPPROTO_MPTCP, Peer: netip.MustParseAddrPort("203.0.113.10:443"), Local: netip.MustParseAddr("192.0.0.2")}
}
