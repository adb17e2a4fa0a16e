//go:build linux

package nsdial

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// socket(2) hardly ever waits, so a few threads serve any number of callers;
// more than one because it can wait, for a protocol's module to be loaded.
const maxMakers = 4

// maxIdle is how many threads stay when they have no function to run.
const maxIdle = 2

// request is one socket to be made. It is pooled, channel included.
type request struct {
	family, typ, proto int

	fd   int
	err  error
	done chan struct{} // has room for one, so that answering never waits
	used uint
}

// yieldEvery bounds how long callers of handOver can keep others from running.
const yieldEvery = 16

var requests = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

// Socket makes a socket in the namespace, as socket(2) does: family (AF_*), typ
// (SOCK_*, with SOCK_NONBLOCK if wanted) and proto (IPPROTO_*, in host byte order
// save for AF_PACKET). SOCK_CLOEXEC is always added. The descriptor is the
// caller's.
//
// What the kernel has against such a socket is returned as a bare [unix.Errno].
// Any other error is about the namespace: it cannot be entered (fs.ErrPermission),
// or the Namespace was closed (net.ErrClosed).
//
// The socket is made on a thread that lives in the namespace: the calling one,
// if it does, or one of a few that are kept for this.
func (n *Namespace) Socket(family, typ, proto int) (int, error) {
	if n.closed.Load() {
		return -1, n.errClosed()
	}
	typ |= unix.SOCK_CLOEXEC
	if fd, ok := n.socketHere(family, typ, proto); ok {
		return fd, nil
	}
	return n.handOver(family, typ, proto)
}

// socketHere makes the socket on the calling thread if that seems to live in the
// namespace, which saves two thread switches, and asks the socket where it
// ended up: only that is certain, whatever thread this is and whatever was done
// to it. A refusal is left for the threads to repeat, for here it might be
// another namespace's.
func (n *Namespace) socketHere(family, typ, proto int) (int, bool) {
	how := (*n.here.Load())[unix.Gettid()]
	if how == 0 && !n.home {
		return -1, false
	}
	cookie, err := n.Cookie()
	if err != nil {
		return -1, false
	}
	fd, err := unix.Socket(family, typ, proto)
	if err != nil {
		return -1, false
	}
	if c, err := cookieOf(fd); err != nil || c != cookie {
		unix.Close(fd)
		return -1, false
	}
	return fd, true
}

// handOver has the socket made by one of the makers.
func (n *Namespace) handOver(family, typ, proto int) (int, error) {
	r := requests.Get().(*request)
	r.family, r.typ, r.proto = family, typ, proto
	select {
	case n.requests <- r: // a maker was waiting
	default:
		if err := n.queue(r); err != nil {
			requests.Put(r)
			return -1, err
		}
	}
	// Whoever took the request answers it, even while the Namespace is closed.
	<-r.done
	fd, err := r.fd, r.err
	r.err = nil
	r.used++
	yield := r.used%yieldEvery == 0
	requests.Put(r)
	if yield {
		// A goroutine that a channel wakes runs next, before those that wait for
		// their turn, and should not for longer than a time slice; but a switch to
		// a locked thread starts the slice anew (Go 1.26). So if every processor is
		// busy with somebody who makes socket after socket, nobody else ever runs.
		// Go to the end of the queue now and then. Requests are pooled by
		// processor, which makes this count one for each.
		runtime.Gosched()
	}
	return fd, err
}

// queue is handOver when no maker waits: there is none yet, or all are busy.
func (n *Namespace) queue(r *request) error {
	busy := n.makers.Load() > 0
	if err := n.ready(); err != nil {
		return err
	}
	if busy && n.makers.Load() < maxMakers {
		if n.makers.Add(1) > maxMakers {
			n.makers.Add(-1)
		} else {
			// The others are there to serve r should this one not come up.
			go func() {
				if n.startMaker() != nil {
					n.makers.Add(-1)
				}
			}()
		}
	}
	select {
	case n.requests <- r:
		return nil
	case <-n.done:
		return n.errClosed()
	}
}

// ready returns once there is a maker, or why there cannot be one.
func (n *Namespace) ready() error {
	if n.closed.Load() {
		return n.errClosed()
	}
	if n.makers.Load() > 0 {
		return nil
	}
	n.starting.Lock()
	defer n.starting.Unlock()
	if n.makers.Load() > 0 {
		return nil
	}
	if err := n.startMaker(); err != nil {
		return err
	}
	// Not before it has started, or others would wait for one that never comes.
	n.makers.Add(1)
	return nil
}

func (n *Namespace) startMaker() error {
	return n.startThread(func() {
		for {
			select {
			case r := <-n.requests:
				r.fd, r.err = unix.Socket(r.family, r.typ, r.proto)
				r.done <- struct{}{}
			case <-n.done:
				return
			}
		}
	})
}

// startThread runs work on a thread of its own in the namespace, and returns
// when it is about to. The thread ends when work returns.
func (n *Namespace) startThread(work func()) error {
	n.mu.RLock()
	if n.closed.Load() {
		n.mu.RUnlock()
		return n.errClosed()
	}
	n.threads.Add(1) // not after Close has begun to wait
	n.mu.RUnlock()
	started := make(chan error, 1)
	go n.thread(started, work)
	return <-started
}

