package upconv

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/internal/trap"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// session answers the notifications of one listener. Its workers are goroutines locked to OS
// threads that live in the policy's first egress, so that a socket there costs no hand-over.
type session struct {
	listener *seccompx.Listener
	rules    atomic.Pointer[ruleset]
	origin   *origin
	home     *egress // where the workers live; nil: where upconv was started
	targets  *target.Threads
	epolls   epolls
	events   *event.Log
	log      *slog.Logger
	lastWarn atomic.Int64 // UnixNano of the last warning about a call
	pid      int          // upconv's own
	uid, gid int          // that of the sockets it makes
	used     optionsUsed
	sights   atomic.Pointer[sights] // nil: not permitted, or not needed, or not yet
	open     sync.Once              // has it become clear which
	needs    needs
	udp      policy.UDPMode
	swapAt   policy.SwapAt
	// discovery is of the prefix for nat64:auto; nil where no route needs it.
	discovery  *nat64.Discovery
	anyCrossed atomic.Bool // some socket has been replaced by one of another family
	restricted restrictions
	told       toldAddresses    // what programs know as their own addresses since
	nextPort   atomic.Uint32    // see anyPort
	threads    trap.CallThreads // of calls that are decided aside
	swapped    atomic.Bool      // some socket has been: so one that is to go direct may be one of an egress
	moved      atomic.Bool      // and some datagram socket
	made       madeSockets
	returned   madeSockets // datagram sockets of the origin that have taken the place of connected ones
	moving     movingSockets
	moves      atomic.Uint64 // how many have been
	companions companions
	ports      ports
	tags       int                          // /proc/cgroups, where there are net_cls or net_prio cgroups; else -1
	sends      [256]atomic.Pointer[sendKey] // see recordSend

	back      atomic.Pointer[backward] // see originalAddr
	receivers receivers                // calls that wait for a datagram
	held      *trap.HeldCalls          // all calls that upconv waits for

	busy    atomic.Int32    // workers that have a notification
	workers atomic.Int32    // how many there are
	awake   atomic.Int32    // workers that do not sleep
	all     *sync.WaitGroup // of the workers
	adding  atomic.Bool     // one more is about to be started
	wake    chan struct{}   // wakes one of them
	gone    chan struct{}   // closed when nobody is left under the filter
	watch   watch           // over the workers
	holdups holdups         // processes whose calls hold workers
	turns   trap.Turns      // of those whose calls are seen to by others
}

// newSupervisor returns one that has no listener yet, and knows nothing.
func newSupervisor(log *slog.Logger) *session {
	s := &session{log: log, pid: os.Getpid(), uid: os.Geteuid(), gid: os.Getegid()}
	s.held = trap.NewHeldCalls(func() *peek.Peeker {
		if all := s.sights.Load(); all != nil {
			return all.peeker
		}
		return nil
	}, &s.turns, log)
	return s
}

// egress is a namespace that sockets are made in.
type egress struct {
	ns     *nsdial.Namespace
	cookie uint64 // SO_NETNS_COOKIE
}

// ruleset is a policy and what it takes. It is replaced as a whole.
type ruleset struct {
	policy   *policy.Policy
	mappings *nat64.Mappings
	egress   map[string]*egress // by the target of a netns route; and those of earlier policies, under other keys
	cookies  []uint64           // of the same; a map is slow to go through
}

func newRuleset(policy *policy.Policy, mappings *nat64.Mappings, all map[string]*egress) *ruleset {
	rules := &ruleset{policy: policy, mappings: mappings, egress: all}
	for _, e := range all {
		rules.cookies = append(rules.cookies, e.cookie)
	}
	return rules
}

