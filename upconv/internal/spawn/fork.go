package spawn

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/doctor"
	"github.com/upconv/upconv/upconv/internal/birth"
	"github.com/upconv/upconv/upconv/internal/openfile"
)

// RuntimeBeforeFork, RuntimeAfterFork and RuntimeAfterForkInChild are the runtime's own
// preparations for fork(2), as package syscall uses them: all signals are blocked around the clone,
// and the child gets default handlers and the mask that this process started with.
//
//go:linkname RuntimeBeforeFork syscall.runtime_BeforeFork
func RuntimeBeforeFork()

//go:linkname RuntimeAfterFork syscall.runtime_AfterFork
func RuntimeAfterFork()

//go:linkname RuntimeAfterForkInChild syscall.runtime_AfterForkInChild
func RuntimeAfterForkInChild()

// Plan is everything that a new process does between clone(2) and execve(2). All memory it
// needs is there before: the child cannot allocate.
type Plan struct {
	paths    []*byte // files to try, as execvp(3) does
	Denied   bool    // one was left out that is EACCES
	argv     **byte
	scriptSh *byte   // /bin/sh, and
	scriptAv []*byte // its arguments but for [1], the file, for one that execve(2) calls ENOEXEC
	envv     **byte
	Blanks   []blank // in the environment: see FillBlanks

	CloneFlags uintptr // besides SIGCHLD
	UIDMap     []byte  // with CLONE_NEWUSER
	GIDMap     []byte
	Loopback   bool // bring lo up, with CLONE_NEWNET
	Netns      int  // namespace to enter, or -1

	Keep    []Kept // descriptors that are to survive execve(2)
	Null    int    // /dev/null, which is to have all numbers from 3 up to
	Reserve int    // this one that execve(2) leaves free; see openfile.Free
	ignored uint64 // signals to ignore, bit N-1 for signal N
	Blocked uint64 // signal mask
	nofile  *unix.Rlimit
	closed  uint8 // standard descriptors to close, by bit
	Parent  int   // die with this process (PR_SET_PDEATHSIG); 0: do not

	Supervised  bool // install the filter, make the origin's sockets, wait for the word to go on
	Partners    bool // make them twice: see origin.grow
	Notifies    bool // and make a socket for messages to systemd
	NoNewPrivs  bool
	Filter      *unix.SockFprog
	Flags       uintptr // of seccomp(2)
	Ready, GoOn int     // pipes: the child writes a byte to Ready at each step; it reads one from GoOn

	Report *Report // in memory shared with the child
}

// Kept is a descriptor that survives execve(2) under a number that is neither any other's nor
// /dev/null's.
type Kept struct{ FD, At int }

// Report is written by the child, but for the variables.
type Report struct {
	Step                           int32 // what it was doing
	Errno                          int32
	Listener, Inet, Inet6, Netlink int32
	Partner, Partner6              int32 // AF_INET and AF_INET6 once more
	Notify                         int32

	variables [maxBlanks][160]byte // of the environment, as NAME=VALUE, with a NUL behind
}

// The steps of a child, for errors: what Report.Step is.
const (
	stepNone = iota
	stepMap
	stepLoopback
	StepNetns
	stepFD
	stepLimits
	stepParent
	stepPrivs
	StepFilter
	stepSockets
	stepWait
	stepFiles
	StepExec
)

// NewReport maps a page that a child shares. unmap releases it.
func NewReport() (r *Report, unmap func(), err error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return (*Report)(unsafe.Pointer(&page[0])), func() { unix.Munmap(page) }, nil
}

var (
	procSetgroups = []byte("/proc/self/setgroups\x00")
	procUIDMap    = []byte("/proc/self/uid_map\x00")
	procGIDMap    = []byte("/proc/self/gid_map\x00")
	deny          = []byte("deny")
)

// Sigaction is struct sigaction as rt_sigaction(2) takes it, on amd64 and arm64.
type Sigaction struct{ handler, flags, restorer, mask uint64 }

