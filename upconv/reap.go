package upconv

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// reap waits for the command and returns its exit status, and the signal that ended it or 0. It
// tells the front process when the command stops.
func (p *process) reap() (status, sig int) {
	for {
		var info siginfo
		// WNOWAIT: as long as the command is not reaped, its pid cannot become another process's.
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED|unix.WNOWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return ExitFailed, 0 // ECHILD: cannot be, the command is a child
		}
		if int(info.pid) == p.canary.pid && info.code == cldStopped {
			consume(p.canary.pid, unix.WSTOPPED)
			p.node.LookNow() // the command is to stop as well
			p.canary.wake()
			continue
		}
		if int(info.pid) != p.command { // an orphan; or a thread, as below
			consume(int(info.pid), unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED)
			continue
		}
		switch info.code {
		case cldTrapped: // which this process is about to let go again, see nudge
			consume(p.command, unix.WSTOPPED)
		case cldStopped:
			consume(p.command, unix.WSTOPPED)
			p.absorb()
			p.commandStopped.Store(true)
			p.stops.Add(1)
			p.say.Encode(report{Stopped: int(info.status)})
		case cldContinued:
			consume(p.command, unix.WCONTINUED)
			p.absorb()
			p.commandStopped.Store(false)
			go p.rouse() // it may have been the command alone that somebody has continued
		default:
			p.mu.Lock()
			p.reaped = true
			unix.Wait4(p.command, nil, 0, nil)
			p.mu.Unlock()
			p.commandStopped.Store(false)
			p.rouse() // it has died from being stopped
			if info.code == cldExited {
				return int(info.status), 0
			}
			return ExitSignal + int(info.status), int(info.status)
		}
	}
}

// consume takes what waitid(2) has told of a child with WNOWAIT, if it is one of options and still
// so. wait4(2) would take its death too, should it have been continued and have died since.
func consume(pid, options int) {
	unix.Waitid(unix.P_PID, pid, nil, options|unix.WNOHANG, nil)
}

// siginfo is siginfo_t of a child, sigaction(2), on 64-bit Linux.
type siginfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

// si_code of SIGCHLD, sigaction(2).
const (
	cldExited = 1 + iota
	cldKilled
	cldDumped
	cldTrapped
	cldStopped
	cldContinued
)

// reapAll takes the exit statuses of all children, and tells of each, until there is none: the
// front process's supervisor, the supervisor's last descendants and, in the first process of a
// container, every orphan.
func reapAll(ended func(pid int)) {
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err == nil {
			ended(pid)
		} else if err != unix.EINTR {
			return // ECHILD
		}
	}
}
