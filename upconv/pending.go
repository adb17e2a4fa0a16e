package upconv

import (
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	eventlog "github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// event is a decision on its way to becoming an event of the record.
type event struct {
	began    time.Time
	call     string // its name
	tid, fd  int    // its thread, and its first argument
	dst      netip.AddrPort
	proto    policy.Proto
	decision policy.Decision
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

// events makes events of decisions, and has them written. A nil *events records nothing.
type events struct {
	netns uint64
	// ownCgroup is upconv's own cgroup v2 path; "" where there is no v2.
	ownCgroup string
	recorder  *eventlog.Recorder
}

// newEvents returns one that writes to out. failed is called once, should writing fail.
func newEvents(out io.Writer, netns uint64, failed func(error)) *events {
	return &events{netns: netns, ownCgroup: target.OwnCgroup(), recorder: eventlog.NewRecorder(out, failed)}
}

// flush waits until everything recorded so far is written, but no longer than the given time.
func (e *events) flush(atMost time.Duration) {
	if e != nil {
		e.recorder.Flush(atMost)
	}
}

// record queues the event; errno is 0 for "ok". The target must still be waiting for its answer:
// who it is is read here.
func (e *events) record(ev *event, errno unix.Errno) {
	if e == nil || ev.recorded || errno == seccompx.ERestartSys { // the call is made again then
		return
	}
	if ev.held {
		ev.pending, ev.errno = true, errno
		return
	}
	ev.recorded = true
	who := target.Identify(ev.tid)
	line := eventlog.Event{
		Time: ev.began, Call: ev.call, PID: who.PID, TID: ev.tid, Comm: who.Comm, Cgroup: who.Cgroup,
		Netns: e.netns, FD: ev.fd, Proto: ev.proto.String(), Route: policy.Route{}.String(), Result: "ok", Note: ev.note,
	}
	if ev.dst.IsValid() { // else it could not be read, and the call stays native
		line.Dst, line.Rule, line.Route = ev.dst.String(), ev.decision.Rule, ev.decision.Route.String()
	}
	if ev.local != 0 && e.ownCgroup != "" && who.Cgroup != e.ownCgroup {
		// cgroup v2 ownership is that of whoever makes a socket, and stays.
		if line.Note != "" {
			line.Note += "; "
		}
		line.Note += "the new socket belongs to upconv's cgroup v2 " + e.ownCgroup + ", not to the program's"
	}
	if errno != 0 {
		line.Result = linux.ErrnoName(errno)
	}
	if ev.local != 0 && errno == 0 {
		line.Local = localName(ev.local)
	}
	line.Duration = time.Since(ev.began).Microseconds()
	e.recorder.Record(line)
}

// recordReload queues that the policy file was read again.
func (e *events) recordReload(began time.Time, errno unix.Errno, note string) {
	if e == nil {
		return
	}
	line := eventlog.Event{Time: began, Call: "reload", PID: os.Getpid(), Netns: e.netns, FD: -1, Result: "ok", Note: note}
	if errno != 0 {
		line.Result = linux.ErrnoName(errno)
	}
	line.Duration = time.Since(began).Microseconds()
	e.recorder.Record(line)
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
