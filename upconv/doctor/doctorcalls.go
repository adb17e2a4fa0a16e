package doctor

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/openfile"
)

// helperCall is a call of upconv's that a filter around it may refuse, and that is tried without
// changing anything.
type helperCall struct {
	name   string // as manual pages name it
	try    func() unix.Errno
	needed bool
	cost   string // what it costs that it is refused
	cure   string // what lets a container have it
}

// helperCalls are those that are not among required. docs/containers.md has what becomes of each.
var helperCalls = []helperCall{
	{name: "kcmp(2)", try: tryKcmp,
		cost: "each connect takes some microseconds longer: /proc tells what kcmp(2) would",
		cure: "add --cap-add SYS_PTRACE to the container, or use a profile that allows kcmp"},
	{name: "ptrace(2)", try: tryPtrace,
		cost: "threads that wait for datagrams while another one's send moves their socket wait for the old one, and\n" +
			"programs that have restricted themselves (Landlock) may connect nowhere",
		cure: "add --cap-add SYS_PTRACE to the container, or use a profile that allows ptrace"},
	{name: "unshare(2)", try: tryUnshare, needed: true,
		cost: "upconv run fails here: neither it nor close_range(2) is allowed",
		cure: "use a profile that allows close_range"},
	{name: "setns(2)", try: trySetns,
		cost: "netns:NAME and --netns cannot be used (--isolate and netns:host can)",
		cure: "add --cap-add SYS_ADMIN to the container"},
	{name: "prlimit64(2)", try: tryPrlimit,
		cost: "a program that has lowered its limit of open files below its descriptors sees connect fail",
		cure: "use a profile that allows prlimit64"},
	{name: "sched_setaffinity(2)", try: tryAffinity,
		cost: "each connect takes some microseconds longer",
		cure: "use a profile that allows sched_setaffinity"},
	{name: "fchown(2)", try: tryOwner,
		cost: "the owner and the mode of a socket may not be carried over",
		cure: "use a profile that allows fchown and fchmod"},
	{name: "signalfd(2)", try: trySignalfd,
		cost: "of several real-time signals of one kind the command may get one",
		cure: "use a profile that allows signalfd4"},
	{name: "sockets of SOCK_RAW", try: tryRaw,
		cost: "datagrams that come for a socket that has been moved wait until the program sends there again",
		cure: "use a profile that allows socket with SOCK_RAW, and give upconv CAP_NET_RAW in the network namespace"},
	{name: "sock_diag(7)", try: trySockDiag,
		cost: "bind(2) says EADDRINUSE also of ports that strangers have in an egress, if the program has had them there",
		cure: "use a profile that allows socket with AF_NETLINK"},
	{name: "netlink sockets", try: tryNetlink, needed: true,
		cost: "upconv run fails here: which addresses are local cannot be told",
		cure: "use a profile that allows socket with AF_NETLINK"},
	{name: "PR_SET_PDEATHSIG", try: tryDeathSignal, needed: true,
		cost: "upconv run fails here: the command could outlive upconv",
		cure: "use a profile that allows prctl"},
}

func (h *helperCall) check() Check {
	if errno := h.try(); errno != 0 {
		return Check{Name: h.name, Needed: h.needed, Found: errno.Error(), Cost: h.cost + ";\n" + h.cure}
	}
	return Check{Name: h.name, OK: true, Needed: h.needed, Found: "works"}
}

func tryKcmp() unix.Errno {
	self := uintptr(unix.Getpid())
	_, _, errno := unix.RawSyscall6(unix.SYS_KCMP, self, self, 0 /* KCMP_FILE */, 2, 2, 0)
	if errno == unix.EBADF { // without standard error
		return 0
	}
	return errno
}

// noProcess is a pid that no process has: PID_MAX_LIMIT, linux/threads.h, is less.
const noProcess = 1<<22 + 1

func tryPtrace() unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, noProcess, 0, 0, 0, 0)
	return unlessExpected(errno, unix.ESRCH)
}

func tryUnshare() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_UNSHARE, 0, 0, 0)
	if _, _, other := unix.RawSyscall(unix.SYS_CLOSE_RANGE, openfile.LastFD, openfile.LastFD, 0); other == 0 {
		return 0
	}
	return errno
}

func trySetns() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SETNS, ^uintptr(0), unix.CLONE_NEWNET, 0)
	return unlessExpected(errno, unix.EBADF)
}

