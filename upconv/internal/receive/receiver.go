package receive

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/passport"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// receiver is a call that waits for a datagram. One goroutine at a time is busy with it, which the
// program's memory can hold up. So nobody waits for that: who finds it busy leaves there what is
// due.
type receiver struct {
	reception        // and the next four: of who is busy with it
	id        uint64 // what the set of receivers knows it by; 0: nothing yet
	pid       int    // its process; 0: nobody has asked
	expiry    time.Time
	timer     *time.Timer
	limit     time.Duration // SO_RCVTIMEO; 0: none
	held      trap.HeldCall

	mu     sync.Mutex // of the rest
	busy   bool
	over   bool // it has its answer
	due    due
	cookie uint64  // of the socket that it waits for, or is about to
	port   [2]byte // that this had, as it is in an address
}

// due is what is to be done for a receiver.
type due struct {
	events  uint32     // of its socket: epoll_wait(2)
	left    uint64     // its socket, by its cookie, if another one has taken the place of that
	follow  uint64     // which one
	errno   unix.Errno // what ends the wait
	expired bool       // SO_RCVTIMEO is over
	gone    bool       // nobody waits for the answer
}

// claim has somebody see to what is due. It reports whether that is the caller, who is busy with it
// from now on.
func (p *receiver) claim(d due) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || d.left != 0 && d.left != p.cookie {
		return false
	}
	p.due.events |= d.events
	if d.left != 0 {
		p.due.follow, p.cookie = d.follow, d.follow
	}
	if p.due.errno == 0 {
		p.due.errno = d.errno
	}
	p.due.expired = p.due.expired || d.expired
	p.due.gone = p.due.gone || d.gone
	if p.busy {
		return false
	}
	p.busy = true
	return true
}

// next returns what is due. ok is false if nothing is; then the caller is not busy with it any
// more.
func (p *receiver) next() (d due, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.due == (due{}) {
		p.busy = false
		return d, false
	}
	d, p.due = p.due, due{}
	return d, true
}

// attend does what is due, until nothing is, for who has claimed it. on is whether it has received
// much, and is to receive more. b may be nil.
func (p *receiver) attend(b *receiveBuffers, on bool) {
	for {
		if on {
			on = false
			if !p.receive(&b) {
				return
			}
		}
		d, ok := p.next()
		if !ok {
			return
		}
		switch {
		case d.gone:
			p.finish(session.Answer(unix.EINTR)) // nobody will read it
		case d.errno != 0:
			p.finish(p.end(d.errno))
		default:
			if d.follow != 0 {
				p.moveTo(d.follow)
			}
			if d.events != 0 && !p.isOver() && !p.ready(&b, d.events) {
				return
			}
			if d.expired && !p.isOver() {
				p.expire()
			}
		}
	}
}

// isOver reports whether the call has its answer.
func (p *receiver) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// attendInTurn is attend when the receiver's process has a turn, on a goroutine of its own.
func (p *receiver) attendInTurn(on bool) {
	defer p.s.Turns.GiveBack(p.s.Turns.Take(p.process))
	b := receiveBufferPool.Get().(*receiveBuffers)
	defer receiveBufferPool.Put(b)
	p.attend(b, on)
}

// receiveBufferPool has buffers for those that have none of their own.
var receiveBufferPool = sync.Pool{New: func() any { return &receiveBuffers{} }}

// process returns the process that the call is of.
func (p *receiver) process() int {
	if p.pid == 0 {
		p.pid = p.s.Targets.Process(p.c.TID)
	}
	return p.pid
}

// keep has what the message refers to be its own.
func (p *receiver) keep() { p.message.vector = slices.Clone(p.message.vector) }

// register has the goroutine that polls know of the receiver.
func (p *receiver) register() unix.Errno {
	all := &p.s.Receivers
	if errno := all.open(); errno != 0 {
		return errno
	}
	p.limit = linux.TimeoutOf(p.fd, unix.SO_RCVTIMEO)
	all.mu.Lock()
	all.last++
	p.id = all.last
	if all.waiting == nil {
		all.waiting = map[uint64]*receiver{}
	}
	all.waiting[p.id] = p
	all.mu.Unlock()
	p.held.Timed.Store(p.limit > 0)
	p.s.Held.Add(&p.held)
	if errno := p.watch(); errno != 0 {
		return errno
	}
	if p.limit > 0 {
		p.expiry = time.Now().Add(p.limit)
		p.timer = time.AfterFunc(p.limit, func() {
			if p.claim(due{expired: true}) {
				p.attendInTurn(false)
			}
		})
	}
	if all.moves.Load() != p.moves { // Follow may have looked before it was there
		if fd, errno := p.s.Targets.Getfd(p.c.TID, p.c.FD); errno == 0 {
			now := linux.CookieOf(fd)
			linux.Close(fd)
			if now != linux.CookieOf(p.fd) {
				p.moveTo(now)
			}
		}
	}
	return 0
}

