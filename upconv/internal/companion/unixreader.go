package companion

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// UnixReader hands on what comes for a Unix socket that is kept. A program that has a copy of that
// can hold up who receives from it: the kernel locks the socket while it writes into the program's
// memory (unix_dgram_recvmsg in net/unix/af_unix.c). So it has a goroutine of its own, when there
// is anything.
type UnixReader struct {
	Turns *trap.Turns
	PID   int          // the process
	mu    sync.Mutex   // held while it receives and hands on
	due   atomic.Int32 // how often it was woken since it last saw that there is nothing more
}

// wake has it hand on what has come for the socket. The caller holds k.mu.
func (r *UnixReader) wake(k *Set, fd int) {
	if r.due.Add(1) > 1 {
		return
	}
	own, errno := linux.Dup(fd)
	if errno != 0 {
		r.due.Store(0)
		return
	}
	go func() {
		defer linux.Close(own)
		defer r.Turns.GiveBack(r.Turns.Take(func() int { return r.PID }))
		for more := true; more; {
			due := r.due.Load()
			r.drain(k, fd, own)
			more = !r.due.CompareAndSwap(due, 0)
		}
	}()
}

// drain hands on what has come. own is a copy of the socket, which is kept as fd.
func (r *UnixReader) drain(k *Set, fd, own int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	packet := make([]byte, handedOn+linux.MaxPacket)
	for {
		c, g, raw := r.place(k, fd)
		if raw.v4 < 0 {
			return
		}
		switch length, from, err := unix.Recvfrom(own, packet[handedOn:], unix.MSG_DONTWAIT); err {
		case nil:
			raw.send(packet[:handedOn+length], c.sender(from), g.name)
		case unix.EAGAIN:
			return
		}
	}
}

// place returns what is handed on through, and a copy of the companion and of its group; none if it
// is not kept any more.
func (r *UnixReader) place(k *Set, fd int) (c Companion, g group, raw outlet) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if of := k.kept[int32(fd)]; of != nil {
		if i := slices.IndexFunc(of.kept, func(c Companion) bool { return c.Reader == r }); i >= 0 {
			if raw, ok := k.raw[of.netns]; ok && of.name.Port() != 0 {
				return of.kept[i], *of, raw
			}
		}
	}
	return c, g, outlet{-1, -1}
}
