package event

import (
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// Pending is a decision on its way to becoming an event of the record.
type Pending struct {
	Began    time.Time
	Call     string // its name
	TID, FD  int    // its thread, and its first argument
	Dst      netip.AddrPort
	Proto    policy.Proto
	Decision policy.Decision
	Local    int // the new socket, still open; 0: none
	From     int // a copy of the socket that is sent through, before anything has taken its place; 0: none
	Note     string
	Recorded bool
	Held     bool       // it is not recorded yet: more may become known
	pending  bool       // it is to be, when it is not held any more
	errno    unix.Errno // with this
}

// Release records what was to be recorded while the event was held.
func (e *Pending) Release(to *Log) {
	e.Held = false
	if e.pending {
		e.pending = false
		to.Record(e, e.errno)
	}
}

// Add appends to the note.
func (e *Pending) Add(note string) {
	if e.Note != "" {
		e.Note += "; "
	}
	e.Note += note
}

// Log makes events of decisions, and has them written. A nil *events records nothing.
type Log struct {
	netns uint64
	// ownCgroup is upconv's own cgroup v2 path; "" where there is no v2.
	ownCgroup string
	recorder  *Recorder
}

// NewLog returns one that writes to out. failed is called once, should writing fail.
func NewLog(out io.Writer, netns uint64, failed func(error)) *Log {
	return &Log{netns: netns, ownCgroup: target.OwnCgroup(), recorder: NewRecorder(out, failed)}
}

// Flush waits until everything recorded so far is written, but no longer than the given time.
func (e *Log) Flush(atMost time.Duration) {
	if e != nil {
		e.recorder.Flush(atMost)
	}
}

// Record queues the event; errno is 0 for "ok". The target must still be waiting for its answer:
// who it is is read here.
func (e *Log) Record(ev *Pending, errno unix.Errno) {
	if e == nil || ev.Recorded || errno == seccompx.ERestartSys { // the call is made again then
		return
	}
	if ev.Held {
		ev.pending, ev.errno = true, errno
		return
	}
	ev.Recorded = true
	who := target.Identify(ev.TID)
	line := Event{
		Time: ev.Began, Call: ev.Call, PID: who.PID, TID: ev.TID, Comm: who.Comm, Cgroup: who.Cgroup,
		Netns: e.netns, FD: ev.FD, Proto: ev.Proto.String(), Route: policy.Route{}.String(), Result: "ok", Note: ev.Note,
	}
	if ev.Dst.IsValid() { // else it could not be read, and the call stays native
		line.Dst, line.Rule, line.Route = ev.Dst.String(), ev.Decision.Rule, ev.Decision.Route.String()
	}
	if ev.Local != 0 && e.ownCgroup != "" && who.Cgroup != e.ownCgroup {
		// cgroup v2 ownership is that of whoever makes a socket, and stays.
		if line.Note != "" {
			line.Note += "; "
		}
		line.Note += "the new socket belongs to upconv's cgroup v2 " + e.ownCgroup + ", not to the program's"
	}
	if errno != 0 {
		line.Result = linux.ErrnoName(errno)
	}
	if ev.Local != 0 && errno == 0 {
		line.Local = localName(ev.Local)
	}
	line.Duration = time.Since(ev.Began).Microseconds()
	e.recorder.Record(line)
}

// RecordReload queues that the policy file was read again.
func (e *Log) RecordReload(began time.Time, errno unix.Errno, note string) {
	if e == nil {
		return
	}
	line := Event{Time: began, Call: "reload", PID: os.Getpid(), Netns: e.netns, FD: -1, Result: "ok", Note: note}
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