// Fork clones this process and runs the plan in the child. It returns the child's pid.
//
// With CLONE_FILES in the plan's flags the descriptors that the child opens are this process's too,
// until the child's execve(2): that is how the listener gets here without being sent. From the
// clone on, the child may do nothing that needs the runtime: no allocation, no growing stack, no
// calls but raw system calls. (All of it is in one function: a call would check the stack.)
//
//go:noinline
//go:norace
//go:nocheckptr
func (p *Plan) Fork() (pid int, err error) {
	var (
		r1, fd    uintptr
		errno     syscall.Errno
		other     syscall.Errno
		sig       uintptr
		ignore    = Sigaction{handler: 1} // SIG_IGN
		one       byte
		ifreq     [40]byte // struct ifreq: name, then flags
		files     = [3]*byte{&procSetgroups[0], &procUIDMap[0], &procGIDMap[0]}
		texts     = [3]*byte{&deny[0], nil, nil}
		lengths   = [3]uintptr{uintptr(len(deny)), uintptr(len(p.UIDMap)), uintptr(len(p.GIDMap))}
		report    = p.Report
		i         int
		atFDCWD   = unix.AT_FDCWD
		blocked   = p.Blocked
		loopFlags = (*uint16)(unsafe.Pointer(&ifreq[16]))
	)
	copy(ifreq[:], "lo")
	*loopFlags = unix.IFF_UP
	if len(p.UIDMap) > 0 {
		texts[1], texts[2] = &p.UIDMap[0], &p.GIDMap[0]
	}

	syscall.ForkLock.Lock()
	RuntimeBeforeFork()
	r1, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD)|p.CloneFlags, 0, 0, 0, 0, 0)
	if errno != 0 || r1 != 0 {
		RuntimeAfterFork()
		syscall.ForkLock.Unlock()
		runtime.KeepAlive(p)
		if errno != 0 {
			return 0, os.NewSyscallError("clone", errno)
		}
		return int(r1), nil
	}

	// The child.
	RuntimeAfterForkInChild()
	if p.CloneFlags&unix.CLONE_NEWUSER != 0 {
		report.Step = stepMap
		for i = 0; i < 3; i++ {
			fd, _, errno = syscall.RawSyscall6(unix.SYS_OPENAT, uintptr(atFDCWD), uintptr(unsafe.Pointer(files[i])), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
			if errno != 0 {
				goto fail
			}
			if _, _, errno = syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(texts[i])), lengths[i]); errno != 0 {
				goto fail
			}
			syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
	}
	if p.Loopback {
		report.Step = stepLoopback
		if fd, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); errno != 0 {
			goto fail
		}
		if _, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifreq))); errno != 0 {
			goto fail
		}
		syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	if p.Netns >= 0 {
		report.Step = StepNetns
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETNS, uintptr(p.Netns), unix.CLONE_NEWNET, 0); errno != 0 {
			goto fail
		}
	}
	for i = 0; i < len(p.Keep); i++ {
		report.Step = stepFD
		if _, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.Keep[i].FD), uintptr(p.Keep[i].At), 0); errno != 0 {
			goto fail
		}
	}
	for fd = 3; fd < uintptr(p.Reserve); fd++ {
		// All but those that execve(2) passes on.
		r1, _, errno = syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_GETFD, 0)
		if errno == 0 && r1&unix.FD_CLOEXEC == 0 {
			continue
		}
		if fd == uintptr(p.Null) {
			syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_SETFD, 0)
		} else {
			syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.Null), fd, 0)
		}
	}
	if p.Parent != 0 {
		report.Step = stepParent
		if _, _, errno = syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0); errno != 0 {
			goto fail
		}
		if r1, _, _ = syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); int(r1) != p.Parent {
			goto exit // it died before it was asked for
		}
	}

	if p.Supervised {
		report.Step = stepSockets
		if r1, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); errno != 0 {
			goto fail
		}
		report.Netlink = int32(r1)
		if r1, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); errno != 0 {
			goto fail
		}
		report.Inet = int32(r1)
		if r1, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); errno == 0 {
			report.Inet6 = int32(r1) // else: a kernel without IPv6
		}
		if p.Partners {
			if r1, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); errno != 0 {
				goto fail
			}
			report.Partner = int32(r1)
			if r1, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); errno == 0 {
				report.Partner6 = int32(r1)
			}
		}

		if p.Notifies {
			if r1, _, errno = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); errno != 0 {
				goto fail
			}
			report.Notify = int32(r1)
		}

		if p.NoNewPrivs {
			report.Step = stepPrivs
			if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
				goto fail
			}
		}
		report.Step = StepFilter
		if r1, _, errno = syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, p.Flags, uintptr(unsafe.Pointer(p.Filter))); errno != 0 {
			goto fail
		}
		report.Listener = int32(r1)

		report.Step = stepWait
		syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.Ready), uintptr(unsafe.Pointer(&one)), 1)
		for {
			r1, _, errno = syscall.RawSyscall(unix.SYS_READ, uintptr(p.GoOn), uintptr(unsafe.Pointer(&one)), 1)
			if errno != syscall.EINTR {
				break
			}
		}
		if errno != 0 || r1 != 1 {
			goto fail
		}
		// From here on the descriptors are this process's own.
		if _, _, errno = syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_FILES, 0, 0); errno != 0 {
			report.Step = stepFiles
			if _, _, other = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, openfile.LastFD, openfile.LastFD, openfile.CloseRangeUnshare); other != 0 { // see unshareFiles
				goto fail
			}
		}
		syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.Ready), uintptr(unsafe.Pointer(&one)), 1)
	}

	report.Step = stepLimits
	for i = 0; i < 3; i++ {
		if p.closed&(1<<i) != 0 {
			syscall.RawSyscall(unix.SYS_CLOSE, uintptr(i), 0, 0)
		}
	}
	if p.nofile != nil {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(p.nofile)), 0, 0, 0); errno != 0 {
			goto fail
		}
	}
	for sig = 1; sig <= 64; sig++ {
		if p.ignored&(1<<(sig-1)) != 0 {
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
		}
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&blocked)), 0, 8, 0, 0)

	report.Step = StepExec
	for i = 0; i < len(p.paths); i++ {
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.paths[i])), uintptr(unsafe.Pointer(p.argv)), uintptr(unsafe.Pointer(p.envv)))
		if errno == syscall.ENOEXEC {
			p.scriptAv[1] = p.paths[i]
			_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.scriptSh)), uintptr(unsafe.Pointer(&p.scriptAv[0])), uintptr(unsafe.Pointer(p.envv)))
		}
		if errno == syscall.EACCES {
			p.Denied = true
		} else if errno != syscall.ENOENT && errno != syscall.ESTALE && errno != syscall.ENOTDIR && errno != syscall.ENODEV && errno != syscall.ETIMEDOUT {
			goto fail // triesOn, written out
		}
	}
	if p.Denied {
		errno = syscall.EACCES
	}

