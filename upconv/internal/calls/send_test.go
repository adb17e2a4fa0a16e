package calls

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/datagram"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/testkit"
	"github.com/upconv/upconv/upconv/policy"
)

// senders are two sockets, each of which sends to a receiver of its own: one natively, the other
// through a worker.
type senders struct {
	w           *Worker
	a           *testkit.Arena
	native, own [2]int // the second ones are connected
	peers       [2]int // native's, own's
	ports       [2]uint16
	stream      int
}

// newSenders makes a worker to which a datagram socket has been moved before, so that it leaves
// nothing to the kernel.
func newSenders(t testing.TB) *senders {
	t.Helper()
	direct, err := policy.ParseRule("127.0.0.1=direct")
	if err != nil {
		t.Fatal(err)
	}
	decided, err := policy.New([]policy.Rule{direct}, policy.Route{Kind: policy.NAT64, Target: "2001:db8:64::/96"})
	if err != nil {
		t.Fatal(err)
	}
	s := idleSession(t)
	s.Needs = session.Needs{Swaps: true, UDP: true, Sends: true}
	s.Rules.Store(&session.Ruleset{Policy: decided})
	s.Moved.Store(true)
	e := &senders{a: testkit.NewArena(t)}
	for i := range e.peers {
		fds := []*int{&e.native[0], &e.native[1]}
		if i == 1 {
			fds = []*int{&e.own[0], &e.own[1]}
		}
		e.peers[i] = testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
		if errno := linux.Bind(e.peers[i], testkit.SockaddrLoopback(unix.AF_INET, 0)); errno != 0 {
			t.Fatal(errno)
		}
		name, err := unix.Getsockname(e.peers[i])
		if err != nil {
			t.Fatal(err)
		}
		e.ports[i] = uint16(name.(*unix.SockaddrInet4).Port)
		for _, fd := range fds {
			*fd = testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
		}
		if errno := linux.Connect(*fds[1], testkit.SockaddrLoopback(unix.AF_INET, e.ports[i])); errno != 0 {
			t.Fatal(errno)
		}
	}
	e.stream = testkit.Socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	s.Origin = &netns.Origin{Cookie: linux.NetnsCookie(e.own[0])}
	e.w = idleWorker(s)
	t.Cleanup(e.w.Close)
	return e
}

// arrived returns what a receiver has got.
func (e *senders) arrived(t testing.TB, i int) (all []string) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(e.peers[i], buf, 0)
		if err != nil {
			return all
		}
		all = append(all, fmt.Sprintf("%d %x", n, buf[:min(n, 16)]))
	}
}

// Where the parts of sends are in the arena.
const (
	sendNames   = 16 << 10
	sendVectors = 20 << 10 // 1,100 struct iovec and more
	sendControl = 48 << 10
	sendPayload = 64 << 10
	sendPlenty  = 48*testkit.PageSize - sendPayload
)

// where stands for a pointer.
type where uint8

const (
	good where = iota
	null
	forbidden // a page that nobody may read
	kernelSpace
)

// sentMessage is a struct msghdr and what it leads to, for both layouts.
type sentMessage struct {
	name       where
	nameFamily uint16
	nameLen    int32
	vector     where
	vectorLen  uint64
	entries    [2]sentPart // the others are empty
	control    where
	controlLen uint64
	controlAt  int // which of controlSamples; where the length is theirs
}

type sentPart struct {
	Base   where
	length int64
}

// sending is a call.
type sending struct {
	call      string
	compat    bool
	connected bool
	flags     uint32
	headers   where
	count     uint32
	messages  []sentMessage
}

var controlSamples = []struct {
	level, name int
	data        []byte
}{
	{unix.IPPROTO_IP, unix.IP_TTL, []byte{9, 0, 0, 0}},
	{unix.IPPROTO_IP, unix.IP_TTL, []byte{0, 0, 0, 0}},
	{unix.IPPROTO_IP, unix.IP_TTL, []byte{9}},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, siit.SizeofInPktinfo)},
	{unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{100, 0}},
	{unix.SOL_SOCKET, unix.SCM_RIGHTS, []byte{0, 0, 0, 0}},
	{-1, -1, nil},
}

