package upconv

import (
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// Event is one decision, as one line of JSON. The keys are stable.
type Event struct {
	Time   time.Time `json:"time"`   // when the call was taken up, RFC 3339 with nanoseconds
	Call   string    `json:"call"`   // the system call: "connect", "sendto", "sendmsg" or "sendmmsg"; or "reload"
	PID    int       `json:"pid"`    // the process, in upconv's pid namespace
	TID    int       `json:"tid"`    // the thread
	Comm   string    `json:"comm"`   // its name, proc_pid_comm(5)
	Cgroup string    `json:"cgroup"` // its cgroup v2 path, or the first v1 one where there is no v2
	Netns  uint64    `json:"netns"`  // inode of the origin
	FD     int       `json:"fd"`     // the descriptor in the process
	Proto  string    `json:"proto"`  // "tcp" or "udp"; for ICMP too it is "udp"
	Dst    string    `json:"dst"`    // address:port that the program asked for
	Rule   string    `json:"rule"`   // "1" for the first rule, "local" or "default"
	Route  string    `json:"route"`  // as policy.ParseRoute reads it
	// Local is address:port of the new socket; empty where none was made or connecting it failed at once.
	Local string `json:"local"`
	// Result is "ok" where the connection is made or under way, else the name of the errno that the
	// program was given. Of one that was under way upconv does not learn the end: it is the kernel
	// that waits.
	Result   string `json:"result"`
	Duration int64  `json:"duration_us"` // from taking the call up to having the answer, in microseconds
	// Note says what a program could find to be different from a socket that was not swapped; mostly left out.
	Note string `json:"note,omitempty"`
}

// event is a decision on its way to becoming an Event.
type event struct {
	began    time.Time
	c        *call
	dst      netip.AddrPort
	proto    Proto
	decision Decision
	local    int // the new socket, still open; 0: none
	from     int // a copy of the socket that is sent through, before anything has taken its place; 0: none
	note     string
	recorded bool
	held     bool       // it is not recorded yet: more may become known
	pending  bool       // it is to be, when it is not held any more
	errno    unix.Errno // with this
}

// release records what was to be recorded while the event was held.
func (e *event) release(to *events) {
	e.held = false
	if e.pending {
		e.pending = false
		to.record(e, e.errno)
	}
}

// add appends to the note.
func (e *event) add(note string) {
	if e.note != "" {
		e.note += "; "
	}
	e.note += note
}

// events writes Events from a goroutine of its own, so that a reader who is slow holds up the record
// and not the programs. Should the queue run full, events are dropped, counted, and the count is
// written when there is room. A nil *events records nothing.
type events struct {
	netns uint64
	// ownCgroup is upconv's own cgroup v2 path; "" where there is no v2.
	ownCgroup string
	queue     chan Event
	dropped   atomic.Uint64
	done      chan struct{}
	flushes   chan chan struct{}
	once      sync.Once
	failed    func(error) // told of the first error from the writer
}

const eventQueue = 4096

// newEvents returns a recorder that writes to out. failed is called once, should writing fail.
func newEvents(out io.Writer, netns uint64, failed func(error)) *events {
	e := &events{netns: netns, ownCgroup: ownCgroup(), queue: make(chan Event, eventQueue), done: make(chan struct{}), flushes: make(chan chan struct{}), failed: failed}
	go e.write(out)
	return e
}

func (e *events) write(out io.Writer) {
	defer close(e.done)
	encode := json.NewEncoder(out)
	encode.SetEscapeHTML(false)
	put := func(v any) {
		if err := encode.Encode(v); err != nil {
			e.once.Do(func() { e.failed(err) })
		}
	}
	one := func(ev Event) {
		if n := e.dropped.Swap(0); n > 0 {
			put(struct {
				Time    time.Time `json:"time"`
				Dropped uint64    `json:"dropped"`
			}{time.Now(), n})
		}
		put(ev)
	}
	drain := func() {
		for {
			select {
			case ev := <-e.queue:
				one(ev)
			default:
				return
			}
		}
	}
	for {
		select {
		case ev, ok := <-e.queue:
			if !ok {
				return
			}
			one(ev)
		case flushed := <-e.flushes:
			drain()
			close(flushed)
		}
	}
}

// flush waits until everything recorded so far is written, but no longer than the given time: a
// reader that has stopped reading must not keep the command's end from being reported.
func (e *events) flush(atMost time.Duration) {
	if e == nil {
		return
	}
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	flushed := make(chan struct{})
	select {
	case e.flushes <- flushed:
	case <-deadline.C:
		return
	}
	select {
	case <-flushed:
	case <-deadline.C:
	}
}

// record queues the event; errno is 0 for "ok". The target must still be waiting for its answer: who
// it is is read here.
func (e *events) record(ev *event, errno unix.Errno) {
	if e == nil || ev.recorded || errno == seccompx.ERestartSys { // the call is made again then
		return
	}
	if ev.held {
		ev.pending, ev.errno = true, errno
		return
	}
	ev.recorded = true
	who := identify(ev.c.tid)
	line := Event{
		Time: ev.began, Call: ev.c.name, PID: who.pid, TID: ev.c.tid, Comm: who.comm, Cgroup: who.cgroup,
		Netns: e.netns, FD: ev.c.fd, Proto: ev.proto.String(), Route: Route{}.String(), Result: "ok", Note: ev.note,
	}
	if ev.dst.IsValid() { // else it could not be read, and the call stays native
		line.Dst, line.Rule, line.Route = ev.dst.String(), ev.decision.Rule, ev.decision.Route.String()
	}
	if ev.local != 0 && e.ownCgroup != "" && who.cgroup != e.ownCgroup {
		// cgroup v2 ownership is that of whoever makes a socket, and stays.
		if line.Note != "" {
			line.Note += "; "
		}
		line.Note += "the new socket belongs to upconv's cgroup v2 " + e.ownCgroup + ", not to the program's"
	}
	if errno != 0 {
		line.Result = errnoName(errno)
	}
	if ev.local != 0 && errno == 0 {
		line.Local = localName(ev.local)
	}
	line.Duration = time.Since(ev.began).Microseconds()
	select {
	case e.queue <- line:
	default:
		e.dropped.Add(1)
	}
}

// recordReload queues that the policy file was read again.
func (e *events) recordReload(began time.Time, errno unix.Errno, note string) {
	if e == nil {
		return
	}
	line := Event{Time: began, Call: "reload", PID: os.Getpid(), Netns: e.netns, FD: -1, Result: "ok", Note: note}
	if errno != 0 {
		line.Result = errnoName(errno)
	}
	line.Duration = time.Since(began).Microseconds()
	select {
	case e.queue <- line:
	default:
		e.dropped.Add(1)
	}
}

// localName returns the address:port that a socket has, or "" where it has no port yet.
func localName(fd int) string {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return ""
	}
	var name netip.AddrPort
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		name = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		name = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	if name.Port() == 0 {
		return ""
	}
	return name.String()
}

// errnoName returns the kernel's name of an errno.
func errnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return errno.Error()
}