fail:
	report.Errno = int32(errno)
exit:
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// StepError says what a child could not do.
func (r *Report) StepError(p *Plan) error {
	errno := unix.Errno(r.Errno)
	switch r.Step {
	case stepMap:
		return fmt.Errorf("a user namespace for the command: write its maps: %w", errno)
	case stepLoopback:
		return fmt.Errorf("bring up lo in the command's network namespace: %w", errno)
	case StepNetns:
		return fmt.Errorf("enter the command's network namespace: %w", errno)
	case stepParent:
		return fmt.Errorf("prctl(2) PR_SET_PDEATHSIG: %w", errno)
	case stepPrivs:
		return fmt.Errorf("prctl(2) PR_SET_NO_NEW_PRIVS: %w", errno)
	case stepLimits:
		return fmt.Errorf("give the command its limit of open files: prlimit64(2): %w", errno)
	case StepFilter:
		return seccompx.InstallError(errno, p.Flags)
	case stepSockets:
		return fmt.Errorf("a socket in the command's network namespace: %w", errno)
	case stepFiles:
		return fmt.Errorf("a descriptor table for the command: unshare(2): %w", errno)
	case StepExec:
		return errno
	}
	return fmt.Errorf("start the command (step %d): %w", r.Step, errno)
}

// Inherit has the child be given what this process was given at its start.
func (p *Plan) Inherit(b *birth.Record) {
	p.ignored, p.Blocked, p.closed = b.Ignored, b.Blocked, b.Closed
	if b.Exact {
		p.nofile = &unix.Rlimit{Cur: b.NoFile[0], Max: b.NoFile[1]}
	}
}

// Command fills in what is executed: the first of files that can be. argv[0] is the name the
// program sees; environ is passed on as it is.
func (p *Plan) Command(files, argv, environ []string) (err error) {
	pointers := func(strings []string) (list []*byte) {
		if err == nil {
			list, err = syscall.SlicePtrFromStrings(strings)
		}
		return list
	}
	paths, args, env := pointers(files), pointers(argv), pointers(environ)
	script := pointers(append([]string{"/bin/sh", ""}, argv[1:]...))
	if err != nil {
		return err
	}
	for i, b := range p.Blanks {
		env[b.entry] = &p.Report.variables[i][0]
	}
	p.paths, p.argv, p.envv = paths[:len(files)], &args[0], &env[0]
	p.scriptSh, p.scriptAv = script[0], script
	return nil
}

// stepCalls are the calls of a child between clone(2) and execve(2) that a filter may refuse.
var stepCalls = map[int32]string{
	stepLoopback: "ioctl(2)", stepParent: "prctl(2)", stepLimits: "prlimit64(2)", stepPrivs: "prctl(2)",
	stepSockets: "socket(2) with AF_NETLINK and AF_INET", stepFiles: "unshare(2) or close_range(2)",
}

// RefusedStep adds to an error of a child's step, if a filter may be behind it, what helps.
func RefusedStep(step int32, err error) error {
	call := stepCalls[step]
	if call == "" || !doctor.IsRefusal(err) {
		return err
	}
	return fmt.Errorf("%w: %s refuses it: use a profile that allows %s", err, doctor.AFilter, call)
}