// ready is for when something has happened to the receiver's socket. It returns false if the caller
// is not busy with the receiver any more.
func (p *receiver) ready(b **receiveBuffers, events uint32) bool {
	if p.s.Listener.Valid(p.c.ID) != nil { // killed: what has come is for others who have the socket
		p.finish(session.Answer(unix.EINTR))
		return true
	}
	if events&unix.EPOLLRDHUP != 0 {
		p.shutdown = true
	}
	if events&unix.EPOLLERR != 0 && p.done > 0 {
		p.finish(p.end(0)) // the error stays for the next call, as natively
		return true
	}
	return p.receive(b)
}

// receive receives what there is, and returns as ready does.
func (p *receiver) receive(b **receiveBuffers) bool {
	if *b == nil {
		*b = &receiveBuffers{}
	}
	before := p.done
	(*b).ahead.count = 0 // another one's, or of long ago
	switch out, state := p.step(*b); state {
	case received:
		p.finish(out)
	case interrupted: // others get their turn
		p.keep()
		if p.s.Listener.Valid(p.c.ID) != nil {
			p.finish(session.Answer(unix.EINTR))
			return true
		}
		go p.attendInTurn(true)
		return false
	case nothingYet:
		p.keep()
		if p.id == 0 && p.register() != 0 {
			p.finish(p.end(unix.ENOMEM))
		} else if p.done != before && p.timer != nil { // each datagram may take that long
			p.expiry = time.Now().Add(p.limit)
			p.timer.Reset(p.limit)
		}
	}
	return true
}

// expire is for the end of SO_RCVTIMEO.
func (p *receiver) expire() {
	if rest := time.Until(p.expiry); rest > 0 { // a datagram came in between
		p.timer.Reset(rest)
		return
	}
	p.finish(p.end(unix.EAGAIN))
}

// endWith ends the receiver's wait with an errno, at once or a little later.
func (p *receiver) endWith(errno unix.Errno) {
	if p.claim(due{errno: errno}) {
		go p.attendInTurn(false)
	}
}

// moveTo has the receiver wait for the socket that its descriptor is now, if that is the one with
// the cookie.
func (p *receiver) moveTo(cookie uint64) {
	all := &p.s.Receivers
	fd, errno := p.s.Targets.Getfd(p.c.TID, p.c.FD)
	if errno != 0 || linux.CookieOf(fd) != cookie { // the old one, in another process
		if errno == 0 {
			linux.Close(fd)
		}
		p.note()
		return
	}
	var pass passport.Passport
	family := linux.DomainOf(fd)
	if !pass.ReadFrom(fd, family) {
		linux.Close(fd)
		if p.done > 0 {
			p.finish(p.end(0))
		} else {
			p.finish(session.CarryOn)
		}
		return
	}
	unix.EpollCtl(all.epfd, unix.EPOLL_CTL_DEL, p.fd, nil)
	linux.Close(p.fd)
	p.fd, p.family, p.pass, p.shutdown = fd, family, pass, false
	if p.watch() != 0 {
		p.finish(p.end(unix.ENOMEM))
	}
}

// watch puts the socket into the set.
func (p *receiver) watch() unix.Errno {
	p.note()
	// Edges, and not levels: an error queue that nobody empties would be ready all the time. What
	// is there already counts as one.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(uint32(p.id)), Pad: int32(uint32(p.id >> 32))}
	return linux.EpollAdd(p.s.Receivers.epfd, p.fd, &event)
}

// note notes what the receiver's socket is known by.
func (p *receiver) note() {
	cookie, port := linux.CookieOf(p.fd), portOf(p.fd)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.follow == 0 {
		p.cookie = cookie
	}
	p.port = port
}

// has reports whether the receiver's socket has a port.
func (p *receiver) has(port [2]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.port == port
}

// portOf returns the port of an AF_INET6 socket, as it is in its address.
func portOf(fd int) (port [2]byte) {
	var name [linux.SizeofSockaddrStorage]byte
	if linux.SocketName(fd, false, &name) && binary.NativeEndian.Uint16(name[:]) == unix.AF_INET6 {
		port = [2]byte(name[2:])
	}
	return port
}

// finish answers the call, and gives up what the receiver has.
func (p *receiver) finish(out session.Outcome) {
	all := &p.s.Receivers
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.id != 0 {
		// The target has the file too, so that closing it would not take it out of the set.
		unix.EpollCtl(all.epfd, unix.EPOLL_CTL_DEL, p.fd, nil)
	}
	p.s.Held.Remove(&p.held)
	linux.Close(p.fd) // before the target goes on: what it closes then shall be closed
	if p.id != 0 {    // after that: see Leave
		all.mu.Lock()
		delete(all.waiting, p.id)
		all.mu.Unlock()
	}
	if err := p.s.Respond(p.c.ID, out); err != nil {
		p.s.Log.Debug("answer", "tid", p.c.TID, "error", err)
	}
}
