package crossing

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

// UnixPath is a struct sockaddr_un, and whose rights count on the way there.
type UnixPath struct {
	Raw    [2 + policy.MaxUnixPath + 1]byte
	Length int
	File   int                 // owned: the socket file, where the name goes through a descriptor; or -1
	As     *target.Credentials // whose rights count; valid after Open or Find
}

// Sockaddr returns the address, which is valid as long as p does not change.
func (p *UnixPath) Sockaddr() []byte { return p.Raw[:p.Length] }

// set makes a path, or @ and an abstract name, the address.
func (p *UnixPath) set(name string) {
	p.Raw, p.File = [2 + policy.MaxUnixPath + 1]byte{}, -1
	*(*uint16)(unsafe.Pointer(&p.Raw)) = unix.AF_UNIX
	p.Length = 2 + copy(p.Raw[2:], name)
	if name[0] == '@' {
		p.Raw[2] = 0
	} else {
		p.Length++ // the byte of zero
	}
}

// Open has p be the address of the socket that a route leads to, for the thread tid and by its
// rights: who may write a directory of the path could lead upconv anywhere. What it opens, Close
// closes.
func (p *UnixPath) Open(targets *target.Threads, route *policy.Route, tid int) (errno unix.Errno) {
	p.set(route.Target)
	if p.As, errno = targets.CredentialsOf(tid); errno != 0 {
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
	if errno := p.As.Become(); errno != 0 {
		return errno
	}
	defer p.As.Revert()
	// Symbolic links, absolute ones too, must not lead out of there.
	file, err := unix.Openat2(root, route.Target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return linux.ErrnoOf(err)
	}
	p.set(fmt.Sprintf("/proc/thread-self/fd/%d", file))
	p.File = file
	return 0
}

// Find has p be the address that the thread tid means by sa, which is one of a Unix socket: by its
// rights, its root and its working directory. What it opens, Close closes.
func (p *UnixPath) Find(targets *target.Threads, tid int, sa []byte) (errno unix.Errno) {
	p.File, p.Length = -1, len(sa)
	p.Raw = [len(p.Raw)]byte{}
	if p.As, errno = targets.CredentialsOf(tid); errno != 0 {
		return errno
	}
	if len(sa) > 2+linux.MaxUnixName {
		return unix.EINVAL
	}
	copy(p.Raw[:], sa)
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
	same := target.SameRoot(proc)
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
	if errno = p.As.Become(); errno != 0 {
		return errno
	}
	defer p.As.Revert()
	file, err := unix.Openat2(directory, path, &how)
	if err != nil {
		return linux.ErrnoOf(err)
	}
	p.set(fmt.Sprintf("/proc/thread-self/fd/%d", file))
	p.File = file
	return 0
}

// Connect connects the Unix socket fd to the address, by the rights of p.As.
func (p *UnixPath) Connect(fd int) unix.Errno {
	if errno := p.As.Become(); errno != 0 {
		return errno
	}
	defer p.As.Revert()
	return linux.Connect(fd, p.Sockaddr())
}

// Close closes what Open or Find has opened.
func (p *UnixPath) Close() {
	if p.File >= 0 {
		linux.Close(p.File)
		p.File = -1
	}
}
