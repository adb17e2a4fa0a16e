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
	info, ok := t.infoOf(tid)
	return int(info.fsuid), int(info.fsgid), ok
}

// infoOf returns who a thread is. ok is as for fileIDs.
func (t *Threads) infoOf(tid int) (info pidfdInfo, ok bool) {
	slot := t.slot(tid)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	ask := func() unix.Errno {
		info.mask = pidfdInfoCreds
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(slot.pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		return errno
	}
	if slot.tid != tid || ask() == unix.ESRCH {
		if t.fill(slot, tid) != 0 || ask() != 0 {
			return info, false
		}
	}
	return info, info.mask&pidfdInfoCreds != 0 && info.tgid != 0
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

// AsUser has a thread send to a path by the rights of a user, who may be upconv's own (nil). Unlike
// Become it keeps what lets it say who has sent. AsSelf undoes it.
func (c *Credentials) AsUser() unix.Errno {
	if c == nil {
		return 0
	}
	if errno := setGroups(c.groups); errno != 0 {
		return errno
	}
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(c.GID), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(c.UID), 0, 0)
	// Neither tells whether it could, but each says what was before.
	if uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, unchanged, 0, 0); int(int32(uid)) != c.UID {
		c.AsSelf()
		return unix.EPERM
	}
	return 0
}

// AsSelf undoes AsUser.
func (c *Credentials) AsSelf() {
	if c == nil {
		return
	}
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(own.UID), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(own.GID), 0, 0)
	uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, unchanged, 0, 0)
	gid, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, unchanged, 0, 0)
	if int(int32(uid)) != own.UID || int(int32(gid)) != own.GID || setGroups(own.groups) != 0 {
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
