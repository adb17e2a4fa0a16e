package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/policy"
)

// unixPath is a struct sockaddr_un.
type unixPath struct {
	raw    [2 + policy.MaxUnixPath + 1]byte
	length int
	file   int                 // the socket file, where the name goes through a descriptor; or -1
	as     *target.Credentials // whose rights count; valid after open
}

func (p *unixPath) sa() []byte { return p.raw[:p.length] }

func (p *unixPath) set(name string) {
	p.raw, p.file = [2 + policy.MaxUnixPath + 1]byte{}, -1
	*(*uint16)(unsafe.Pointer(&p.raw)) = unix.AF_UNIX
	p.length = 2 + copy(p.raw[2:], name)
	if name[0] == '@' {
		p.raw[2] = 0
	} else {
		p.length++ // the byte of zero
	}
}

// open finds the socket of a route, for the thread tid and by its rights: who may write a directory
// of the path could lead upconv anywhere. What it opens, close closes.
func (p *unixPath) open(targets *target.Threads, route *policy.Route, tid int) (errno unix.Errno) {
	p.set(route.Target)
	if p.as, errno = targets.CredentialsOf(tid); errno != 0 {
		return errno
	}
	if !route.TargetRoot {
		return 0
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", tid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return linux.ErrnoOf(err)
	}
	defer unix.Close(root)
	if errno := p.as.Become(); errno != 0 {
		return errno
	}
	defer p.as.Revert()
	// Symbolic links, absolute ones too, must not lead out of there.
	file, err := unix.Openat2(root, route.Target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return linux.ErrnoOf(err)
	}
	p.set(fmt.Sprintf("/proc/thread-self/fd/%d", file))
	p.file = file
	return 0
}

// find has p be the address that the thread tid means by sa, which is one of a Unix socket: by its
// rights, its root and its working directory. What it opens, close closes.
func (p *unixPath) find(targets *target.Threads, tid int, sa []byte) (errno unix.Errno) {
	p.file, p.length = -1, len(sa)
	p.raw = [len(p.raw)]byte{}
	if p.as, errno = targets.CredentialsOf(tid); errno != 0 {
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

// connect connects a Unix socket to it.
func (p *unixPath) connect(fd int) unix.Errno {
	if errno := p.as.Become(); errno != 0 {
		return errno
	}
	defer p.as.Revert()
	return linux.Connect(fd, p.sa())
}

func (p *unixPath) close() {
	if p.file >= 0 {
		linux.Close(p.file)
		p.file = -1
	}
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
