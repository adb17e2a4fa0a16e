package calls

import (
	"encoding/binary"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/guard"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// A bind(2) or listen(2) of a thread that shares its descriptors is made by upconv, on its own
// copy: the kernel would look the number up again, and another thread may have put a socket of an
// egress there.
//
// Once somebody has restricted himself, bind(2) of streams and to paths is left to the kernel, as
// the rules are about who makes it; and that of other families as long as no socket is in an
// egress.

// guardBind makes a bind(2) that is left to the kernel, if it must not be. It is raced if the
// socket is one that has to be brought back first.
func (w *Worker) guardBind(c *session.Call) session.Outcome {
	fd, out := w.copyToBind(c)
	switch {
	case out.IsRaced() && (c.AddrLen < linux.SizeofSockaddrIn || c.AddrLen > linux.SizeofSockaddrStorage): // wherever it is
		return session.Answer(unix.EINVAL)
	case !out.IsUndecided():
		return out
	}
	domain := linux.DomainOf(fd)
	if domain == 0 { // no socket
		return session.Answer(linux.Bind(fd, make([]byte, linux.SizeofFamily)))
	}
	if c.AddrLen > linux.SizeofSockaddrStorage {
		return session.Answer(unix.EINVAL)
	}
	sa := w.Sockaddr[:c.AddrLen]
	if len(sa) > 0 && target.ReadMemory(c.TID, c.Addr, sa) != 0 {
		return session.Answer(unix.EFAULT)
	}
	switch restricted := w.s.Restricted.Any.Load(); {
	case restricted && (linux.TypeOf(fd) == unix.SOCK_STREAM && linux.IsInet(domain) || domain == unix.AF_UNIX && guard.IsUnixPath(sa)),
		!linux.IsInet(domain) && !w.s.Swapped.Load():
		w.CloseNow(fd)
		return session.CarryOn
	case !linux.IsInet(domain):
		return w.BindOther(c, fd, sa)
	}
	errno := w.bindFor(c.TID, fd, sa)
	w.CloseNow(fd)
	return session.Answer(errno)
}

// guardListen is guardBind for listen(2).
func (w *Worker) guardListen(c *session.Call) session.Outcome {
	fd, out := w.copyToBind(c)
	if !out.IsUndecided() {
		return out
	}
	var as *target.Credentials // whom those who connect to a Unix socket see
	if domain := linux.DomainOf(fd); !linux.IsInet(domain) && domain != 0 {
		errno := unix.Errno(0)
		if as, errno = w.s.Targets.CredentialsOf(c.TID); errno != 0 || !w.s.Swapped.Load() || as.Become() != 0 {
			w.CloseNow(fd)
			return session.CarryOn
		}
	}
	_, _, errno := unix.Syscall(unix.SYS_LISTEN, uintptr(fd), uintptr(int32(c.Args[1])), 0)
	as.Revert()
	w.CloseNow(fd)
	return session.Answer(errno)
}

// copyToBind returns a copy of a file whose bind(2) or listen(2) must not be left to the kernel. If
// out is not undecided there is none, and out is as for guardBind.
func (w *Worker) copyToBind(c *session.Call) (fd int, out session.Outcome) {
	if !w.Guards(c) {
		return -1, session.CarryOn
	}
	e := w.NewEvent(c, policy.TCP)
	if fd, out = w.Fetch(c, &e); !out.IsUndecided() {
		return -1, out
	}
	if netns := linux.NetnsCookie(fd); w.s.InEgress(netns) && !w.LivesIn(c.TID, netns) && !linux.IsConnected(fd) {
		w.CloseNow(fd)
		return -1, session.Raced
	}
	return fd, session.Undecided
}

// bindFor binds a socket as the thread tid may: to a low port only if that has the privilege.
func (w *Worker) bindFor(tid, fd int, sa []byte) unix.Errno {
	if len(sa) < linux.SizeofSockaddrIn {
		return unix.EINVAL
	}
	port := binary.BigEndian.Uint16(sa[2:])
	if port == 0 || w.bindsLow(tid) {
		return linux.Bind(fd, sa)
	}
	if w.s.Origin.Closed && port < firstOrdinaryPort { // upconv's user owns that namespace, and may all there
		return unix.EACCES
	}
	before, errno := linux.DropEffective(unix.CAP_NET_BIND_SERVICE)
	if errno != 0 {
		return errno
	}
	errno = linux.Bind(fd, sa)
	linux.SetCapabilities(&before)
	return errno
}

// firstOrdinaryPort is the first that everybody may bind to in a new namespace: PROT_SOCK,
// net/sock.h.
const firstOrdinaryPort = 1024

// bindsLow reports whether a thread has CAP_NET_BIND_SERVICE where its sockets are.
func (w *Worker) bindsLow(tid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	effective, same := target.EffectiveOf(tid, status)
	return err == nil && (same || w.s.Origin.Closed) && effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}

// freeLimit is how long a bind(2) waits for those whose targets have been killed.
const freeLimit = time.Second

// bind handles a stopped bind(2).
func (w *Worker) bind(c *session.Call) session.Outcome {
	for w.s.Receivers.FreePort(c) {
		if !w.MayWait() {
			return session.AsideBy(bindAnew)
		}
		if time.Since(c.Since) > freeLimit || w.Aside.Stop.Happened() != 0 {
			break
		}
		time.Sleep(50 * time.Microsecond)
	}
	if w.s.Companions.Any() {
		var sa [4]byte // sin_family and sin_port; no port if it cannot be read
		target.ReadMemory(c.TID, c.Args[1], sa[:])
		w.s.Companions.FreePort(sa[:])
	}
	if w.Collides(c) {
		return session.Answer(unix.EADDRINUSE)
	}
	if w.s.Needs.Netns {
		return w.bindAtSocket(c)
	}
	return session.CarryOn
}

// listen handles a stopped listen(2).
func (w *Worker) listen(c *session.Call) session.Outcome {
	for range session.MaxRaces {
		out := w.toOrigin(c)
		if !out.CarriesOn() {
			return out
		}
		if out := w.guardListen(c); !out.IsRaced() {
			return out
		}
	}
	return session.Answer(unix.EBADF)
}
