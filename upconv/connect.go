package upconv

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connect handles a stopped connect(2): it decides from one copy of the address, and where the
// destination takes another way puts an equivalent socket under the target's descriptor and
// connects that.
//
// Whatever upconv has nothing to say about goes on as it stands, so that the kernel itself gives
// the native result: bad pointers and descriptors, other families, sockets in other states.
func (w *worker) connect(c *call) outcome {
	began := w.now()

	// One copy of the address decides and is what is connected to: the target's other threads can
	// change the original at any time.
	sa := w.sockaddr[:c.addrLen]
	if errno := readMemory(c.tid, c.addr, sa); errno != 0 {
		if errno == unix.EPERM {
			w.s.unserved(c.tid, "its memory cannot be read", errno)
		}
		return carryOn
	}
	family, dst, ok := destination(sa)
	if !ok {
		return carryOn
	}
	decision := w.s.policy.Decide(dst, TCP, w.s.origin.assigned)
	e := event{began: began, call: "connect", c: c, dst: dst, proto: TCP, decision: decision}
	if decision.Route.Kind == Direct {
		// Nobody is harmed if another thread changes the address of this call: the socket is one
		// of the origin, from where nothing else can be reached than what the program may reach.
		w.s.events.record(&e, 0)
		return carryOn
	}

	old, errno := w.s.targets.getfd(c.tid, c.fd)
	switch errno {
	case 0:
	case unix.EPERM:
		w.s.unserved(c.tid, "its descriptors cannot be fetched", errno)
		return carryOn
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return w.fail(&e, "pidfd_getfd", errno)
	default: // EBADF; or ESRCH, and nobody will read the answer
		return carryOn
	}
	w.done = append(w.done, old)
	sock := &w.socketInfo
	if !examine(old, sock) || sock.domain != family {
		return carryOn // not TCP; or EISCONN, EALREADY, the wait for a connect already begun, a wrong family
	}
	if sock.netns != w.s.origin.cookie && !w.s.isEgress(sock.netns) {
		return carryOn // the target went to a namespace of its own: not ours there
	}
	if decision.Route.Kind == Reject {
		w.s.events.record(&e, decision.Route.Errno)
		return answer(decision.Route.Errno)
	}
	egress := w.s.egress[decision.Route.Target]
	if sock.netns == egress.cookie && sock.netns != w.s.origin.cookie {
		return w.again(c, &e, old, sock, sa)
	}
	return w.swap(c, &e, old, sock, egress, sa)
}

// swap replaces the target's socket old by one made in the egress and connects that to sa.
func (w *worker) swap(c *call, e *event, old int, sock *socket, egress *egress, sa []byte) outcome {
	cloexec, errno := closeOnExec(c.tid, c.fd, w.path[:])
	if w.s.targets.makeRoom(errno) {
		cloexec, errno = closeOnExec(c.tid, c.fd, w.path[:])
	}
	switch errno {
	case 0:
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return w.fail(e, "open /proc/TID/fdinfo/FD", errno)
	case unix.ENOENT, unix.ESRCH: // closed meanwhile, so EBADF; or the target is gone
		return carryOn
	default:
		w.s.unserved(c.tid, "its descriptors cannot be read in /proc", errno)
		return carryOn
	}
	replacement, errno := w.socket(egress, sock.domain, sock.proto)
	if errno != 0 {
		return w.fail(e, "socket in "+e.decision.Route.String(), errno)
	}
	w.done = append(w.done, replacement)
	w.used = sock.domain
	if errno := w.s.origin.defaultsOf(sock.domain).copyOptions(old, replacement, sock.domain); errno != 0 {
		return w.fail(e, "setsockopt", errno)
	}
	if errno := sock.bindLike(replacement, w.s.origin.cookie); errno != 0 {
		return w.fail(e, "bind", errno)
	}

	places := w.registrations(c, old)

	// Install first, connect second: installing puts the socket into the target's net_cls and net_prio
	// cgroups, and its first packet must already carry them.
	if errno := w.install(c, replacement, cloexec); errno != 0 {
		if errno == unix.ENOENT || errno == unix.ESRCH {
			return carryOn // the target is gone; nobody will read the answer
		}
		return w.fail(e, "SECCOMP_IOCTL_NOTIF_ADDFD", errno)
	}
	out := w.begin(c, e, replacement, sock, sa)
	if len(places) > 0 {
		// Only now: before, a poll of the socket would have said EPOLLHUP.
		w.register(c, places, old, replacement)
	}
	return out
}

// again connects a socket that is one of the egress already, from an earlier connect(2) that has failed or
// whose result is still to be fetched.
func (w *worker) again(c *call, e *event, fd int, sock *socket, sa []byte) outcome {
	if sock.flags&unix.O_NONBLOCK == 0 {
		setFlags(fd, sock.flags|unix.O_NONBLOCK) // until begin gives its flags back
	}
	return w.begin(c, e, fd, sock, sa)
}

// begin connects a non-blocking socket of the egress, which the target has as its own, gives it the status
// flags of the target's socket, and says what the target is to see.
func (w *worker) begin(c *call, e *event, fd int, sock *socket, sa []byte) outcome {
	errno := connect(fd, sa)
	e.local = fd
	if sock.flags&unix.O_NONBLOCK != 0 {
		setFlags(fd, sock.flags)
		w.s.events.record(e, underWay(errno))
		return answer(errno)
	}
	if errno == unix.EINPROGRESS {
		// Over a fast network the handshake may be over. Then a second connect fetches its result and
		// leaves the socket as a blocking connect would have.
		errno = connect(fd, sa)
	}
	if errno == unix.EALREADY {
		if timeout := sendTimeout(fd); timeout != 0 {
			// The kernel would wait, but at the end say EALREADY for EINPROGRESS. So upconv does.
			w.done = w.done[:len(w.done)-1] // the wait owns it
			return outcome{wait: w.s.newWait(c, e, fd, sock.flags, timeout, sa)}
		}
	}
	setFlags(fd, sock.flags)
	w.s.events.record(e, underWay(errno))
	if errno == unix.EALREADY {
		// The target's own connect(2) now runs, on a socket in SYN_SENT: the kernel ignores the address
		// it passes and waits as for any other, with signals, restarts and errors its own.
		return carryOn
	}
	return answer(errno)
}

// sendTimeout returns SO_SNDTIMEO: how long connect(2) may take, 0 for as long as it wants.
func sendTimeout(fd int) time.Duration {
	var timeout unix.Timeval
	getsockopt(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, unsafe.Pointer(&timeout), unsafe.Sizeof(timeout))
	return time.Duration(timeout.Nano())
}

// fail answers that upconv itself could not do something, and says so.
func (w *worker) fail(e *event, doing string, errno unix.Errno) outcome {
	w.s.warn("connect: "+doing+" failed; the program sees the error", "dst", e.dst, "tid", e.c.tid, "error", errno)
	w.s.events.record(e, errno)
	return answer(errno)
}

// underWay turns the errnos that say "not finished, and nothing is wrong" into success, for events.
func underWay(errno unix.Errno) unix.Errno {
	if errno == unix.EINPROGRESS || errno == unix.EALREADY {
		return 0
	}
	return errno
}

func connect(fd int, sa []byte) unix.Errno {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// now is the time a call was taken up, where anybody wants to know.
func (w *worker) now() time.Time {
	if w.s.events == nil {
		return time.Time{}
	}
	return time.Now()
}