// openEgress opens every namespace that the policy names, but for those that are among known.
// cwd-independent: targets are names, absolute paths or policy.Host, which is the namespace of the
// calling thread.
func openEgress(p *policy.Policy, known map[string]*egress) (all map[string]*egress, home *egress, err error) {
	all = map[string]*egress{}
	var opened []*egress
	defer func() {
		if err != nil {
			for _, e := range opened {
				e.ns.Close()
			}
		}
	}()
	for _, target := range p.Namespaces() {
		ns, err := OpenNamespace(target)
		if err != nil {
			return nil, nil, err
		}
		e := &egress{ns: ns}
		opened = append(opened, e)
		if e.cookie, err = ns.Cookie(); err != nil {
			return nil, nil, err
		}
		for _, other := range known {
			if other.cookie == e.cookie {
				ns.Close()
				opened = opened[:len(opened)-1]
				e = other
				break
			}
		}
		all[target] = e
		if home == nil {
			home = e
		}
	}
	return all, home, nil
}

// egressOf returns the namespace of a netns route.
func (s *session) egressOf(route *policy.Route) *egress {
	return s.rules.Load().egress[route.Target]
}

func (s *session) isEgress(cookie uint64) bool {
	return slices.Contains(s.rules.Load().cookies, cookie)
}

// inEgress reports whether a socket that is to be connected in the origin is in an egress.
func (s *session) inEgress(cookie uint64) bool {
	return cookie != s.origin.cookie && s.isEgress(cookie)
}

// start lets workers loose on the listener and returns when all of them are ready. wg is done
// when the last has ended, which is when nobody is left under the filter.
func (s *session) start(wg *sync.WaitGroup) error {
	if s.needs.crosses() {
		lengthFirst() // now, when there are descriptors for sure
	}
	const n = firstWorkers
	s.wake, s.gone = make(chan struct{}), make(chan struct{})
	s.awake.Store(n)
	s.workers.Store(n)
	s.all = wg
	ready := make(chan error)
	s.watch.wake = make(chan struct{}, 1)
	for i := range n {
		s.startWorker(i, ready)
	}
	var failed error
	for range n {
		failed = errors.Join(failed, <-ready)
	}
	go s.watchWorkers()
	haveThreads(supervisorThreads)
	return failed
}

// startWorker starts the worker of an index. It says to ready whether it could get to where workers
// live.
func (s *session) startWorker(index int, ready chan<- error) {
	w := s.newWorker()
	w.index, w.extra, w.alone = index, index > 0, false
	s.watch.workers[index].Store(w)
	s.all.Add(1)
	go w.run(ready)
}

// worker is one thread that answers notifications. Its buffers are reused from call to call.
//
// The kernel wakes every thread that waits in RECV for every notification, and all but one of them
// for nothing: with a second one waiting, a connect takes half as long again. So only the first
// worker always waits. The extra ones sleep, are woken when notifications arrive faster than the
// first takes them, and go back to sleep when they find that they work alone.
type worker struct {
	s            *session
	index        int
	extra        bool    // not the first
	alone        bool    // it has one call to decide, and may block: see aside
	home         *egress // the namespace that this thread lives in
	notification seccompx.Notification
	call         call
	sockaddr     [linux.SizeofSockaddrStorage]byte
	socketInfo   socket
	reads        *reads     // nil: not needed yet
	lastLook     *lastLook  // nil: not needed yet
	sight        peek.Sight // of the target's socket: all of it where sighted, else owner, mode and inode
	sighted      bool
	moves        uint64    // how many datagram sockets had been moved when it was looked at
	held         int       // how many copies of it this worker had then
	moving       bool      // it moves one now, holds a lock of session.moving for that, and must not wait
	scratch      [512]byte // for names in /proc and what is read there

	long    []byte // for what is longer
	info    setInfo
	out     outgoing
	decided decided
	known   settledSockets

	tagged time.Duration // when it was last looked whether there are many net_cls cgroups; 0: never
	tags   bool          // there are

	aside        *aside    // the one call that it decides, of a worker that is alone
	sendDeadline time.Time // until when that may send
	futile       int       // how often in a row it could not send though there was room

	control siit.ControlBuffer // of messages to send
	receive *receiveBuffers    // nil: not needed yet
	reading reception

	sets       []setCopy // of the target's that its socket is in
	done       []int     // sockets to close when the target has its answer
	spares     spares
	unixSpares unixSpares
	usedUnix   bool // a Unix socket was used
	witnesses  int  // an epoll set of its own, see witness; -1: none

	crossing crossing

	cpus      unix.CPUSet // where this thread may run
	own       unix.CPUSet // the one processor where it runs while several workers are awake
	settled   bool        // it does
	mayPin    bool        // on more than one
	pinned    bool        // to one processor for now
	pinnedFor uint32      // the target's thread
	pinnedYet int         // swaps for which it may stay so

	serial  uint32        // of the calls that it has handled
	current atomic.Uint64 // the call that it handles: the thread, and serial; 0: none; or relieved
	heldBy  atomic.Int64  // of a relieved worker: the process

	taken   time.Duration // when the latest notification was, by clock; of a worker that is alone, when it began
	yielded time.Duration // when the Go scheduler last heard of this thread
	lastTID uint32
	streak  int // notifications in a row that had been waiting, and came from other threads than the one before
	lonely  int // notifications in a row that no other worker overlapped with
}

