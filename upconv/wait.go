package upconv

import (
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// wait is a blocking connect(2) that upconv itself waits for, because the kernel's own wait would
// end differently from a native one: that of a socket with SO_SNDTIMEO, whose expiry says EINPROGRESS, or that of
// a program that may have restricted itself, see restricted.go.
//
// It runs on a goroutine of its own and holds no worker and no thread.
type wait struct {
	s      *Supervisor
	fd     int  // the connecting socket, non-blocking for now; owned
	flags  int  // status flags to give back to it
	timed  bool // it has SO_SNDTIMEO
	expiry time.Time
	sa     []byte // its own copy
	event  *event // its own too, with the call
}

// newWait takes ownership of fd, whose connect is under way, and copies everything else.
func (s *Supervisor) newWait(c *call, e *event, fd, flags int, timeout time.Duration, sa []byte) *wait {
	ownCall, ownEvent := *c, *e
	ownEvent.c = &ownCall
	return &wait{s: s, fd: fd, flags: flags, timed: timeout != 0, expiry: time.Now().Add(timeout), sa: bytes.Clone(sa), event: &ownEvent}
}

// run waits, gives the socket its flags back and answers.
func (w *wait) run() {
	file := os.NewFile(uintptr(w.fd), "connecting") // non-blocking: joins the runtime's poller
	defer file.Close()
	errno := w.result(file)
	setFlags(w.fd, w.flags)
	w.s.events.record(w.event, errno)
	if err := w.s.respond(w.event.c.id, answer(errno)); err != nil {
		w.s.log.Debug("answer", "tid", w.event.c.tid, "error", err)
	}
}

func (w *wait) result(file *os.File) unix.Errno {
	conn, err := file.SyscallConn()
	if err != nil {
		return unix.EIO
	}
	var watch interruption
	for {
		now := time.Now()
		if w.timed && !now.Before(w.expiry) {
			return unix.EINPROGRESS // socket(7), SO_SNDTIMEO
		}
		until := now.Add(sampling)
		if w.timed && until.After(w.expiry) {
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
		if errno := watch.look(w.s, w.event.c, w.timed); errno != 0 {
			return errno
		}
	}
}