// put writes the call for a socket whose peer has the port, in the layout of an architecture, and
// returns its arguments.
func (s *sending) put(a *testkit.Arena, port uint16, compat bool) (args [6]uint64) {
	clear(a.Good)
	for i := range a.Good[sendPayload:] {
		a.Good[sendPayload+i] = byte(i) ^ byte(i>>8)
	}
	word := 8
	if compat {
		word = 4
	}
	pointer := func(p where, offset int) uint64 {
		switch {
		case p == null:
			return 0
		case p == forbidden:
			return a.Forbidden
		case p == kernelSpace && compat:
			return 0xffff_f000
		case p == kernelSpace:
			return 0xffff_8000_0000_0000
		}
		return a.At(offset)
	}
	set := func(offset int, v uint64) {
		if compat {
			a.Put32(offset, uint32(v))
		} else {
			a.Put64(offset, v)
		}
	}
	stride := 8 * word
	for i := range s.messages {
		m, h := &s.messages[i], i*stride
		name := sendNames + i*32
		copy(a.Good[name:], testkit.SockaddrLoopback(unix.AF_INET, port))
		binary.NativeEndian.PutUint16(a.Good[name:], m.nameFamily)
		vector := sendVectors + i*2*16
		for j, part := range m.entries {
			set(vector+2*word*j, pointer(part.Base, sendPayload+256*i+j))
			set(vector+2*word*j+word, uint64(part.length))
		}
		control, length := sendControl+i*64, m.controlLen
		if sample := controlSamples[m.controlAt]; length == 1 {
			header, _ := siit.ControlLayout(compat)
			length = uint64(header + len(sample.data))
			set(control, length)
			a.Put32(control+word, uint32(sample.level))
			a.Put32(control+word+4, uint32(sample.name))
			copy(a.Good[control+header:], sample.data)
		}
		set(h, pointer(m.name, name))
		a.Put32(h+word, uint32(m.nameLen))
		set(h+2*word, pointer(m.vector, vector))
		set(h+3*word, m.vectorLen)
		set(h+4*word, pointer(m.control, control))
		set(h+5*word, length)
	}
	m := &s.messages[0]
	switch s.call {
	case "sendto":
		length := uint64(m.entries[0].length)
		if s.compat {
			length = uint64(uint32(length))
		}
		return [6]uint64{0, pointer(m.entries[0].Base, sendPayload), length, uint64(s.flags), pointer(m.name, sendNames), uint64(uint32(m.nameLen))}
	case "sendmsg":
		return [6]uint64{0, pointer(s.headers, 0), uint64(s.flags)}
	}
	return [6]uint64{0, pointer(s.headers, 0), uint64(s.count), uint64(s.flags)}
}

// faults returns how many things are wrong with a call: of several the kernel may come to another
// one first.
func (s *sending) faults() (n int) {
	count := func(wrong ...bool) {
		for _, w := range wrong {
			if w {
				n++
			}
		}
	}
	count(s.headers != good, s.flags&unix.MSG_OOB != 0)
	for i := range s.messages {
		m := &s.messages[i]
		count(m.name != good, m.nameFamily != unix.AF_INET, m.nameLen < linux.SizeofSockaddrIn, m.vector != good, m.vectorLen > 2,
			m.control != good && m.controlLen > 0, m.controlLen > 0)
		total := int64(0)
		for _, part := range m.entries {
			count(part.Base != good, part.length < 0, part.length > math.MaxInt32) // that is behind the end of memory, too
			total += min(max(part.length, 0), datagram.MaxLength)
		}
		count(total > 65507) // which is what fits into a packet
	}
	return n
}

// compare makes the call natively and through the worker.
func (e *senders) compare(t testing.TB, s *sending) {
	t.Helper()
	which := 0
	if s.connected {
		which = 1
	}
	nr, _ := seccompx.NativeArch().Syscall(s.call)
	args := s.put(e.a, e.ports[0], false)
	want := testkit.MakeCall(e.a, uintptr(nr), e.native[which], args)
	sent := e.arrived(t, 0)

	arch := seccompx.NativeArch()
	if s.compat {
		arch = seccompx.I386
	}
	called, _ := arch.Syscall(s.call)
	args = s.put(e.a, e.ports[1], s.compat)
	args[0] = uint64(e.own[which])
	runtime.LockOSThread()
	n := seccompx.Notification{PID: uint32(unix.Gettid()), Data: seccompx.Data{Nr: int32(called), Arch: arch, Args: args}}
	out := e.w.Handle(&n)
	e.w.Tidy()
	runtime.UnlockOSThread()
	got := testkit.CallResult{Value: uint64(out.Value), Errno: out.Errno}
	switch {
	case out.State == session.StateElsewhere:
		t.Fatalf("%+v: it waits", s)
	case !out.Returns():
		if m := &s.messages[0]; want.Errno == 0 && m.name == good && m.nameLen >= linux.SizeofSockaddrIn && m.nameFamily == unix.AF_INET {
			t.Errorf("%+v: with an address, and left to the kernel", s)
		}
		if s.compat || want.Errno != 0 { // the kernel says so; for i386 it cannot be asked here
			return
		}
		got = testkit.MakeCall(e.a, uintptr(nr), e.own[which], args)
	}
	received := e.arrived(t, 1)
	if want.Errno != 0 {
		want.Value = 0
	}
	if got.Errno != 0 {
		got.Value = 0
	}
	same := got.Errno == want.Errno || got.Errno != 0 && want.Errno != 0 && s.faults() > 1
	if !same || got.Value != want.Value || !slices.Equal(received, sent) {
		t.Errorf("%+v:\n%d, %v, %q\nnatively %d, %v, %q", s, got.Value, got.Errno, received, want.Value, want.Errno, sent)
	}
	// What is kept for the next call is never more than the most that can be sent together.
	if most := datagram.MaxTogether + datagram.MaxLength; len(e.w.Out.Payload) > most || len(e.w.Out.More) > datagram.MaxBatch*(datagram.MaxControl+linux.SizeofSockaddrStorage)+linux.MaxIovecs*16 {
		t.Errorf("%+v: %d and %d bytes are kept", s, len(e.w.Out.Payload), len(e.w.Out.More))
	}
}

