//go:build linux

package nsdial

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrNotNetNS is wrapped by the error of opening something that exists and is
// not a network namespace.
var ErrNotNetNS = errors.New("not a network namespace")

// threadSelf is the namespace of the calling thread. Not /proc/self, which is
// the main thread's.
const threadSelf = "/proc/thread-self/ns/net"

// netnsDirs is where ip-netns(8) keeps names. The second is what old systems
// have, where /var/run is not a link to /run.
var netnsDirs = [...]string{"/run/netns/", "/var/run/netns/"}

// A Namespace is an open network namespace, which it keeps alive until Close,
// together with the threads that live in it. It is safe for concurrent use.
type Namespace struct {
	name string
	id   nsID
	// home says that the thread which opened the namespace lived in it. It is
	// only a hint that trying a socket on the calling thread is worth it.
	home bool

	cookie   atomic.Uint64 // 0: not known yet
	noCookie atomic.Bool   // the kernel is too old to say

	dialer net.Dialer

	requests chan *request // to the threads that make sockets
	calls    chan *call    // to the threads that run functions
	done     chan struct{} // closed: all threads end
	finished chan struct{} // closed: they have ended

	closed   atomic.Bool
	makers   atomic.Int32 // threads that make sockets, running or starting
	idle     atomic.Int32 // threads that wait for a function
	starting sync.Mutex   // held while the first maker starts
	threads  sync.WaitGroup

	// here are the threads (by tid) believed to live in the namespace. The map
	// is never changed, only replaced, so that Socket can read it without a lock.
	here atomic.Pointer[map[int]residence]

	mu     sync.RWMutex // protects what follows, writes to here, and closed against threads.Add
	fd     int
	ending []int // threads that have left, and may not quite be gone
}

// nsID names a namespace while it lives.
type nsID struct{ dev, ino uint64 }

