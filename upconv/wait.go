package upconv

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// wait is a blocking connect(2) that upconv itself waits for, because the kernel's own wait would
// end differently from a native one: that of a socket with SO_SNDTIMEO, whose expiry says EINPROGRESS.
//
// It runs on a goroutine of its own and holds no worker and no thread.
type wait struct {
	s      *Supervisor
	id     uint64 // of the notification
	tid    int
	fd     int // the connecting socket, non-blocking for now; owned
	flags  int // status flags to give back to it
	expiry time.Time
	sa     []byte // its own copy
	event  *event
}

// newWait takes ownership of fd, whose connect is under way, and copies everything else.
func (s *Supervisor) newWait(c *call, e *event, fd, flags int, timeout time.Duration, sa []byte) *wait {
	ownCall, ownEvent := *c, *e
	ownEvent.c = &ownCall
	return &wait{s: s, id: c.id, tid: c.tid, fd: fd, flags: flags, expiry: time.Now().Add(timeout), sa: bytes.Clone(sa), event: &ownEvent}
}

// sampling is how often the target is looked at for signals that a native wait would end at.
const sampling = 5 * time.Millisecond

// run waits, gives the socket its flags back and answers.
func (w *wait) run() {
	file := os.NewFile(uintptr(w.fd), "connecting") // non-blocking: joins the runtime's poller
	defer file.Close()
	errno := w.result(file)
	setFlags(w.fd, w.flags)
	w.s.events.record(w.event, errno)
	if err := w.s.respond(w.id, answer(errno)); err != nil {
		w.s.log.Debug("answer", "tid", w.tid, "error", err)
	}
}

func (w *wait) result(file *os.File) unix.Errno {
	conn, err := file.SyscallConn()
	if err != nil {
		return unix.EIO
	}
	shared := 0 // samples in a row that saw a signal which any thread of the process may take
	for {
		now := time.Now()
		if !now.Before(w.expiry) {
			return unix.EINPROGRESS // socket(7), SO_SNDTIMEO
		}
		until := now.Add(sampling)
		if until.After(w.expiry) {
			until = w.expiry
		}
		if err := file.SetWriteDeadline(until); err != nil {
			return unix.EIO
		}
		errno := unix.EALREADY
		conn.Write(func(fd uintptr) bool {
			errno = connect(int(fd), w.sa)
			return errno != unix.EALREADY
		})
		if errno != unix.EALREADY {
			if w.event.decision.Route.crosses() {
				errno = inetErrno(errno)
			}
			return errno
		}
		if w.s.listener.Valid(w.id) != nil {
			return unix.EINTR // the target is gone; nobody will read the answer
		}
		own, any := pendingSignals(w.tid)
		switch {
		case own:
			return unix.EINTR // signal(7): with a timeout set, never restarted
		case !any:
			shared = 0
		default:
			// The kernel may have chosen another thread for it. One that stays has been left for this one.
			if shared++; shared >= 3 {
				return unix.EINTR
			}
		}
	}
}

// pendingSignals reports whether a signal is waiting for the thread: own, certainly for it; any, for
// it or for another thread of its process.
func pendingSignals(tid int) (own, any bool) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return false, false
	}
	return signalsIn(status)
}

// signalsIn is pendingSignals for a proc_pid_status(5) text.
func signalsIn(status []byte) (own, any bool) {
	blocked := statusField(status, "SigBlk:", 16)
	own = statusField(status, "SigPnd:", 16)&^blocked != 0
	any = statusField(status, "ShdPnd:", 16)&^blocked != 0
	if any && statusField(status, "Threads:", 10) == 1 {
		own = true
	}
	return own, own || any
}
