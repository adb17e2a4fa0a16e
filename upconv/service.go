package upconv

import (
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// service is what systemd has told the front process in its environment: systemd.exec(5),
// sd_notify(3).
type service struct {
	// Notify is the address that messages of sd_notify(3) go to, as in NOTIFY_SOCKET, where upconv
	// is to hand them on; else "".
	Notify string
	// Managed says that systemd itself has started the front process, and looks at how it ends.
	Managed bool
}

// The variables of systemd's that upconv has something to do with.
const (
	notifySocket = "NOTIFY_SOCKET"
	execPID      = "SYSTEMD_EXEC_PID" // since systemd 248
	listenPID    = "LISTEN_PID"
	listenPidfd  = "LISTEN_PIDFDID" // inode number of a pidfd, since systemd 258
	watchdogPID  = "WATCHDOG_PID"
)

// readService finds out what an environment says to the process with a given pid.
func readService(environ []string, pid int) service {
	var s service
	started := getenv(environ, execPID)
	s.Managed = started == strconv.Itoa(pid)
	notify := getenv(environ, notifySocket)
	// systemd counts the messages of any process that it has not started itself alike: those need
	// no help.
	if (started == "" || s.Managed) && (strings.HasPrefix(notify, "/") || strings.HasPrefix(notify, "@")) {
		s.Notify = notify
	}
	return s
}

// getenv returns the value of a variable in an environment: the first, as getenv(3) does.
func getenv(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// blank is a place in an environment for a value that is not known before its process is there.
type blank struct {
	entry int // index in the environment
	name  string
}

// maxBlanks is how many there may be: a variable can be there more than once, and only the first
// counts.
const maxBlanks = 16

// blanks finds the variables that name the process with a given pid, which was started where the
// command should have been: their values are to name the command. What names another process is
// left as it is. With notifies NOTIFY_SOCKET is one, too.
func blanks(environ []string, pid int, notifies bool) (found []blank) {
	for i, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		is := false
		switch name {
		case listenPID, watchdogPID, execPID:
			is = value == strconv.Itoa(pid)
		case listenPidfd:
			is = value == pidfdInode(pid)
		case notifySocket:
			is = notifies
		}
		if is && len(found) < maxBlanks {
			found = append(found, blank{i, name})
		}
	}
	return found
}

// fillBlanks gives the variables their values: of the new process, which must not have gone on to
// execve(2) yet, and the address for NOTIFY_SOCKET.
func (p *forkPlan) fillBlanks(pid int, notify string) {
	for i, b := range p.blanks {
		value := strconv.Itoa(pid)
		switch b.name {
		case listenPidfd:
			value = pidfdInode(pid)
		case notifySocket:
			value = notify
		}
		copy(p.report.variables[i][:], b.name+"="+value+"\x00")
	}
}

// pidfdInode returns the inode number of the pidfds of a process in digits, which no other process
// ever has (since Linux 6.9). It is "0" if there is no such process.
func pidfdInode(pid int) string {
	var stat unix.Stat_t
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		unix.Fstat(fd, &stat)
		unix.Close(fd)
	}
	return strconv.FormatUint(stat.Ino, 10)
}

// groupSpread is how long systemd may take from a signal to its main process, which is the first to
// get it, to the same signal to all others of the service: where it can be asked, and where not.
const (
	groupSpread        = 2 * time.Second
	groupSpreadUnasked = 250 * time.Millisecond
)

// sentToAll reports whether a signal that the front process got went to the command too, and waits
// for that to be known where systemd may have sent it to one process after the other
// (KillMode=control-group).
func (p *process) sentToAll(sig unix.Signal) bool {
	all := p.toTheGroup(sig)
	if !p.order.Service.Managed || sig >= unix.Signal(len(p.passed)) || sig == unix.SIGCONT || stopsGroup(sig) {
		return all
	}
	now := time.Now()
	again := now.Sub(p.passed[sig]) < groupMemory
	p.passed[sig] = now
	switch {
	case all || again: // a sender of many is not systemd, and is not held up
	case p.relay != nil:
		p.relay.awaitManager(groupSpread)
		all = p.toTheGroup(sig)
	default:
		for !all && time.Since(now) < groupSpreadUnasked {
			time.Sleep(groupSpreadUnasked / 100)
			all = p.toTheGroup(sig)
		}
	}
	return all
}

// endBySignal ends this process by a signal, without a core file. It returns where that cannot be,
// as in the first process of a PID namespace.
func endBySignal(sig unix.Signal) {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	var dfl kernelSigaction // SIG_DFL
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
	unix.PthreadSigmask(unix.SIG_UNBLOCK, sigset(signalMask([]unix.Signal{sig})), nil)
	unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
}