// honest is a message with nothing wrong.
func honest() sentMessage {
	return sentMessage{nameFamily: unix.AF_INET, nameLen: linux.SizeofSockaddrIn, vectorLen: 2, entries: [2]sentPart{{length: 5}, {length: 9}}}
}

// TestHostileHeaders has one thing wrong at a time.
func TestHostileHeaders(t *testing.T) {
	e := newSenders(t)
	for _, c := range []struct {
		name  string
		errno unix.Errno
		spoil func(s *sending, m *sentMessage)
	}{
		{"nothing", 0, func(*sending, *sentMessage) {}},
		{"negative name length", unix.EINVAL, func(_ *sending, m *sentMessage) { m.nameLen = -1 }},
		{"lowest name length", unix.EINVAL, func(_ *sending, m *sentMessage) { m.nameLen = math.MinInt32 }},
		{"name too long", 0, func(_ *sending, m *sentMessage) { m.nameLen = math.MaxInt32 }},
		{"name too short", unix.EINVAL, func(_ *sending, m *sentMessage) { m.nameLen = 15 }},
		{"unreadable name", unix.EFAULT, func(_ *sending, m *sentMessage) { m.name = forbidden }},
		{"name of the kernel's", unix.EFAULT, func(_ *sending, m *sentMessage) { m.name = kernelSpace }},
		{"no name, but a length", unix.EDESTADDRREQ, func(_ *sending, m *sentMessage) { m.name = null }},
		{"1,025 vectors", unix.EMSGSIZE, func(_ *sending, m *sentMessage) { m.vectorLen = linux.MaxIovecs + 1 }},
		{"all vectors", unix.EMSGSIZE, func(_ *sending, m *sentMessage) { m.vectorLen = math.MaxUint64 }},
		{"1,024 vectors", 0, func(_ *sending, m *sentMessage) { m.vectorLen = linux.MaxIovecs }},
		{"no vectors", 0, func(_ *sending, m *sentMessage) { m.vectorLen = 0 }},
		{"unreadable vectors", unix.EFAULT, func(_ *sending, m *sentMessage) { m.vector = forbidden }},
		{"no vectors, but a number", unix.EFAULT, func(_ *sending, m *sentMessage) { m.vector = null }},
		{"negative vector", unix.EINVAL, func(_ *sending, m *sentMessage) { m.entries[0].length = -1 }},
		{"negative second vector", unix.EINVAL, func(_ *sending, m *sentMessage) { m.entries[1].length = math.MinInt32 }},
		{"negative only vector", unix.EINVAL, func(_ *sending, m *sentMessage) { m.vectorLen, m.entries[0].length = 1, -1 }},
		{"negative behind too much", unix.EINVAL, func(_ *sending, m *sentMessage) { m.entries = [2]sentPart{{length: 70000}, {length: -1}} }},
		{"too much", unix.EMSGSIZE, func(_ *sending, m *sentMessage) { m.entries[0].length = 70000 }},
		{"2 GB", unix.EMSGSIZE, func(_ *sending, m *sentMessage) { m.entries[0].length = math.MaxInt32 }},
		{"twice 2 GB", unix.EMSGSIZE, func(_ *sending, m *sentMessage) {
			m.entries = [2]sentPart{{length: math.MaxInt32}, {length: math.MaxInt32}}
		}},
		{"unreadable data", unix.EFAULT, func(_ *sending, m *sentMessage) { m.entries[0].Base = forbidden }},
		{"unreadable second data", unix.EFAULT, func(_ *sending, m *sentMessage) { m.entries[1].Base = forbidden }},
		{"data of the kernel's", unix.EFAULT, func(_ *sending, m *sentMessage) { m.entries[0].Base = kernelSpace }},
		{"no data at nowhere", 0, func(_ *sending, m *sentMessage) { m.entries = [2]sentPart{{Base: null}, {Base: forbidden}} }},
		{"unreadable header", unix.EFAULT, func(s *sending, _ *sentMessage) { s.headers = forbidden }},
		{"no header", unix.EFAULT, func(s *sending, _ *sentMessage) { s.headers = null }},
		{"much control", unix.ENOBUFS, func(_ *sending, m *sentMessage) { m.controlLen = 1 << 20 }},
		{"all control", unix.ENOBUFS, func(_ *sending, m *sentMessage) { m.controlLen = math.MaxUint64 }},
		{"unreadable control", unix.EFAULT, func(_ *sending, m *sentMessage) { m.control, m.controlLen = forbidden, 24 }},
		{"no control, but a length", unix.EFAULT, func(_ *sending, m *sentMessage) { m.control, m.controlLen = null, 24 }},
		{"control of zeros", unix.EINVAL, func(_ *sending, m *sentMessage) { m.controlLen = 24 }},
		{"control", 0, func(_ *sending, m *sentMessage) { m.controlLen = 1 }},
		{"control that cannot be", unix.EINVAL, func(_ *sending, m *sentMessage) { m.controlLen, m.controlAt = 1, 1 }},
		{"another family", unix.EAFNOSUPPORT, func(_ *sending, m *sentMessage) { m.nameFamily = unix.AF_UNIX }},
		{"out of band", unix.EOPNOTSUPP, func(s *sending, _ *sentMessage) { s.flags |= unix.MSG_OOB }},
	} {
		for _, compat := range []bool{false, true} {
			for _, call := range []string{"sendmsg", "sendmmsg"} {
				s := &sending{call: call, compat: compat, count: 1, messages: []sentMessage{honest()}}
				c.spoil(s, &s.messages[0])
				e.compareNamed(t, c.name, s)
				if r := s.natively(e); r.Errno != c.errno {
					t.Errorf("%s: the kernel says %v, and this test %v", c.name, r.Errno, c.errno)
				}
				if call == "sendmmsg" && s.headers == good { // what is before it is sent
					s.messages, s.count = slices.Insert(s.messages, 0, honest(), honest()), 3
					e.compareNamed(t, c.name+", third", s)
				}
			}
		}
	}
}

