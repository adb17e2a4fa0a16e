package spawn

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NotifySocket, ExecPID and the others are variables of systemd's that upconv has something to do
// with.
const (
	NotifySocket = "NOTIFY_SOCKET"
	ExecPID      = "SYSTEMD_EXEC_PID" // since systemd 248
	listenPID    = "LISTEN_PID"
	listenPidfd  = "LISTEN_PIDFDID" // inode number of a pidfd, since systemd 258
	watchdogPID  = "WATCHDOG_PID"
)

// blank is a place in an environment for a value that is not known before its process is there.
type blank struct {
	entry int // index in the environment
	name  string
}

// maxBlanks is how many there may be: a variable can be there more than once, and only the first
// counts.
const maxBlanks = 16

// Blanks finds the variables that name the process with a given pid, which was started where the
// command should have been: their values are to name the command. What names another process is
// left as it is. With notifies NOTIFY_SOCKET is one, too.
func Blanks(environ []string, pid int, notifies bool) (found []blank) {
	for i, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		is := false
		switch name {
		case listenPID, watchdogPID, ExecPID:
			is = value == strconv.Itoa(pid)
		case listenPidfd:
			is = value == pidfdInode(pid)
		case NotifySocket:
			is = notifies
		}
		if is && len(found) < maxBlanks {
			found = append(found, blank{i, name})
		}
	}
	return found
}

// FillBlanks gives the variables their values: of the new process, which must not have gone on to
// execve(2) yet, and the address for NOTIFY_SOCKET.
func (p *Plan) FillBlanks(pid int, notify string) {
	for i, b := range p.Blanks {
		value := strconv.Itoa(pid)
		switch b.name {
		case listenPidfd:
			value = pidfdInode(pid)
		case NotifySocket:
			value = notify
		}
		copy(p.Report.variables[i][:], b.name+"="+value+"\x00")
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
