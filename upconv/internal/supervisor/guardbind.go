package supervisor

import (
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
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
func (w *callsWorker) guardBind(c *call) outcome {
	fd, out := w.copyToBind(c)
	switch {
	case out.isRaced() && (c.addrLen < linux.SizeofSockaddrIn || c.addrLen > linux.SizeofSockaddrStorage): // wherever it is
		return answer(unix.EINVAL)
	case !out.isUndecided():
		return out
	}
	domain := linux.DomainOf(fd)
	if domain == 0 { // no socket
		return answer(linux.Bind(fd, make([]byte, linux.SizeofFamily)))
	}
	if c.addrLen > linux.SizeofSockaddrStorage {
		return answer(unix.EINVAL)
	}
	sa := w.sockaddr[:c.addrLen]
	if len(sa) > 0 && target.ReadMemory(c.tid, c.addr, sa) != 0 {
		return answer(unix.EFAULT)
	}
	switch restricted := w.s.restricted.any.Load(); {
	case restricted && (linux.TypeOf(fd) == unix.SOCK_STREAM && linux.IsInet(domain) || domain == unix.AF_UNIX && isUnixPath(sa)),
		!linux.IsInet(domain) && !w.s.swapped.Load():
		w.closeNow(fd)
		return carryOn
	case !linux.IsInet(domain):
		return w.bindOther(c, fd, sa)
	}
	errno := w.bindFor(c.tid, fd, sa)
	w.closeNow(fd)
	return answer(errno)
}

// guardListen is guardBind for listen(2).
func (w *callsWorker) guardListen(c *call) outcome {
	fd, out := w.copyToBind(c)
	if !out.isUndecided() {
		return out
	}
	var as *target.Credentials // whom those who connect to a Unix socket see
	if domain := linux.DomainOf(fd); !linux.IsInet(domain) && domain != 0 {
		errno := unix.Errno(0)
		if as, errno = w.s.targets.CredentialsOf(c.tid); errno != 0 || !w.s.swapped.Load() || as.Become() != 0 {
			w.closeNow(fd)
			return carryOn
		}
	}
	_, _, errno := unix.Syscall(unix.SYS_LISTEN, uintptr(fd), uintptr(int32(c.args[1])), 0)
	as.Revert()
	w.closeNow(fd)
	return answer(errno)
}

// copyToBind returns a copy of a file whose bind(2) or listen(2) must not be left to the kernel. If
// out is not undecided there is none, and out is as for guardBind.
func (w *callsWorker) copyToBind(c *call) (fd int, out outcome) {
	if !w.guards(c) {
		return -1, carryOn
	}
	e := w.newEvent(c, policy.TCP)
	if fd, out = w.fetch(c, &e); !out.isUndecided() {
		return -1, out
	}
	if netns := linux.NetnsCookie(fd); w.s.inEgress(netns) && !w.livesIn(c.tid, netns) && !linux.IsConnected(fd) {
		w.closeNow(fd)
		return -1, raced
	}
	return fd, undecided
}

// bindFor binds a socket as the thread tid may: to a low port only if that has the privilege.
func (w *callsWorker) bindFor(tid, fd int, sa []byte) unix.Errno {
	if len(sa) < linux.SizeofSockaddrIn {
		return unix.EINVAL
	}
	port := binary.BigEndian.Uint16(sa[2:])
	if port == 0 || w.bindsLow(tid) {
		return linux.Bind(fd, sa)
	}
	if w.s.origin.Closed && port < firstOrdinaryPort { // upconv's user owns that namespace, and may all there
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
func (w *callsWorker) bindsLow(tid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	effective, same := target.EffectiveOf(tid, status)
	return err == nil && (same || w.s.origin.Closed) && effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}

// bind handles a stopped bind(2).
func (w *callsWorker) bind(c *call) outcome {
	w.s.receivers.leave(c)
	if w.s.companions.Any() {
		var sa [4]byte // sin_family and sin_port; no port if it cannot be read
		target.ReadMemory(c.tid, c.args[1], sa[:])
		w.s.companions.FreePort(sa[:])
	}
	if w.collides(c) {
		return answer(unix.EADDRINUSE)
	}
	if w.s.needs.netns {
		return w.bindAtSocket(c)
	}
	return carryOn
}
