package target

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// What helps where upconv may not look into a program.
const (
	cureUser   = "start upconv behind what changes the user (su-exec USER upconv run -- ...), or give it CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
	cureDump   = "make the executable readable for its user (chmod +r), or give upconv CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
	CureThread = "use a kernel since 6.9, and a profile that allows pidfd_open with PIDFD_THREAD"
	cureElse   = "give upconv CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
)

// WhyForbidden returns why upconv may not look into a thread, and what helps: ptrace(2), "Ptrace
// access mode checking".
func WhyForbidden(tid int) (why, cure string) {
	path := "/proc/" + strconv.Itoa(tid) + "/status"
	status, err := os.ReadFile(path)
	var stat unix.Stat_t
	if err != nil || unix.Stat(path, &stat) != nil {
		return "its /proc cannot be read (hidepid, or it has ended)", cureUser
	}
	uids, gids := statusIDs(status, "Uid:"), statusIDs(status, "Gid:")
	return forbiddenBy(uids, gids, os.Getuid(), os.Getgid(), int(stat.Uid))
}

// forbiddenBy is WhyForbidden for a process with the given user and group IDs (real, effective,
// saved) when upconv has uid and gid. owner is that of the process's files in /proc: root's, where
// the process may not be dumped (proc(5)).
func forbiddenBy(uids, gids []int, uid, gid, owner int) (why, cure string) {
	other := func(ids []int, own int) bool {
		return slices.ContainsFunc(ids, func(id int) bool { return id != own })
	}
	switch {
	case other(uids, uid):
		return fmt.Sprintf("it runs as another user (%d) than upconv (%d)", uids[1], uid), cureUser
	case other(gids, gid):
		return fmt.Sprintf("it runs as another group (%d) than upconv (%d)", gids[1], gid), cureUser
	case owner != uid:
		return "it may not be dumped (its user may not read its executable, or it has asked for that by PR_SET_DUMPABLE)", cureDump
	}
	return "it has capabilities that upconv has not, may not be dumped, or a security module forbids it (kernel.yama.ptrace_scope)", cureElse
}

// statusIDs returns the real, the effective and the saved ID of a proc_pid_status(5) text.
func statusIDs(status []byte, key string) (ids []int) {
	_, rest, _ := bytes.Cut(status, []byte("\n"+key))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	for _, field := range bytes.Fields(line) {
		if id, err := strconv.Atoi(string(field)); err == nil && len(ids) < 3 {
			ids = append(ids, id)
		}
	}
	return ids
}