func (e *senders) compareNamed(t *testing.T, name string, s *sending) {
	t.Run(fmt.Sprintf("%s/%s/compat=%t", name, s.call, s.compat), func(t *testing.T) { e.compare(t, s) })
}

// natively makes the call on the native socket alone.
func (s *sending) natively(e *senders) testkit.CallResult {
	nr, _ := seccompx.NativeArch().Syscall(s.call)
	r := testkit.MakeCall(e.a, uintptr(nr), e.native[0], s.put(e.a, e.ports[0], false))
	for {
		if _, _, err := unix.Recvfrom(e.peers[0], make([]byte, 1), 0); err != nil {
			return r
		}
	}
}

// TestHostileHeadersOfStreams is about calls that are not about datagrams: the kernel decides,
// unless there is no such descriptor.
func TestHostileHeadersOfStreams(t *testing.T) {
	e := newSenders(t)
	for name, spoil := range map[string]func(m *sentMessage){
		"name":    func(m *sentMessage) { m.nameLen = -1 },
		"vectors": func(m *sentMessage) { m.vectorLen = linux.MaxIovecs + 1 },
		"control": func(m *sentMessage) { m.controlLen = 100 << 10 },
		"data":    func(m *sentMessage) { m.entries[0].Base = forbidden },
		"long":    func(m *sentMessage) { m.entries[0].length = 100 << 10 },
	} {
		for what, fd := range map[string]int{"stream": e.stream, "closed": 1 << 20} {
			s := &sending{call: "sendmsg", messages: []sentMessage{honest()}}
			spoil(&s.messages[0])
			args := s.put(e.a, e.ports[1], false)
			args[0] = uint64(fd)
			nr, _ := seccompx.NativeArch().Syscall(s.call)
			runtime.LockOSThread()
			n := seccompx.Notification{PID: uint32(unix.Gettid()), Data: seccompx.Data{Nr: int32(nr), Arch: seccompx.NativeArch(), Args: args}}
			want := session.CarryOn
			if what == "closed" {
				want = session.Answer(unix.EBADF)
			}
			if out := e.w.Handle(&n); !reflect.DeepEqual(out, want) {
				t.Errorf("%s of a %s: %+v", name, what, out)
			}
			e.w.Tidy()
			runtime.UnlockOSThread()
		}
	}
}

