package stream

import (
	"bytes"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/siit"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// wait is a blocking connect(2) that upconv itself waits for, because the kernel's own wait would
// end differently from a native one: that of a socket with SO_SNDTIMEO, whose expiry says
// EINPROGRESS, that of a program that may have restricted itself (restricted.go), or that of a
// thread that shares its descriptors (calls/guard.go).
//
// It runs on a goroutine of its own and holds no worker and no thread.
type wait struct {
	s      *Session
	fd     int            // the connecting socket, non-blocking for now; owned
	flags  int            // status flags to give back to it
	expiry time.Time      // of SO_SNDTIMEO; zero: none
	sa     []byte         // its own copy
	event  *event.Pending // its own too
	held   trap.HeldCall
	stop   *trap.Interruption
}

// newWait takes ownership of fd, whose connect is under way, and copies everything else.
func (s *Session) newWait(c *session.Call, e *event.Pending, fd, flags int, sa []byte) *wait {
	ownEvent := *e
	ownEvent.Held = false
	w := &wait{s: s, fd: fd, flags: flags, sa: bytes.Clone(sa), event: &ownEvent, stop: trap.NewInterruption()}
	w.held.Listener, w.held.ID, w.held.TID = s.Listener, c.ID, c.TID
	return w
}

// expireAfter has the wait end after a timeout, that of SO_SNDTIMEO; 0: never.
func (w *wait) expireAfter(timeout time.Duration) {
	if timeout != 0 {
		w.expiry = time.Now().Add(timeout)
		w.held.Timed.Store(true)
	}
}

// Run waits, gives the socket its flags back and answers.
func (w *wait) Run() {
	file := os.NewFile(uintptr(w.fd), "connecting") // non-blocking: joins the runtime's poller
	defer file.Close()
	file.SetWriteDeadline(w.expiry)
	w.held.End = func(errno unix.Errno) {
		w.stop.End(errno)
		file.SetWriteDeadline(time.Unix(1, 0))
	}
	w.s.Held.Add(&w.held)
	errno := w.result(file)
	defer w.s.Turns.GiveBack(w.s.Turns.Take(w.process))
	w.s.Held.Remove(&w.held)
	linux.SetFlags(w.fd, w.flags)
	w.s.Events.Record(w.event, errno)
	if err := w.s.Respond(w.held.ID, session.Answer(errno)); err != nil {
		w.s.Log.Debug("answer", "tid", w.event.TID, "error", err)
	}
}

// process returns whose call it is.
func (w *wait) process() int { return w.s.Targets.Process(w.held.TID) }

// result waits for the end of the connect(2), and returns what that says.
func (w *wait) result(file *os.File) unix.Errno {
	conn, err := file.SyscallConn()
	if err != nil {
		return unix.EIO
	}
	errno := unix.EALREADY
	conn.Write(func(fd uintptr) bool {
		defer w.s.Turns.GiveBack(w.s.Turns.Take(w.process)) // the program may have locked the socket
		errno = w.fetch(int(fd))
		return errno != unix.EALREADY
	})
	switch {
	case errno == unix.EALREADY && w.stop.Happened() != 0:
		return w.stop.Happened()
	case errno == unix.EALREADY:
		return unix.EINPROGRESS // socket(7), SO_SNDTIMEO
	case w.event.Decision.Route.Crosses():
		return siit.InetErrno(errno)
	}
	return errno
}

// fetch returns what has become of the connection so far. If another thread has ended it
// (shutdown(2)), a connect(2) to the same address would begin anew.
func (w *wait) fetch(fd int) unix.Errno {
	if w.s.Restricted.Any.Load() { // the rules may be upconv's own, and know another address
		return linux.Connect(fd, w.sa)
	}
	errno, idle := linux.ProbeConnect(fd, linux.DomainOf(fd))
	if !idle {
		return errno
	}
	var pending int32
	linux.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_ERROR, unsafe.Pointer(&pending), 4)
	if pending != 0 {
		return unix.Errno(pending)
	}
	return unix.ECONNABORTED
}
