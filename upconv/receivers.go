package upconv

import (
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// receivers are the calls that wait for a datagram, as many as there may be. One goroutine waits
// for all of their sockets, in an epoll set of its own, and receives for them. (The runtime's
// poller takes only files that are O_NONBLOCK, which these must not become: they are the
// program's.)
type receivers struct {
	mu      sync.Mutex
	epfd    int                  // the set; 0: not made yet
	waiting map[uint64]*receiver // by what the set knows them by
	last    uint64               // of those

	moves atomic.Uint64 // of sockets that may be waited for
}

// receiver is one of them.
type receiver struct {
	mu sync.Mutex // held while anything is done for it
	reception
	id     uint64
	over   bool          // it has its answer
	limit  time.Duration // SO_RCVTIMEO; 0: none
	expiry time.Time
	timer  *time.Timer
	held   heldCall
}

// wait has a call wait for a datagram, on the socket that is its own from now on.
func (all *receivers) wait(r *reception, state receptionState) outcome {
	s := r.s
	p := &receiver{reception: *r}
	p.held.s, p.held.id, p.held.tid, p.held.end = s, r.c.id, r.c.tid, p.endWith
	p.keep()
	if state == interrupted {
		go p.goOn(false)
		return outcome{later: true}
	}
	if errno := p.register(); errno != 0 {
		closeFD(p.fd)
		s.warn(r.c.name+": it cannot wait for a datagram; the program sees the error", "tid", r.c.tid, "error", errno)
		return answer(unix.ENOMEM)
	}
	return outcome{later: true}
}

// keep has what the message refers to be its own.
func (p *receiver) keep() { p.message.vector = slices.Clone(p.message.vector) }

// register has the goroutines know of it.
func (p *receiver) register() unix.Errno {
	all := &p.s.receivers
	if errno := all.open(); errno != 0 {
		return errno
	}
	p.limit = timeoutOf(p.fd, unix.SO_RCVTIMEO)

	p.mu.Lock() // it is nobody's turn before all is in place
	defer p.mu.Unlock()
	all.mu.Lock()
	all.last++
	p.id = all.last
	if all.waiting == nil {
		all.waiting = map[uint64]*receiver{}
	}
	all.waiting[p.id] = p
	all.mu.Unlock()
	p.held.timed.Store(p.limit > 0)
	p.s.held.add(&p.held)
	if errno := p.watch(); errno != 0 {
		p.over = true
		all.mu.Lock()
		delete(all.waiting, p.id)
		all.mu.Unlock()
		p.s.held.remove(&p.held)
		return errno
	}
	if p.limit > 0 {
		p.expiry = time.Now().Add(p.limit)
		p.timer = time.AfterFunc(p.limit, p.expire)
	}
	if all.moves.Load() != p.moves { // follow may have looked before it was there
		if fd, errno := p.s.targets.getfd(p.c.tid, p.c.fd); errno == 0 {
			now := cookieOf(fd)
			closeFD(fd)
			if now != cookieOf(p.fd) {
				p.moveTo(now)
			}
		}
	}
	return 0
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
		return errnoOf(err)
	}
	all.epfd = epfd
	go all.poll()
	return 0
}

// poll receives for those whose sockets have something.
func (all *receivers) poll() {
	var b receiveBuffers
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(all.epfd, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			e := &events[i]
			all.mu.Lock()
			p := all.waiting[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
			all.mu.Unlock()
			if p == nil { // it has its answer
				continue
			}
			p.mu.Lock()
			p.ready(&b, e.Events)
			p.mu.Unlock()
		}
	}
}

// ready is for when something has happened to its socket. The caller holds mu.
func (p *receiver) ready(b *receiveBuffers, events uint32) {
	if p.over {
		return
	}
	if p.s.listener.Valid(p.c.id) != nil { // killed: what has come is for others who have the socket
		p.finish(p.end(unix.EINTR))
		return
	}
	if events&unix.EPOLLRDHUP != 0 {
		p.shutdown = true
	}
	if events&unix.EPOLLERR != 0 && p.done > 0 {
		p.finish(p.end(0)) // the error stays for the next call, as natively
		return
	}
	before := p.done
	b.ahead.count = 0 // another one's, or of long ago
	switch out, state := p.step(b); state {
	case received:
		p.finish(out)
	case interrupted:
		go p.goOn(true)
	case nothingYet:
		p.keep()
		if p.done != before && p.timer != nil { // each datagram may take that long
			p.expiry = time.Now().Add(p.limit)
			p.timer.Reset(p.limit)
		}
	}
}

// goOn receives more, for a call that has received much already.
func (p *receiver) goOn(registered bool) {
	var b receiveBuffers
	for {
		p.mu.Lock()
		if p.over {
			p.mu.Unlock()
			return
		}
		b.ahead.count = 0
		out, state := p.step(&b)
		if state == received {
			p.finish(out)
		} else {
			p.keep()
		}
		p.mu.Unlock()
		switch {
		case state == interrupted:
			if p.s.listener.Valid(p.c.id) == nil {
				continue
			}
			p.endWith(unix.EINTR)
		case state == nothingYet && !registered:
			if p.register() != 0 {
				p.mu.Lock()
				p.over = false
				p.finish(p.end(unix.ENOMEM))
				p.mu.Unlock()
			}
		}
		return
	}
}