// sendingFrom makes a call out of bytes.
func sendingFrom(data []byte) *sending {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return b
	}
	pick := func(values ...uint64) uint64 {
		b := int(next())
		if b == 255 { // anything
			var v uint64
			for range 8 {
				v = v<<8 | uint64(next())
			}
			return v
		}
		return values[b%len(values)]
	}
	pointer := func() where {
		return []where{good, good, good, good, good, null, forbidden, kernelSpace}[next()%8]
	}
	s := &sending{call: []string{"sendmsg", "sendmmsg", "sendto"}[next()%3], connected: next()%2 == 1}
	s.compat = next()%2 == 1
	s.flags = uint32(pick(0, 0, 0, unix.MSG_DONTWAIT, unix.MSG_NOSIGNAL, unix.MSG_CONFIRM, unix.MSG_DONTROUTE, unix.MSG_OOB)) &
		(unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL | unix.MSG_CONFIRM | unix.MSG_DONTROUTE | unix.MSG_OOB)
	if next()%16 == 15 {
		s.headers = pointer()
	}
	n := 1
	if s.call == "sendmmsg" {
		n = []int{1, 2, 3, 64, 65, 100}[next()%6]
	}
	s.count = uint32(n)
	if next()%16 == 15 && n > 1 {
		s.count = uint32(n - 1)
	}
	const behind = 1 << 62 // no allocation is as large
	for len(s.messages) < n {
		m := honest()
		m.name = pointer()
		m.nameFamily = uint16(pick(unix.AF_INET, unix.AF_INET, unix.AF_INET, unix.AF_UNSPEC, unix.AF_UNIX, 99))
		m.nameLen = int32(pick(16, 16, 16, 0, 1, 15, 17, 28, 128, 129, math.MaxUint32, math.MaxInt32, 1<<31))
		m.vector = pointer()
		m.vectorLen = pick(2, 1, 0, 2, 2, 3, 100, linux.MaxIovecs, linux.MaxIovecs+1, 1<<31, behind, math.MaxUint64)
		for i := range m.entries {
			lengths := []uint64{5, 0, 1, 100, 1400, 9000, 65507, 65508, 65535, 65536, 1 << 20, math.MaxInt32, 1 << 31, behind, 1 << 63, math.MaxUint64}
			part := sentPart{pointer(), int64(pick(lengths...))}
			if part.Base == kernelSpace && (part.length == 0 || s.compat && uint32(part.length) == 0) {
				part.Base = null // nothing at an address that cannot be: EFAULT natively, and nobody's loss
			}
			m.entries[i] = part
		}
		m.control = pointer()
		m.controlLen = pick(0, 0, 0, 1, 1, 1, 16, 24, 1<<20, 1<<31, behind, math.MaxUint64)
		m.controlAt = int(next()) % len(controlSamples)
		if 64<<10 < m.controlLen && m.controlLen < 1<<20 {
			m.controlLen = 0 // net.core.optmem_max, which is not the same everywhere
		}
		s.messages = append(s.messages, m)
	}
	if s.compat {
		s.narrow()
	}
	return s
}

// narrow leaves what fits into the structures of i386, as the kernel extends it.
func (s *sending) narrow() {
	for i := range s.messages {
		m := &s.messages[i]
		m.vectorLen, m.controlLen = uint64(uint32(m.vectorLen)), uint64(uint32(m.controlLen))
		if m.controlLen < 16 && m.controlLen != 1 { // no message at all: EINVAL in one layout only
			m.controlLen = 0
		}
		for j := range m.entries {
			m.entries[j].length = int64(int32(m.entries[j].length))
		}
	}
}

// FuzzSendHeaders sends with headers of all kinds, most of them bad, and compares with native.
func FuzzSendHeaders(f *testing.F) {
	rnd := rand.New(rand.NewSource(1))
	for range 200 {
		seed := make([]byte, 200)
		rnd.Read(seed)
		for i := range seed {
			if rnd.Intn(3) > 0 {
				seed[i] = 0
			}
		}
		f.Add(seed)
	}
	e := newSenders(f)
	f.Fuzz(func(t *testing.T, data []byte) { e.compare(t, sendingFrom(data)) })
}