func (n *Namespace) thread(started chan<- error, work func()) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	if tid == unix.Getpid() {
		// The runtime parks the main thread where it would end another: it would
		// stay in the namespace for ever, in the sight of /proc/PID/ns/net. While
		// it is locked to this goroutine, another one must be somewhere else.
		moved := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(moved)
			n.thread(started, work)
		}()
		<-moved
		runtime.UnlockOSThread()
		return
	}
	defer n.threads.Done()
	if err := n.enter(); err != nil {
		// A failed setns has changed nothing: the runtime can have the thread back.
		runtime.UnlockOSThread()
		started <- err
		return
	}
	// From here on the thread is of no use to anybody else. It stays locked, so
	// that the runtime ends it with this goroutine.
	n.settle(tid, resident)
	defer n.leave(tid)
	started <- nil
	work()
}

// call is one function to be run.
type call struct {
	fn       func() error
	err      error
	panicked *PanicError
	exited   bool // by runtime.Goexit
	done     chan struct{}
}

// PanicError is what Do panics with when its function did.
type PanicError struct {
	Value any    // what the function panicked with
	Stack []byte // where, for that goroutine is gone
}

// Error shows the value and the stack of the function's goroutine.
func (p *PanicError) Error() string {
	return fmt.Sprintf("nsdial: function panicked: %v\n\n%s", p.Value, p.Stack)
}

// Unwrap returns the value if it is an error.
func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Do runs fn on a thread that lives in the namespace, waits for it, and returns
// its error; or, without having run it, why that thread could not be had, as
// Socket does.
//
// Only fn's own goroutine is there. One that fn starts is not, which includes
// those that the standard library starts: use DialContext, Listen and
// ListenPacket instead of package net. What fn makes belongs to the namespace
// and may be returned: sockets, netlink handles, and started processes, whose
// network it becomes.
//
// Do never waits for another Do, so fn may take as long as it likes. Do within
// fn runs on the same thread. If fn panics, so does Do, with a *PanicError; if it
// calls runtime.Goexit (as testing.T.FailNow does), so does Do. fn must not
// unlock the thread. If fn moves it to another namespace, the thread ends after it.
func (n *Namespace) Do(fn func() error) error {
	if n.closed.Load() {
		return n.errClosed()
	}
	if n.onOwnThread() && n.stillHere() {
		return fn()
	}
	c := &call{fn: fn, done: make(chan struct{})}
	select {
	case n.calls <- c:
	default:
		if err := n.startThread(func() { n.serve(c) }); err != nil {
			return err
		}
	}
	<-c.done
	runtime.Gosched() // see handOver
	switch {
	case c.panicked != nil:
		panic(c.panicked)
	case c.exited:
		runtime.Goexit()
	}
	return c.err
}

// serve runs c and then what else comes, as long as the thread is as it was.
func (n *Namespace) serve(c *call) {
	for c.run() && n.stillHere() {
		if n.idle.Add(1) > maxIdle {
			n.idle.Add(-1)
			return
		}
		select {
		case c = <-n.calls:
			n.idle.Add(-1)
		case <-n.done:
			n.idle.Add(-1)
			return
		}
	}
}

// run reports whether fn returned.
func (c *call) run() (returned bool) {
	defer func() {
		if !returned {
			if v := recover(); v != nil {
				c.panicked = &PanicError{v, debug.Stack()}
			} else {
				c.exited = true
			}
		}
		close(c.done)
	}()
	c.err = c.fn()
	return true
}

func (n *Namespace) stillHere() bool {
	current, err := currentID()
	// Without /proc fn is to be trusted.
	return err != nil || current == n.id
}

// onOwnThread tells whether the caller is a function run by Do: nobody else is
// on a thread of ours, for they are locked.
func (n *Namespace) onOwnThread() bool {
	return (*n.here.Load())[unix.Gettid()] == resident
}

// Close ends the threads and closes the descriptor of the namespace. It waits for
// the functions that Do still runs, and for the threads to be gone, so that
// nothing of this Namespace keeps the namespace alive afterwards; sockets that
// were made in it are not its own and do. Called from a function run by Do, it
// cannot wait for that, and returns at once.
//
// Later uses of the Namespace return net.ErrClosed, except that Close returns nil
// however often, and from however many goroutines, it is called.
func (n *Namespace) Close() error {
	n.mu.Lock()
	if !n.closed.Load() {
		n.closed.Store(true)
		close(n.done)
		go n.finish()
	}
	n.mu.Unlock()
	if !n.onOwnThread() {
		<-n.finished
	}
	return nil
}

func (n *Namespace) finish() {
	n.threads.Wait()
	n.mu.Lock()
	unix.Close(n.fd) // of a namespace, which has nothing to flush: cannot fail
	n.fd = -1
	ending := n.ending
	n.mu.Unlock()
	// The goroutines are done; their threads are a few instructions from their
	// end, of which there is no notice that every kernel gives. The limit is for
	// a thread that a debugger holds.
	limit := time.Now().Add(time.Second)
	for _, tid := range ending {
		for pause := 10 * time.Microsecond; !ended(tid) && time.Now().Before(limit); pause *= 2 {
			time.Sleep(pause)
		}
	}
	close(n.finished)
}