// OpenName opens a namespace by the name that `ip netns add` gave it: the file
// /run/netns/NAME, or /var/run/netns/NAME. A name that is empty or contains a
// slash is an error. An unknown name is fs.ErrNotExist; a file of that name
// which is no namespace (what is left when its bind mount is gone) is
// ErrNotNetNS. See ip-netns(8).
func OpenName(name string) (*Namespace, error) {
	label := "netns " + strconv.Quote(name)
	switch {
	case name == "":
		return nil, fmt.Errorf("%s: empty name", label)
	case name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return nil, fmt.Errorf("%s: not a name of ip-netns(8)", label)
	}
	fd, err := openNetNS(netnsDirs[0] + name)
	if errors.Is(err, fs.ErrNotExist) {
		// The error for the first directory is the one worth reading.
		if old, err2 := openNetNS(netnsDirs[1] + name); !errors.Is(err2, fs.ErrNotExist) {
			fd, err = old, err2
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	return ownNamespace(label, fd)
}

// OpenPath opens a namespace by file: a bind mount of one, or /proc/PID/ns/net.
// A path that cannot be opened gives an *fs.PathError, one that is anything else
// than a network namespace ErrNotNetNS; nothing but a namespace is ever opened,
// so a FIFO or a device at that path notices nothing. See namespaces(7).
func OpenPath(path string) (*Namespace, error) {
	fd, err := openNetNS(path)
	if err != nil {
		return nil, err
	}
	return ownNamespace("netns "+path, fd)
}

// OpenPID opens the namespace of the process (or thread) pid, as seen in the
// /proc of the caller. It takes the right to inspect that process (ptrace(2),
// PTRACE_MODE_READ_FSCREDS). A process that does not exist, or has ended and was
// not waited for, is fs.ErrNotExist or fs.ErrPermission, as the kernel has it.
// A pid may be reused between learning it and calling this: hold a pidfd and
// check it afterwards where that matters.
func OpenPID(pid int) (*Namespace, error) {
	label := "netns of pid " + strconv.Itoa(pid)
	if pid <= 0 {
		return nil, fmt.Errorf("%s: no such pid: %w", label, fs.ErrNotExist)
	}
	fd, err := openNetNS("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	return ownNamespace(label, fd)
}

// OpenCurrent opens the namespace of the calling thread, which in a program that
// does not play with its threads is that of the process. Such a Namespace needs
// no privilege.
func OpenCurrent() (*Namespace, error) {
	fd, err := openNetNS(threadSelf)
	if err != nil {
		return nil, fmt.Errorf("current netns: %w", err)
	}
	return ownNamespace("current netns", fd)
}

// OpenFD makes a Namespace of a descriptor of one, which from then on belongs to
// it and is made close-on-exec. If fd is something else (ErrNotNetNS), or no
// descriptor (EBADF), it stays the caller's.
func OpenFD(fd int) (*Namespace, error) {
	label := "netns of descriptor " + strconv.Itoa(fd)
	if err := checkNetNS(fd); err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	// An O_PATH descriptor passes every check and is of no use to setns(2).
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_PATH != 0 {
		err = fmt.Errorf("opened with O_PATH: %w", unix.EBADF)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	return newNamespace(label, fd)
}

// ownNamespace is newNamespace for a descriptor that nobody else would close.
func ownNamespace(name string, fd int) (*Namespace, error) {
	n, err := newNamespace(name, fd)
	if err != nil {
		unix.Close(fd)
	}
	return n, err
}

// newNamespace takes fd over, unless it fails.
func newNamespace(name string, fd int) (*Namespace, error) {
	id, err := idOf(fd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	n := &Namespace{
		name:     name,
		id:       id,
		fd:       fd,
		requests: make(chan *request),
		calls:    make(chan *call),
		done:     make(chan struct{}),
		finished: make(chan struct{}),
	}
	current, err := currentID()
	n.home = err == nil && current == id
	n.here.Store(new(map[int]residence))
	n.dialer = net.Dialer{
		Control: n.Control,
		Resolver: &net.Resolver{
			// The C library's resolver makes its own sockets, where it likes.
			PreferGo: true,
			Dial:     (&net.Dialer{Control: n.Control}).DialContext,
		},
	}
	return n, nil
}

// openNetNS returns a descriptor of the namespace at path.
func openNetNS(path string) (int, error) {
	// Opening a FIFO waits, opening a device may rewind a tape or arm a watchdog:
	// look first, through a descriptor that opens nothing.
	peek, err := open(path, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(peek)
	if err := checkNSFS(peek); err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	// Open what was looked at, and not what the path may have become since.
	fd, err := open("/proc/thread-self/fd/"+strconv.Itoa(peek),
		unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := checkNetNS(fd); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}

func open(path string, flags int) (int, error) {
	for {
		// EINTR is possible on network and FUSE file systems.
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// checkNSFS tells whether fd, which may be an O_PATH one, is a namespace.
func checkNSFS(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type != unix.NSFS_MAGIC {
		return ErrNotNetNS
	}
	return nil
}

// checkNetNS tells whether fd is a network namespace, by ioctl_ns(2).
func checkNetNS(fd int) error {
	if err := checkNSFS(fd); err != nil {
		return err
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == unix.EBADF {
		return nil // O_PATH: OpenFD says so
	}
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	if kind != unix.CLONE_NEWNET {
		return ErrNotNetNS
	}
	return nil
}

func idOf(fd int) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nsID{}, os.NewSyscallError("fstat", err)
	}
	return nsID{uint64(st.Dev), st.Ino}, nil
}

// currentID is the namespace of the calling thread.
func currentID() (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat(threadSelf, &st); err != nil {
		return nsID{}, &fs.PathError{Op: "stat", Path: threadSelf, Err: err}
	}
	return nsID{uint64(st.Dev), st.Ino}, nil
}

// String tells how the namespace was named, for messages: netns "blue".
func (n *Namespace) String() string { return n.name }

// FD is the descriptor of the namespace, for setns(2), nsenter and the like. It
// stays the Namespace's own, and is -1 after Close.
func (n *Namespace) FD() int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.fd
}

// Inode is the number in `net:[4026531840]`, as lsns(8) and /proc/PID/ns show it.
// The kernel may give it to another namespace once this one is gone.
func (n *Namespace) Inode() uint64 { return n.id.ino }

// Is tells whether both are the same namespace, however each was opened.
func (n *Namespace) Is(other *Namespace) bool { return n.id == other.id }

// Cookie is the number by which the kernel calls the namespace in SO_NETNS_COOKIE,
// unique until the next boot; comparing it with that of any socket tells whether
// the socket is from here. The first call makes a socket in the namespace and
// fails as Socket does; on a kernel older than 5.14 the error is
// errors.ErrUnsupported.
func (n *Namespace) Cookie() (uint64, error) {
	if n.closed.Load() {
		return 0, n.errClosed()
	}
	if c := n.cookie.Load(); c != 0 {
		return c, nil
	}
	if n.noCookie.Load() {
		return 0, n.errNoCookie()
	}
	var cookie uint64
	learn := func() (err error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: socket: %w", n, err)
		}
		defer unix.Close(fd)
		cookie, err = n.learnCookie(fd)
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if current, err := currentID(); err == nil && current == n.id {
		err := learn()
		return cookie, err
	}
	// A thread for this alone: many a caller makes no sockets afterwards, and a maker would stay.
	var failed error
	learned := make(chan struct{})
	err := n.startThread(func() {
		failed = learn()
		close(learned)
	})
	if err != nil {
		return 0, err
	}
	<-learned
	return cookie, failed
}

// learnCookie reads the cookie off a socket known to be made in the namespace.
func (n *Namespace) learnCookie(fd int) (uint64, error) {
	c, err := cookieOf(fd)
	switch {
	case err == unix.ENOPROTOOPT:
		n.noCookie.Store(true)
		return 0, n.errNoCookie()
	case err != nil:
		return 0, fmt.Errorf("%s: getsockopt SO_NETNS_COOKIE: %w", n, err)
	}
	n.cookie.Store(c)
	return c, nil
}

func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

func (n *Namespace) errNoCookie() error {
	return fmt.Errorf("%s: SO_NETNS_COOKIE not supported (requires Linux >= 5.14): %w", n, errors.ErrUnsupported)
}

// closedError is net.ErrClosed without its text, which speaks of a connection.
type closedError struct{ name string }

func (e *closedError) Error() string { return e.name + ": already closed" }
func (e *closedError) Unwrap() error { return net.ErrClosed }

func (n *Namespace) errClosed() error { return &closedError{n.name} }