// expire is for the end of SO_RCVTIMEO.
func (p *receiver) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	if rest := time.Until(p.expiry); rest > 0 { // a datagram came in between
		p.timer.Reset(rest)
		return
	}
	p.finish(p.end(unix.EAGAIN))
}

// endWith ends the wait with an errno.
func (p *receiver) endWith(errno unix.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.finish(p.end(errno))
	}
}

// on returns what the socket fd, which another has just taken the place of, is known by; 0 if nobody waits for datagrams.
func (all *receivers) on(fd int) (cookie uint64) {
	all.moves.Add(1)
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.waiting) == 0 || fd < 0 {
		return 0
	}
	return cookieOf(fd)
}

// follow is for a socket that another one has taken the place of in the target: those that wait for the old one, which is known by
// its cookie, wait for the new one from now on. If that is one of the program's own family, the kernel waits.
func (all *receivers) follow(s *Supervisor, cookie uint64, replacement int) {
	if cookie == 0 {
		return
	}
	all.mu.Lock()
	list := make([]*receiver, 0, len(all.waiting))
	for _, p := range all.waiting {
		list = append(list, p)
	}
	all.mu.Unlock()
	now := cookieOf(replacement)
	for _, p := range list {
		p.mu.Lock()
		if !p.over && cookieOf(p.fd) == cookie {
			p.moveTo(now)
		}
		p.mu.Unlock()
	}
}

// moveTo has it wait for the socket that its descriptor is now, if that is the one with the cookie. The caller holds mu.
func (p *receiver) moveTo(cookie uint64) {
	all := &p.s.receivers
	fd, errno := p.s.targets.getfd(p.c.tid, p.c.fd)
	if errno != 0 {
		return
	}
	if cookieOf(fd) != cookie { // the old one, in another process
		closeFD(fd)
		return
	}
	var pass passport
	family := domainOf(fd)
	if !pass.readFrom(fd, family) {
		closeFD(fd)
		if p.done > 0 {
			p.finish(p.end(0))
		} else {
			p.finish(carryOn)
		}
		return
	}
	unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(all.epfd), unix.EPOLL_CTL_DEL, uintptr(p.fd), 0, 0, 0)
	closeFD(p.fd)
	p.fd, p.family, p.pass, p.shutdown = fd, family, pass, false
	if p.watch() != 0 {
		p.finish(p.end(unix.ENOMEM))
	}
}

// watch puts the socket into the set.
func (p *receiver) watch() unix.Errno {
	// Edges, and not levels: an error queue that nobody empties would be ready all the time. What is there already counts
	// as one.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(uint32(p.id)), Pad: int32(uint32(p.id >> 32))}
	return epollAdd(p.s.receivers.epfd, p.fd, &event)
}

// leave is for a bind(2): those that wait with the port, and whose targets have been killed, give it up. That they are is else noticed
// a little later, and who starts a killed server anew would find its port taken.
func (all *receivers) leave(c *call) {
	all.mu.Lock()
	if len(all.waiting) == 0 {
		all.mu.Unlock()
		return
	}
	list := slices.Collect(maps.Values(all.waiting))
	all.mu.Unlock()
	var name [4]byte // sin_family and sin_port, or those of AF_INET6
	if readMemory(c.tid, c.args[1], name[:]) != 0 || name[2] == 0 && name[3] == 0 {
		return
	}
	for _, p := range list {
		p.mu.Lock()
		if !p.over && [2]byte(name[2:]) == portOf(p.fd) && p.s.listener.Valid(p.c.id) != nil {
			p.finish(p.end(unix.EINTR)) // nobody will read it
		}
		p.mu.Unlock()
	}
}

// portOf returns the port of an AF_INET6 socket, as it is in its address.
func portOf(fd int) (port [2]byte) {
	var name [sizeofSockaddrStorage]byte
	if socketName(fd, false, &name) && binary.NativeEndian.Uint16(name[:]) == unix.AF_INET6 {
		port = [2]byte(name[2:])
	}
	return port
}

// finish answers. The caller holds mu.
func (p *receiver) finish(out outcome) {
	all := &p.s.receivers
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.id != 0 {
		all.mu.Lock()
		delete(all.waiting, p.id)
		all.mu.Unlock()
		// The target has the file too, so that closing it would not take it out of the set.
		unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(all.epfd), unix.EPOLL_CTL_DEL, uintptr(p.fd), 0, 0, 0)
	}
	p.s.held.remove(&p.held)
	closeFD(p.fd) // before the target goes on: what it closes then shall be closed
	if err := p.s.respond(p.c.id, out); err != nil {
		p.s.log.Debug("answer", "tid", p.c.tid, "error", err)
	}
}
