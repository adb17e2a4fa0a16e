package swap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/volley"
)

// What is asked right before a socket takes the place of another one, and right after.

// lastSeen is what the last look at the target's descriptor tells.
type lastSeen struct {
	closesOnExec bool // on execve(2) it is closed
	Watched      bool // the socket is in the worker's witnesses
}

// lastLook is system calls in volleys, and the memory that they use. It is on the heap, so that
// this stays where it is.
type lastLook struct {
	before, after [2]volley.Call
	event         unix.EpollEvent
	text          [512]byte
}

// newLastLook makes the lists of calls. Their descriptors are filled in each time.
func newLastLook() *lastLook {
	l := new(lastLook)
	event := uintptr(unsafe.Pointer(&l.event))
	l.before = [...]volley.Call{
		{Number: unix.SYS_EPOLL_CTL, Args: [6]uintptr{0, unix.EPOLL_CTL_ADD, 0, event}},
		{Number: unix.SYS_PREAD64, Args: [6]uintptr{0, uintptr(unsafe.Pointer(&l.text)), uintptr(len(l.text))}},
	}
	l.after = [...]volley.Call{
		{Number: unix.SYS_CLOSE},
		{Number: unix.SYS_EPOLL_PWAIT, Args: [6]uintptr{0, event, 1}},
	}
	return l
}

// last returns the worker's lastLook.
func (w *Worker) last() *lastLook {
	if w.lastLook == nil {
		w.lastLook = newLastLook()
	}
	return w.lastLook
}

// watchAndRead is witness, and then reads the start of a file, in one volley.
func (w *Worker) watchAndRead(old, file int, to []byte) (watched bool, n int, errno unix.Errno) {
	if w.witnesses < 0 {
		w.newWitnesses()
	}
	l := w.last()
	l.event = unix.EpollEvent{Events: unix.EPOLLOUT}
	l.before[0].Args[0], l.before[0].Args[2], l.before[1].Args[0] = uintptr(w.witnesses), uintptr(old), uintptr(file)
	volley.Make(l.before[:], 0)
	if errno = l.before[1].Errno(); errno == 0 {
		n = copy(to, l.text[:l.before[1].Result()])
	}
	return l.before[0].Errno() == 0, n, errno
}

// CloseWatched closes old, which is in the worker's witnesses, and then asks what hasCopies asks,
// in one volley.
func (w *Worker) CloseWatched(old int) (copied bool) {
	w.Disown(old)
	l := w.last()
	l.after[0].Args[0], l.after[1].Args[0] = uintptr(old), uintptr(w.witnesses)
	volley.Make(l.after[:], 0)
	return l.after[1].Errno() == 0 && l.after[1].Result() != 0
}
