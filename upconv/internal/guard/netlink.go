package guard

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// A send on a netlink socket is a request to the kernel, which looks at who makes it: at its
// capabilities, and at its descriptors where the request names some. So it cannot be upconv's. But
// an address of netlink is shorter than one of IPv4, and of sendto(2) the length is in a register:
// so the thread itself makes that call instead, by ptrace(2), and whatever is under the number by
// then goes nowhere.

// netlinkSend is such a call, on its way.
type netlinkSend struct {
	s     *Session
	c     session.Call
	pidfd int // of the thread; owned
	flags uint32
	m     guardedMessage
}

const sizeofSockaddrNl = 12 // struct sockaddr_nl, netlink(7)

// sendNetlink has the target send a message. Of sendmmsg(2) the first one is all that is sent.
func (w *Worker) sendNetlink(c *session.Call) session.Outcome {
	m, errno := w.readGuarded(c)
	if errno != 0 {
		return session.Answer(errno)
	}
	if len(m.vectors) > 1 && !m.plain() {
		return session.Answer(unix.EOPNOTSUPP)
	}
	pidfd, _, errno := w.s.Targets.Open(c.TID)
	if errno != 0 {
		return session.Answer(errno)
	}
	own := *m
	own.name, own.control = append([]byte(nil), m.name...), nil
	return session.Outcome{Wait: &netlinkSend{s: w.s, c: *c, pidfd: pidfd, flags: sendUnderWay(c).flags, m: own}}
}

// plain reports whether a message goes to the kernel, as one without an address does.
func (m *guardedMessage) plain() bool {
	return len(m.name) == 0 || len(m.name) >= sizeofSockaddrNl && linux.AllZero(m.name[2:sizeofSockaddrNl])
}

// Run has the thread make the call. It has a thread to itself, which traces the target's.
func (n *netlinkSend) Run() {
	defer linux.Close(n.pidfd)
	pid := n.s.Targets.Process(n.c.TID)
	if errno := n.s.AwaitThread(&n.c, pid); errno != 0 {
		n.s.Respond(n.c.ID, session.Answer(errno))
		return
	}
	defer n.s.Threads.GiveBack(pid)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if n.send() { // else the kernel lets go of the thread with the end of this one
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

// send does what Run is for. It returns false if the target is still traced, or gone.
func (n *netlinkSend) send() (released bool) {
	s, c := n.s, &n.c
	t, errno := target.Seize(c.TID, n.pidfd)
	for tries := 0; errno == unix.EPERM && tries < session.MaxRaces; tries++ { // upconv itself may trace it, for a moment
		time.Sleep(time.Millisecond)
		t, errno = target.Seize(c.TID, n.pidfd)
	}
	if errno != 0 {
		s.Respond(c.ID, session.Answer(errno))
		return true
	}
	if s.Listener.Respond(c.ID, 0, target.ErrRestartNoIntr) != nil || !t.Halt(c.Args[0]) {
		return false
	}
	name, args := n.asSendto()
	result, ok := t.Make(c.Number(name), c.Compat, args...)
	if !ok {
		return false
	}
	if result >= 0 && n.m.result != 0 {
		result = n.tellLength(result)
	}
	return t.Finish(result) && t.Release() == 0
}

// asSendto returns the call that the thread makes. It does not wait for room, as no signal could
// end that.
func (n *netlinkSend) asSendto() (name string, args []uint64) {
	fd, m := uint64(uint32(n.c.FD)), &n.m
	if len(m.vectors) > 1 {
		return "writev", []uint64{fd, m.array, uint64(m.count)}
	}
	var base, length uint64
	if len(m.vectors) > 0 {
		base, length = uint64(m.vectors[0].Base), uint64(m.vectors[0].Len)
	}
	flags := n.flags&^unix.MSG_FASTOPEN | unix.MSG_DONTWAIT
	return "sendto", []uint64{fd, base, length, uint64(flags), m.at, uint64(min(len(m.name), sizeofSockaddrNl))}
}

// tellLength writes msg_len of sendmmsg(2), and returns what that returns.
func (n *netlinkSend) tellLength(length int64) (result int64) {
	raw := [4]byte{byte(length), byte(length >> 8), byte(length >> 16), byte(length >> 24)}
	if errno := target.WriteMemory(n.c.TID, n.m.result, raw[:]); errno != 0 {
		return -int64(errno)
	}
	return 1
}
