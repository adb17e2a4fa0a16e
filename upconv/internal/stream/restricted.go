package stream

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/internal/target"
)

// A program can forbid itself ports (Landlock, LANDLOCK_ACCESS_NET_CONNECT_TCP). The kernel asks
// such rules about whoever makes the call, and tells nobody else what they are or whom they hold
// for. Where upconv connects for a program, it would be upconv that is asked.
//
// So once anybody under the filter has restricted itself, each TCP socket that upconv is to connect
// is asked for first: the thread itself, by ptrace(2), makes the same connect(2) on another socket,
// the decoy, and then begins its own call anew. A decoy is of the origin, bound to its loopback
// device, and of the kind that connects only when something is sent (TCP_FASTOPEN_CONNECT). So
// nothing is sent, but the kernel has decided, and the decoy has the port that it has decided
// about: it does not matter if another thread changes the address meanwhile.

// restrictions is what is known of programs that have restricted themselves.
type restrictions struct {
	Any       atomic.Bool // some thread has, or upconv was itself
	mu        sync.Mutex
	questions map[int]*question // under way, by the thread that is asked
}

// RestrictSelf handles a stopped landlock_restrict_self(2), to know of it.
func (w *Worker) RestrictSelf(*session.Call) session.Outcome {
	w.s.Restricted.Any.Store(true)
	return session.CarryOn
}

// AreRestricted reports whether there are rules for the TCP ports that this process may connect to,
// which those hold for that it starts. Only they say EINVAL to an address that is long enough and
// of another family: current_check_access_socket in security/landlock/net.c; tcp_v6_connect says
// EAFNOSUPPORT.
func AreRestricted() bool {
	fd, errno := linux.NewSocket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if errno != 0 {
		return false
	}
	defer linux.Close(fd)
	var sa [linux.SizeofSockaddrIn6]byte
	binary.NativeEndian.PutUint16(sa[:], unix.AF_INET)
	return linux.Connect(fd, sa[:]) == unix.EINVAL
}

// question is whether a thread may connect to a port.
type question struct {
	s     *Session
	c     session.Call
	e     event.Pending
	decoy int // owned
	pidfd int // of the thread; owned
	state atomic.Int32
	taken chan struct{} // closed when the answer has been taken
	// Valid when it is answered:
	port  int        // that the kernel lets the thread connect to; -1 if it does not
	errno unix.Errno // what it says instead
}

// States of a question.
const (
	beingAsked = iota
	answered
)

// MayConnect finds out whether the target may connect a TCP socket to the port of e.Dst, where
// somebody has restricted himself. The outcome is undecided if it may; else it may not, or is to be
// asked.
func (w *Worker) MayConnect(c *session.Call, e *event.Pending, sock *sockstate.Socket) session.Outcome {
	all := &w.s.Restricted
	if !all.Any.Load() || c.Permitted == int(e.Dst.Port())+1 || !e.Dst.IsValid() { // no address with a port
		return session.Undecided
	}
	q := all.take(c.TID)
	switch {
	case q == nil:
	case q.errno == unix.EACCES, q.errno == unix.EPERM:
		e.Add("the program has forbidden itself this port, or is forbidden it (Landlock or another security module)")
		w.s.Events.Record(e, q.errno)
		return session.Answer(q.errno)
	case q.port < 0:
		e.Add(unasked + "connect(2) says " + linux.ErrnoName(q.errno))
		w.s.Events.Record(e, q.errno)
		return session.Answer(q.errno) // as natively, unless it is for want of a route for the decoy
	case q.port == int(e.Dst.Port()):
		c.Permitted = q.port + 1
		return session.Undecided
	}
	return w.ask(c, e, sock)
}

// waitsForRestricted reports whether upconv has to wait for a connection, in the place of the
// kernel: that would tell who has restricted himself that the address is of another family than the
// socket (EINVAL).
func (w *Worker) waitsForRestricted(e *event.Pending) bool {
	return w.s.Restricted.Any.Load() && e.Decision.Route.Crosses()
}

