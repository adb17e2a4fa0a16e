package guard

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// A Unix socket that is bound to a path makes a file. Where upconv makes the bind(2) in the place
// of the kernel, that file is as if the program had made it: its owner, its mode and its place. The
// socket keeps the name, which others are told, so upconv cannot use another path to the same
// place: it makes the call on a thread that has the program's root, working directory and umask.

// BindOther makes a bind(2) on fd, a copy of a socket that is not one of IPv4 or IPv6, and closes
// the copy.
func (w *Worker) BindOther(c *session.Call, fd int, sa []byte) session.Outcome {
	if !IsUnixPath(sa) || linux.DomainOf(fd) != unix.AF_UNIX {
		errno := target.WithCapabilitiesOf(c.TID, func() unix.Errno { return bindAny(fd, sa) })
		w.CloseNow(fd)
		return session.Answer(errno)
	}
	if !w.MayWait() {
		w.CloseNow(fd)
		return session.Aside
	}
	errno := w.bindPath(c.TID, fd, sa)
	w.CloseNow(fd)
	return session.Answer(errno)
}

// bindAny is linux.Bind for an address of any length.
func bindAny(fd int, sa []byte) unix.Errno {
	if len(sa) == 0 {
		return unix.EINVAL
	}
	return linux.Bind(fd, sa)
}

// IsUnixPath reports whether an address is that of a Unix socket in the file system.
func IsUnixPath(sa []byte) bool {
	return len(sa) > linux.SizeofFamily && binary.NativeEndian.Uint16(sa) == unix.AF_UNIX && sa[linux.SizeofFamily] != 0
}

// bindPath binds the Unix socket fd to a path of the thread tid's. The calling thread is not used
// for anything else any more.
func (w *Worker) bindPath(tid, fd int, sa []byte) unix.Errno {
	proc := "/proc/" + strconv.Itoa(tid)
	as, errno := w.s.Targets.CredentialsOf(tid)
	if errno != 0 {
		return errno
	}
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return linux.ErrnoOf(err)
	}
	sa = namedBy(tid, sa)
	if sa, errno = w.liveLike(proc, target.StatusField(status, "Umask:", 8), sa); errno != 0 {
		return errno
	}
	effective, same := target.EffectiveOf(tid, status)
	if !same {
		effective = 0
	}
	before, errno := linux.LimitEffective(func(all uint64) uint64 { return all & (effective | becomes) })
	if errno != 0 {
		return errno
	}
	defer linux.SetCapabilities(&before)
	if errno := as.Become(); errno != 0 {
		return errno
	}
	defer as.Revert()
	return linux.Bind(fd, sa)
}

// becomes are the capabilities that Become and Revert need. Who has become another user than root
// has none in effect.
const becomes = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID

// liveLike gives the calling thread, and no other, the root, the working directory and the umask of
// a thread, whose directory in /proc is given. It returns the address by which the calling thread
// means the place that the other one means by sa. That is another one only if upconv may not have
// another root.
func (w *Worker) liveLike(proc string, umask int, sa []byte) ([]byte, unix.Errno) {
	cwd, err := unix.Open(proc+"/cwd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, linux.ErrnoOf(err)
	}
	defer linux.Close(cwd)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, linux.ErrnoOf(err)
	}
	w.Altered = true
	unix.Umask(umask)
	path := string(bytes.TrimRight(sa[linux.SizeofFamily:], "\x00"))
	if target.SameRoot(proc+"/") || unix.Chroot(proc+"/root") == nil || !filepath.IsAbs(path) {
		return sa, linux.ErrnoOf(unix.Fchdir(cwd))
	}
	parent, errno := openInRoot(proc, filepath.Dir(path))
	if errno != 0 {
		return nil, errno
	}
	defer linux.Close(parent)
	var there, here unix.Stat_t
	if unix.Fstat(parent, &there) == nil && unix.Stat(filepath.Dir(path), &here) == nil && there.Dev == here.Dev && there.Ino == here.Ino {
		return sa, 0
	}
	return append(append([]byte{}, sa[:linux.SizeofFamily]...), filepath.Base(path)...), linux.ErrnoOf(unix.Fchdir(parent))
}

// openInRoot opens a directory that a thread means by an absolute path.
func openInRoot(proc, path string) (fd int, errno unix.Errno) {
	root, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, linux.ErrnoOf(err)
	}
	defer linux.Close(root)
	fd, err = unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	return fd, linux.ErrnoOf(err)
}

// namedBy returns an address whose path does not depend on who uses it: /proc/self is another
// process for upconv. A path that gets too long stays, and leads nowhere.
func namedBy(tid int, sa []byte) []byte {
	path := string(sa[linux.SizeofFamily:])
	for _, self := range []string{"/proc/self/", "/proc/thread-self/"} {
		rest, is := strings.CutPrefix(path, self)
		if !is {
			continue
		}
		rest = strings.TrimRight(rest, "\x00")
		named := "/proc/" + strconv.Itoa(tid) + "/" + rest
		if len(named) > linux.MaxUnixName {
			named = "/proc/0/" + rest
		}
		return append(append([]byte{}, sa[:linux.SizeofFamily]...), named...)
	}
	return sa
}
