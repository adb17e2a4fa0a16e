package target

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// Credentials are a user other than upconv's own, on whose behalf it opens a path or connects to
// it: by that user's rights, and the server sees that user as its peer. nil stands for upconv's
// own.
//
// Only the effective IDs change, and only of the calling thread, which must be locked. Its real and
// saved ones say who may send it signals and trace it, and let it come back.
type Credentials struct {
	UID, GID int
	groups   []uint32
}

// pidfdInfo is struct pidfd_info, linux/pidfd.h, of Linux 6.13.
type pidfdInfo struct {
	mask, cgroup                                     uint64
	pid, tgid, ppid                                  uint32
	ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                         int32
}

const (
	pidfdGetInfo   = 0xc040ff0b // PIDFD_GET_INFO with that size
	pidfdInfoCreds = 1 << 1     // PIDFD_INFO_CREDS
)

// CredentialsOf returns the credentials by which a thread opens files, nil if its IDs are upconv's
// own.
func (t *Threads) CredentialsOf(tid int) (*Credentials, unix.Errno) {
	uid, gid, ok := t.fileIDs(tid)
	if ok && uid == own.UID && gid == own.GID {
		return nil, 0
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return nil, linux.ErrnoOf(err)
	}
	c := &Credentials{}
	if c.UID, c.GID, c.groups, ok = idsIn(status); !ok {
		return nil, unix.EIO
	}
	if c.UID == own.UID && c.GID == own.GID {
		return nil, 0
	}
	return c, 0
}

// idsIn returns the IDs that count for files, and the supplementary groups, in a proc_pid_status(5)
// text.
func idsIn(status []byte) (uid, gid int, groups []uint32, ok bool) {
	fields := func(key string) [][]byte {
		_, rest, _ := bytes.Cut(status, []byte("\n"+key))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		return bytes.Fields(line)
	}
	const fileSystem = 3 // behind real, effective and saved
	uids, gids := fields("Uid:"), fields("Gid:")
	if len(uids) <= fileSystem || len(gids) <= fileSystem {
		return 0, 0, nil, false
	}
	uid, errUID := strconv.Atoi(string(uids[fileSystem]))
	gid, errGID := strconv.Atoi(string(gids[fileSystem]))
	for _, field := range fields("Groups:") {
		group, err := strconv.ParseUint(string(field), 10, 32)
		if err != nil {
			return 0, 0, nil, false
		}
		groups = append(groups, uint32(group))
	}
	return uid, gid, groups, errUID == nil && errGID == nil
}

// fileIDs returns the IDs of a thread that count for files. ok is false where the kernel does not
// tell them with one call.
func (t *Threads) fileIDs(tid int) (uid, gid int, ok bool) {
	slot := t.slot(tid)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	var info pidfdInfo
	ask := func() unix.Errno {
		info.mask = pidfdInfoCreds
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(slot.pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		return errno
	}
	if slot.tid != tid || ask() == unix.ESRCH {
		if t.fill(slot, tid) != 0 || ask() != 0 {
			return 0, 0, false
		}
	}
	return int(info.fsuid), int(info.fsgid), info.mask&pidfdInfoCreds != 0 && info.tgid != 0
}

// Become has the calling thread act as c until revert. On error it acts as before.
func (c *Credentials) Become() unix.Errno {
	if c == nil {
		return 0
	}
	errno := setGroups(c.groups)
	if errno == 0 {
		if errno = setEffective(unix.SYS_SETRESGID, c.GID); errno == 0 {
			errno = setEffective(unix.SYS_SETRESUID, c.UID)
		}
		if errno != 0 {
			c.Revert()
		}
	}
	return errno
}

// Revert undoes become. A thread that cannot come back must not go on.
func (c *Credentials) Revert() {
	if c == nil {
		return
	}
	if setEffective(unix.SYS_SETRESUID, own.UID) != 0 || setEffective(unix.SYS_SETRESGID, own.GID) != 0 || setGroups(own.groups) != 0 {
		panic("upconv cannot return to its own user")
	}
}

// own are upconv's own.
var own = func() (c Credentials) {
	c.UID, c.GID = os.Geteuid(), os.Getegid()
	groups, _ := os.Getgroups()
	for _, group := range groups {
		c.groups = append(c.groups, uint32(group))
	}
	return c
}()

const unchanged = ^uintptr(0) // for setresuid(2)

var _ = [1]struct{}{}[unsafe.Sizeof(pidfdInfo{})-64]

// setEffective calls setresuid(2) or setresgid(2) for the effective ID of the calling thread alone.
func setEffective(call uintptr, id int) unix.Errno {
	_, _, errno := unix.RawSyscall(call, unchanged, uintptr(id), unchanged)
	return errno
}

// setGroups sets the supplementary groups of the calling thread alone.
func setGroups(groups []uint32) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	return errno
}