// BusyCrossed answers an AF_INET connect(2) on a socket that is an AF_INET6 one now and is
// connected, or about to be. The kernel would do so itself, but to who has restricted himself it
// says EINVAL because of the families. The outcome is undecided if it is left to the kernel.
func (w *Worker) BusyCrossed(c *session.Call, fd int) session.Outcome {
	if !w.s.Restricted.Any.Load() || linux.DomainOf(fd) != unix.AF_INET6 {
		return session.Undecided
	}
	if p, _ := w.PassportOf(fd); p == nil {
		return session.Undecided
	}
	out := w.WouldConnect(c, fd, unix.AF_INET6)
	if out.IsUndecided() {
		return session.Raced
	}
	out.Errno = siit.InetErrno(out.Errno)
	return out
}

const unasked = "a program has restricted itself, and whether that holds here cannot be found out: "

// refuseUnasked refuses a call that the kernel may forbid the target, but cannot be asked about.
func (w *Worker) refuseUnasked(e *event.Pending, why string) session.Outcome {
	return w.s.refuseUnasked(e, why)
}

func (s *Session) refuseUnasked(e *event.Pending, why string) session.Outcome {
	e.Add(unasked + why)
	s.Events.Record(e, unix.EACCES)
	return session.Answer(unix.EACCES)
}

// ask has the target asked whether it may connect a socket like sock. It then begins its call anew.
func (w *Worker) ask(c *session.Call, e *event.Pending, sock *sockstate.Socket) session.Outcome {
	decoy, errno := w.newDecoy(c, e, sock)
	if errno != 0 {
		return w.refuseUnasked(e, "socket(2) says "+linux.ErrnoName(errno))
	}
	pidfd, _, errno := w.s.Targets.Open(c.TID)
	if errno != 0 {
		linux.Close(decoy)
		return w.refuseUnasked(e, "pidfd_open(2) says "+linux.ErrnoName(errno))
	}
	q := &question{s: w.s, c: *c, e: *e, decoy: decoy, pidfd: pidfd, port: -1, taken: make(chan struct{})}
	return session.Outcome{Wait: q}
}

// newDecoy makes a TCP socket of the family of sock, on which a connect(2) to e.Dst only decides;
// the caller owns it. It is for MPTCP too, of which Landlock knows nothing so far.
func (w *Worker) newDecoy(c *session.Call, e *event.Pending, sock *sockstate.Socket) (fd int, errno unix.Errno) {
	fd, errno = w.InOrigin(c.TID, sock.Domain, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if errno != 0 {
		return -1, errno
	}
	one := int32(1)
	later := linux.Setsockopt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, unsafe.Pointer(&one), 4)
	if later == 0 {
		later = linux.Setsockopt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, unsafe.Pointer(&one), 4)
	}
	// Without a route, an IPv4 destination is taken to be on the link of the device. What is sent
	// there nobody receives.
	if e.Dst.Addr().Is4() {
		lo := [...]byte{'l', 'o'}
		errno = linux.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, unsafe.Pointer(&lo), uintptr(len(lo)))
	} else {
		errno = later
	}
	if errno != 0 {
		linux.Close(fd)
		return -1, errno
	}
	return fd, 0
}

// take returns the answer to a question that the thread tid was asked, of which nobody else has it;
// nil if there is none.
func (all *restrictions) take(tid int) *question {
	all.mu.Lock()
	defer all.mu.Unlock()
	q := all.questions[tid]
	// The thread has made its call again. If the one that was asked is alive, it is that one.
	if q == nil || q.state.Load() != answered || target.HasEnded(q.pidfd) {
		return nil
	}
	delete(all.questions, tid)
	close(q.taken)
	return q
}