func tryPrlimit() unix.Errno {
	var limit unix.Rlimit
	_, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, uintptr(unix.Getpid()), unix.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&limit)), 0, 0)
	return errno
}

func tryAffinity() unix.Errno {
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return linux.ErrnoOf(err)
	}
	return linux.SetAffinity(&cpus)
}

func tryNetlink() unix.Errno { return trySocket(unix.AF_NETLINK, unix.NETLINK_ROUTE) }

func trySockDiag() unix.Errno { return trySocket(unix.AF_NETLINK, unix.NETLINK_SOCK_DIAG) }

func tryRaw() unix.Errno { return trySocket(unix.AF_INET, unix.IPPROTO_RAW) }

// trySocket makes a raw socket, of which AF_NETLINK knows no other.
func trySocket(domain, proto int) unix.Errno {
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err == nil {
		unix.Close(fd)
	}
	return linux.ErrnoOf(err)
}

func tryOwner() unix.Errno {
	if errno := unlessExpected(linux.ErrnoOf(unix.Fchown(-1, -1, -1)), unix.EBADF); errno != 0 {
		return errno
	}
	return unlessExpected(linux.ErrnoOf(unix.Fchmod(-1, 0)), unix.EBADF)
}

func trySignalfd() unix.Errno {
	fd, err := unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return linux.ErrnoOf(err)
}

// tryDeathSignal sets the signal to what it is.
func tryDeathSignal() unix.Errno {
	var signal int32
	if _, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(signal), 0)
	return errno
}

func unlessExpected(errno, expected syscall.Errno) unix.Errno {
	if errno == expected {
		return 0
	}
	return errno
}

// checkPtrace is about which processes upconv may look into, where ptrace(2) and its like are
// allowed.
func checkPtrace(scope string) Check {
	c := Check{Name: "ptrace access", OK: true, Found: "CAP_SYS_PTRACE: to every program"}
	if linux.HasCapability(unix.CAP_SYS_PTRACE) {
		return c
	}
	const others = "programs that change their user under upconv (su-exec, the workers of a server that starts as root), and those\n" +
		"whose executable their user may not read, are not served, their calls stay native: start upconv behind the\n" +
		"change of user, chmod +r, or give upconv CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
	c.Found, c.Cost = "to programs of the same user only", others
	switch scope {
	case "", "0":
	case "1":
		c.Found = "to descendants of the same user only (kernel.yama.ptrace_scope=1)"
		c.Cost = "orphaned descendants of the command become children of upconv's supervisor instead of init;\n" + others
	default:
		c.OK, c.Needed = false, true
		c.Found = "kernel.yama.ptrace_scope=" + scope
		c.Cost = "upconv cannot look at a command without CAP_SYS_PTRACE: its calls would stay as they are"
	}
	return c
}

// checkTaskLimit is about how many processes and threads there may be.
func checkTaskLimit() Check {
	c := Check{Name: "processes and threads", Needed: true, OK: true, Found: fmt.Sprintf("%d more can be had, which is what upconv run takes", tasksNeeded)}
	if err := CheckTasks(); err != nil {
		c.OK, c.Found, c.Cost = false, err.Error(), "upconv run fails here"
	}
	return c
}

// checkSights is about BPF: looking at sockets, and being told of signals. The errors are those of
// trying it.
func checkSights(err, signals error) Check {
	switch {
	case err == nil && signals == nil:
		return Check{Name: "BPF", OK: true, Found: "looks at sockets in the kernel, and is told of signals (CAP_BPF, CAP_PERFMON, BTF, Linux 6.14)"}
	case err == nil:
		return Check{Name: "BPF", OK: true, Found: "looks at sockets in the kernel, but is not told of signals: " + signals.Error(),
			Cost: "a signal for a thread whose call upconv waits for may be noticed half a second late"}
	}
	c := Check{Name: "BPF", Found: err.Error(), Cost: "each connect takes some microseconds longer, and a few rare things about a socket cannot be seen:\nsee docs/fidelity.md"}
	privileged := linux.HasCapability(unix.CAP_SYS_ADMIN) || linux.HasCapability(unix.CAP_BPF) && linux.HasCapability(unix.CAP_PERFMON)
	switch {
	case !IsRefusal(err):
	case !privileged:
		c.Cost += "; it takes CAP_BPF and CAP_PERFMON (docker run --cap-add BPF --cap-add PERFMON)"
	default:
		c.Cost += "; a seccomp filter refuses bpf(2) (podman run --cap-add SYS_ADMIN), or the kernel is locked down"
	}
	return c
}