// When to wake an extra worker, and when one goes back to sleep.
const (
	queued      = 3 * time.Microsecond // a Receive this short did not wait
	wakeStreak  = 2
	lonelyLimit = 64
)

// yieldAfter is how long a worker works without a word to the Go scheduler. After 10 ms that would
// think that it hangs, take its P from it again and again, and wake up every 20 us to do so: a busy
// worker's calls would take a tenth longer. A worker that has been atRest need not hurry: its next
// call may come at any moment.
const (
	yieldAfter = 8 * time.Millisecond
	atRest     = time.Millisecond
)

var epoch = time.Now()

// clock is the time since some moment before: half as expensive as time.Now, which also asks for
// the date.
func clock() time.Duration { return time.Since(epoch) }

// run answers notifications until nobody is left under the filter, or another worker has relieved
// this one. ready, if not nil, is told whether it can.
func (w *worker) run(ready chan<- error) {
	// Never unlocked: the thread lives in another namespace from here on, and ends with this
	// goroutine.
	runtime.LockOSThread()
	defer w.end()
	err := w.settleIn()
	if ready != nil {
		ready <- err
	}
	if err != nil {
		w.s.log.Error("worker", "error", err)
		w.s.all.Done()
		return
	}
	w.mayPin = unix.SchedGetaffinity(0, &w.cpus) == nil && w.cpus.Count() > 1
	w.own = nth(&w.cpus, w.index)
	for !w.extra || w.sleep() {
		if err = w.serve(); err == errRelieved {
			w.serveHeld()
			return
		} else if err != nil {
			if !errors.Is(err, seccompx.ErrGone) {
				w.s.log.Error("receive", "error", err)
			}
			break
		}
	}
	if !w.extra {
		close(w.s.gone)
	}
	w.s.all.Done()
}

// errRelieved says that another worker has taken the place of one that a call had held.
var errRelieved = errors.New("relieved")

// newWorker returns one that takes no notifications.
func (s *session) newWorker() *worker {
	return &worker{s: s, home: s.home, alone: true, witnesses: -1, done: make([]int, 0, 2), taken: clock()}
}

// settleIn takes the thread, which must be locked and is not to be unlocked again, to where workers
// live.
func (w *worker) settleIn() error {
	if w.home != nil {
		if err := w.home.ns.Enter(); err != nil {
			return err
		}
	}
	w.newWitnesses()
	return nil
}

// end closes what the worker has.
func (w *worker) end() {
	w.spares.close()
	w.info.close()
	for _, fd := range slices.Concat(w.done, w.unixSpares.fds, []int{w.witnesses}) {
		if fd >= 0 {
			linux.Close(fd)
		}
	}
}

