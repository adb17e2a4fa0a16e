package upconv

import (
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/spawn"
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

// readService finds out what an environment says to the process with a given pid.
func readService(environ []string, pid int) service {
	var s service
	started := getenv(environ, spawn.ExecPID)
	s.Managed = started == strconv.Itoa(pid)
	notify := getenv(environ, spawn.NotifySocket)
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
	var dfl spawn.Sigaction // SIG_DFL
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
	unix.PthreadSigmask(unix.SIG_UNBLOCK, sigset(signalMask([]unix.Signal{sig})), nil)
	unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
}