// IsDecoy reports whether a connect(2) is one that upconv has the thread make.
func (all *restrictions) IsDecoy(tid int) bool {
	if !all.Any.Load() {
		return false
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	q := all.questions[tid]
	return q != nil && q.state.Load() == beingAsked
}

// Run asks. It has a thread to itself, which traces the target's.
func (q *question) Run() {
	defer linux.Close(q.decoy)
	defer linux.Close(q.pidfd)
	s := q.s
	pid := s.Targets.Process(q.c.TID)
	if errno := s.AwaitThread(&q.c, pid); errno != 0 {
		s.Respond(q.c.ID, session.Answer(errno))
		return
	}
	defer s.Threads.GiveBack(pid)
	done := make(chan bool)
	go func() {
		runtime.LockOSThread()
		released := q.ask()
		if released { // else the kernel lets go of the thread with the end of this one
			runtime.UnlockOSThread()
		}
		done <- released
	}()
	<-done
}

// ask does what Run is for. It returns false if the target is still traced, or gone.
func (q *question) ask() (released bool) {
	s, c := q.s, &q.c
	t, errno := target.Seize(c.TID, q.pidfd)
	if errno != 0 {
		s.Respond(c.ID, s.refuseUnasked(&q.e, "ptrace(2) says "+linux.ErrnoName(errno)))
		return true
	}
	number, err := s.Listener.AddFD(c.ID, seccompx.AddFD{Source: q.decoy, CloseOnExec: true})
	if err != nil {
		s.Respond(c.ID, s.refuseUnasked(&q.e, "the program has no room for another descriptor: "+linux.ErrnoName(linux.ErrnoOf(err))))
		return false
	}
	s.Restricted.begin(q)
	defer s.Restricted.end(q)
	if s.Listener.Respond(c.ID, 0, target.ErrRestartNoIntr) != nil || !t.Halt(c.Args[0]) {
		return false
	}
	result, ok := t.Make(c.Number("connect"), c.Compat, uint64(number), c.Addr, uint64(c.AddrLen))
	if !ok {
		return false
	}
	q.judge(result)
	if _, ok := t.Make(c.Number("close"), c.Compat, uint64(number)); !ok || !t.Restart() {
		return false
	}
	q.state.Store(answered)
	if t.Release() != 0 {
		return false
	}
	q.waitTaken()
	return true
}

// judge fills in the answer: result is what the target's connect(2) of the decoy has returned.
func (q *question) judge(result int64) {
	if result < 0 {
		q.errno = unix.Errno(-result)
	}
	if q.errno == 0 || q.errno == unix.EINPROGRESS {
		q.errno = unix.EACCES
		if port, ok := aimedAt(q.decoy); ok {
			q.port, q.errno = port, 0
		}
	}
}

// aimedAt returns the port that a socket is, or is about to be, connected to. Unlike
// getpeername(2), SO_PEERNAME tells so as soon as connect(2) has begun: inet_getname in
// net/ipv4/af_inet.c.
func aimedAt(fd int) (port int, ok bool) {
	var name [linux.SizeofSockaddrIn6]byte
	length := uint32(len(name))
	if linux.DomainOf(fd) == unix.AF_INET {
		length = linux.SizeofSockaddrIn
	}
	errno := linux.Getsockopt(fd, unix.SOL_SOCKET, linux.SoPeerName, unsafe.Pointer(&name), uintptr(length))
	return int(binary.BigEndian.Uint16(name[2:])), errno == 0
}

// untilTaken is how long an answer is kept. The target is on its way back to its call, which takes
// microseconds, unless it is frozen or its call is interrupted. Then it is asked again.
const untilTaken = 100 * time.Millisecond

// waitTaken waits until the answer has been taken, for as long as it is kept.
func (q *question) waitTaken() {
	timer := time.NewTimer(untilTaken)
	defer timer.Stop()
	select {
	case <-q.taken:
	case <-timer.C:
	}
}

// begin notes that a thread is asked.
func (all *restrictions) begin(q *question) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.questions == nil {
		all.questions = map[int]*question{}
	}
	all.questions[q.c.TID] = q
}

// end forgets a question, unless the thread is asked another one by now.
func (all *restrictions) end(q *question) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.questions[q.c.TID] == q {
		delete(all.questions, q.c.TID)
	}
}
