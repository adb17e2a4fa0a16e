package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// A connect(2) of a Unix socket is the program's own: its server is told who has made it. But once
// a socket is in an egress, another thread could put that under the number, and an IPv4 address
// into memory. So a thread that shares its descriptors has it made by upconv then, as the program's
// user and by its rights, from its directories. Only the process ID that the server is told is
// upconv's.

// connectOther makes a connect(2) on a copy of a file that is no IPv4 or IPv6 socket.
func (w *worker) connectOther(c *call, fd, domain int) outcome {
	switch {
	case domain == 0: // no socket
		return answer(linux.Connect(fd, c.sa))
	case domain != unix.AF_UNIX:
		return w.connectAside(c, fd)
	}
	path := &w.crossing.path
	errno := path.find(w.s, c.tid, c.sa)
	if errno == 0 {
		flags, _ := linux.FlagsOf(fd)
		linux.SetFlags(fd, flags|unix.O_NONBLOCK)
		errno = path.connect(fd)
		if errno == unix.EAGAIN && w.patient(c, flags) {
			if !w.alone {
				linux.SetFlags(fd, flags)
				path.close()
				return aside((*worker).connect)
			}
			if errno = w.waitForRoom(fd, &w.crossing, linux.TimeoutOf(fd, unix.SO_SNDTIMEO)); errno == unix.EINPROGRESS {
				errno = unix.EAGAIN // its time is over
			}
		}
		linux.SetFlags(fd, flags)
	}
	path.close()
	return answer(errno)
}

// find has p be the address that the thread tid means by sa, which is one of a Unix socket: by its
// rights, its root and its working directory. What it opens, close closes.
func (p *unixPath) find(s *Session, tid int, sa []byte) (errno unix.Errno) {
	p.file, p.length = -1, len(sa)
	p.raw = [len(p.raw)]byte{}
	if p.as, errno = s.targets.CredentialsOf(tid); errno != 0 {
		return errno
	}
	if len(sa) > 2+maxUnixName {
		return unix.EINVAL
	}
	copy(p.raw[:], sa)
	name, _, _ := bytes.Cut(sa[2:], []byte{0})
	if len(name) == 0 { // an abstract one, or none
		return 0
	}
	proc := fmt.Sprintf("/proc/%d/", tid)
	path := string(name)
	for _, self := range []string{"/proc/self/", "/proc/thread-self/"} {
		if strings.HasPrefix(path, self) {
			path = proc + path[len(self):]
		}
	}
	same := sameRoot(proc)
	if same && path == string(name) && filepath.IsAbs(path) {
		return 0
	}
	base, how := proc+"cwd", unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC}
	if !same {
		if !filepath.IsAbs(path) {
			root, _ := os.Readlink(proc + "root")
			directory, err := os.Readlink(proc + "cwd")
			if err != nil {
				return linux.ErrnoOf(err)
			}
			path = "/" + strings.TrimPrefix(directory, root) + "/" + path
		}
		base, how.Resolve = proc+"root", unix.RESOLVE_IN_ROOT
	}
	directory, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return linux.ErrnoOf(err)
	}
	defer unix.Close(directory)
	if errno = p.as.Become(); errno != 0 {
		return errno
	}
	defer p.as.Revert()
	file, err := unix.Openat2(directory, path, &how)
	if err != nil {
		return linux.ErrnoOf(err)
	}
	p.set(fmt.Sprintf("/proc/thread-self/fd/%d", file))
	p.file = file
	return 0
}

// maxUnixName is how long sun_path is, unix(7).
const maxUnixName = 108

// sameRoot reports whether a thread, whose directory in /proc is given, has the root directory of
// this process.
func sameRoot(proc string) bool {
	var own, other unix.Stat_t
	mounts, errOwn := os.Readlink("/proc/self/ns/mnt")
	others, err := os.Readlink(proc + "ns/mnt")
	return errOwn == nil && err == nil && mounts == others && unix.Stat("/", &own) == nil && unix.Stat(proc+"root", &other) == nil &&
		own.Dev == other.Dev && own.Ino == other.Ino
}