// sleep returns true when the worker is needed, and false when nobody is left under the filter.
func (w *worker) sleep() bool {
	w.settle(false)
	w.s.awake.Add(-1)
	defer w.s.awake.Add(1)
	select {
	case <-w.s.wake:
		w.lonely = 0
		return true
	case <-w.s.gone:
		return false
	}
}

// serve answers notifications until an error or, for an extra worker, until it is not needed.
func (w *worker) serve() error {
	s, n := w.s, &w.notification
	for {
		waiting := clock()
		if waiting-w.yielded > yieldAfter {
			runtime.Gosched()
			w.yielded = waiting
		}
		if err := s.listener.Receive(n); err != nil {
			return err
		}
		if w.taken = clock(); w.taken-waiting > atRest {
			w.yielded = w.taken
		}
		if s.holdups.any.Load() > 0 && s.holdups.queue(n) {
			continue
		}
		// One thread alone can be that fast: it is woken in the middle of Respond.
		alone := n.PID == w.lastTID
		w.lastTID = n.PID
		if alone || w.taken-waiting > queued {
			w.streak = 0
		} else if w.streak++; w.streak >= wakeStreak {
			s.wakeWorker()
		}
		if s.busy.Add(1) > 1 || w.streak > 0 {
			w.lonely = 0
		}
		w.settle(s.awake.Load() > 1)
		current := w.noteCall(n)
		if s.watch.sleeping.Load() { // after noteCall: the watch looks once more after it says that it sleeps
			s.watch.rouse()
		}
		w.conclude(n, w.handle(n))
		if !w.current.CompareAndSwap(current, 0) {
			return errRelieved
		}
		s.busy.Add(-1)
		if w.lonely++; w.extra && w.lonely > lonelyLimit {
			return nil
		}
	}
}

// conclude sends what a call has come to, and tidies up after it.
func (w *worker) conclude(n *seccompx.Notification, out outcome) {
	if out.later {
		// somebody has taken it over
	} else if out.wait != nil {
		go out.wait.run()
	} else if err := w.s.respond(n.ID, out); err != nil && !errors.Is(err, seccompx.ErrTargetGone) {
		w.s.warn("answer", "tid", n.PID, "error", err)
	}
	w.tidy()
}

// settle has this thread stay on its own processor, or run where it likes. The kernel wakes a
// waiting worker on the processor of the target's thread, which is best when there is one. Of
// several it wakes all there, to compete with each other and with the target; so then each has its
// own.
func (w *worker) settle(on bool) {
	if on == w.settled || !w.mayPin {
		return
	}
	if on {
		linux.SetAffinity(&w.own)
	} else {
		linux.SetAffinity(&w.cpus)
	}
	w.settled, w.pinned = on, false
}

// nth returns the n-th processor of a set, counting round.
func nth(set *unix.CPUSet, n int) (one unix.CPUSet) {
	n %= max(1, set.Count())
	for cpu := 0; ; cpu++ {
		if !set.IsSet(cpu) {
			if cpu > 1<<16 {
				return *set
			}
			continue
		}
		if n == 0 {
			one.Set(cpu)
			return one
		}
		n--
	}
}

// respond sends the outcome of a call.
func (s *session) respond(id uint64, out outcome) error {
	if !out.answered {
		return s.listener.Continue(id)
	}
	if out.errno != 0 {
		out.value = 0
	}
	return s.listener.Respond(id, out.value, int(out.errno))
}

// warn logs what went wrong with a call, at most once a second: a program in a loop must not flood
// anybody, nor wait for whoever reads.
func (s *session) warn(msg string, args ...any) {
	now, last := time.Now().UnixNano(), s.lastWarn.Load()
	if now-last < int64(time.Second) || !s.lastWarn.CompareAndSwap(last, now) {
		return
	}
	go s.log.Warn(msg, args...)
}
