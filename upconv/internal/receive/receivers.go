package receive

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// receivers are the calls that wait for a datagram, as many as there may be. One goroutine waits
// for all of their sockets, in an epoll set of its own, and receives for them. (The runtime's
// poller takes only files that are O_NONBLOCK, which these must not become: they are the
// program's.)
//
// A program can hold up who receives for it, with memory that never comes. So the watch over
// workers looks at that goroutine too, and has another one take its place; and for a while, each
// receiver of that process has a goroutine of its own. See trap.Turns.
type receivers struct {
	mu      sync.Mutex
	epfd    int                  // the set; 0: not made yet
	over    int                  // an eventfd that says that nobody receives any more; 0: not yet
	waiting map[uint64]*receiver // by what the set knows them by
	last    uint64               // of those

	moves atomic.Uint64 // how often a socket that may be waited for was moved

	rouse   func()        // wakes who watches over Current, if it sleeps; called after Current is set
	Current atomic.Uint64 // what poll receives for: the thread, and serial; 0: nothing
	slow    slowProcesses // that have held it up
	// The rest is for the goroutine that polls.
	serial      uint32
	events      [64]unix.EpollEvent
	next, ready int // which of events are to be seen to
}

const (
	// slowAfter is how long poll may receive for one call before its process is a slow one, and
	// slowFor is how long it stays that.
	slowAfter = 2 * time.Millisecond
	slowFor   = time.Second
)

// wait has a call wait for a datagram, on the socket that is its own from now on.
func (all *receivers) wait(r *reception, state receptionState) session.Outcome {
	s := r.s
	p := &receiver{reception: *r, busy: true}
	p.held.Listener, p.held.ID, p.held.TID, p.held.End = s.Listener, r.c.ID, r.c.TID, p.endWith
	p.keep()
	if state == interrupted {
		go p.attendInTurn(true)
		return session.Elsewhere
	}
	if errno := p.register(); errno != 0 {
		s.Warn(r.c.Name+": it cannot wait for a datagram; the program sees the error", "tid", r.c.TID, "error", errno)
		p.finish(session.Answer(unix.ENOMEM))
	}
	p.attend(nil, false)
	return session.Elsewhere
}

// open makes the set for the first one.
func (all *receivers) open() unix.Errno {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.epfd != 0 {
		return 0
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return linux.ErrnoOf(err)
	}
	all.epfd = epfd
	go all.poll()
	return 0
}

// poll receives for those whose sockets have something, until another goroutine takes its place.
func (all *receivers) poll() {
	b := receiveBufferPool.Get().(*receiveBuffers)
	defer receiveBufferPool.Put(b)
	for {
		if all.next == all.ready {
			n, err := unix.EpollWait(all.epfd, all.events[:], -1)
			if err != nil && err != unix.EINTR || all.ended() {
				return
			}
			all.next, all.ready = 0, max(n, 0)
			continue
		}
		e := &all.events[all.next]
		all.next++
		all.mu.Lock()
		p := all.waiting[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
		all.mu.Unlock()
		if p == nil || !p.claim(due{events: e.Events}) { // it has its answer, or somebody else sees to it
			continue
		}
		if all.slow.any.Load() > 0 && all.slow.has(p.process()) {
			go p.attendInTurn(false)
		} else if !all.attend(p, b) {
			return
		}
	}
}

// attend does what is due for a receiver. It returns false if another goroutine has taken the place
// of the caller meanwhile.
func (all *receivers) attend(p *receiver, b *receiveBuffers) bool {
	tid, s := p.c.TID, p.s // it may be somebody else's afterwards
	all.serial++
	current := uint64(tid)<<32 | uint64(all.serial)
	all.Current.Store(current)
	all.rouse()
	began := session.Clock()
	p.attend(b, false)
	took := session.Clock() - began
	if took > slowAfter {
		all.slow.add(s.Targets.Process(tid), session.Clock()+slowFor)
	}
	return all.Current.CompareAndSwap(current, 0)
}

// Relieve has another goroutine poll, if the one that does is still held up by the call current.
func (all *receivers) Relieve(current uint64) {
	pid := target.ThreadGroup(int(current >> 32))
	all.slow.add(pid, math.MaxInt64) // until attend returns: it holds one goroutine at a time
	if all.Current.CompareAndSwap(current, 0) {
		go all.poll()
	}
}

// Close has poll end, which gives up the set. No call may wait.
func (all *receivers) Close() {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.epfd == 0 || all.over != 0 {
		return
	}
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
	if err != nil {
		return // it waits for ever: nothing comes any more
	}
	all.over = fd
	unix.EpollCtl(all.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN})
}

// ended reports whether Close has been called, and gives up the set if so.
func (all *receivers) ended() bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.over == 0 {
		return false
	}
	linux.Close(all.over)
	linux.Close(all.epfd)
	return true
}

// slowProcesses are those that have held up somebody who has to do with others, too.
type slowProcesses struct {
	any   atomic.Int32 // how many there are
	mu    sync.Mutex
	until map[int]time.Duration // by process, as session.Clock says
}

// add notes that a process is slow until a time.
func (all *slowProcesses) add(pid int, until time.Duration) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.until == nil {
		all.until = map[int]time.Duration{}
	}
	all.until[pid] = until
	all.any.Store(int32(len(all.until)))
}

// has reports whether a process is slow.
func (all *slowProcesses) has(pid int) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	now := session.Clock()
	maps.DeleteFunc(all.until, func(_ int, until time.Duration) bool { return until < now })
	all.any.Store(int32(len(all.until)))
	return all.until[pid] > 0
}

// NoteMove notes that another socket has just taken the place of fd, or of one that nobody has a
// copy of, -1. It returns what Follow knows fd by; 0 if nobody waits for datagrams.
func (all *receivers) NoteMove(fd int) (cookie uint64) {
	all.moves.Add(1)
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.waiting) == 0 || fd < 0 {
		return 0
	}
	return linux.CookieOf(fd)
}

// Follow is for a socket that another one has taken the place of in the target: those that wait for
// the old one, which is known by its cookie, wait for the new one from now on, of which replacement
// is a copy. If that is one of the program's own family, the kernel waits.
func (all *receivers) Follow(cookie uint64, replacement int) {
	if cookie == 0 {
		return
	}
	now := linux.CookieOf(replacement)
	for _, p := range all.all() {
		if p.claim(due{left: cookie, follow: now}) {
			p.attend(nil, false)
		}
	}
}

// all returns those that wait.
func (all *receivers) all() []*receiver {
	all.mu.Lock()
	defer all.mu.Unlock()
	return slices.Collect(maps.Values(all.waiting))
}

// FreePort is for a stopped bind(2): those that wait with the port that it asks for, and whose
// targets have been killed, give it up. Else that is noticed a little later, and who starts a
// killed server anew would find its port taken. later is whether one has yet to give it up, as
// somebody else is about to have it do.
func (all *receivers) FreePort(c *session.Call) (later bool) {
	list := all.all()
	if len(list) == 0 {
		return false
	}
	var name [4]byte // sin_family and sin_port, or those of AF_INET6
	if target.ReadMemory(c.TID, c.Args[1], name[:]) != 0 || name[2] == 0 && name[3] == 0 {
		return false
	}
	for _, p := range list {
		if !p.has([2]byte(name[2:])) || p.s.Listener.Valid(p.c.ID) == nil {
			continue
		}
		if p.claim(due{gone: true}) {
			p.attend(nil, false)
		} else {
			later = true
		}
	}
	return later
}
