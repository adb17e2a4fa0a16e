package target

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// Sender is who makes a send, as upconv sees it.
type Sender struct {
	PID        int
	uids, gids [3]uint32 // real, effective, saved
}

// Ucred is what a receiver is told of who says nothing himself.
func (s *Sender) Ucred() unix.Ucred {
	return unix.Ucred{Pid: int32(s.PID), Uid: s.uids[0], Gid: s.gids[0]}
}

// SenderOf returns who a thread is.
func (t *Threads) SenderOf(tid int) (of Sender, errno unix.Errno) {
	if i, ok := t.infoOf(tid); ok {
		return Sender{int(i.tgid), [3]uint32{i.ruid, i.euid, i.suid}, [3]uint32{i.rgid, i.egid, i.sgid}}, 0
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return of, linux.ErrnoOf(err)
	}
	of.PID = StatusField(status, "Tgid:", 10)
	for i, ids := range []*[3]uint32{&of.uids, &of.gids} {
		fields := statusFields(status, [...]string{"Uid:", "Gid:"}[i])
		for j := range min(len(ids), len(fields)) {
			id, _ := strconv.ParseUint(string(fields[j]), 10, 32)
			ids[j] = uint32(id)
		}
	}
	return of, 0
}

// Allow returns what a struct ucred says that the thread tid sends, whose numbers are those of the
// program's namespaces. The errno is as scm_check_creds in net/core/scm.c has it.
func (s *Sender) Allow(tid int, claim []byte) (says unix.Ucred, errno unix.Errno) {
	proc := "/proc/" + strconv.Itoa(tid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return says, linux.ErrnoOf(err)
	}
	capabilities, same := EffectiveOf(tid, status)
	says = s.Ucred()
	pid := int(int32(binary.NativeEndian.Uint32(claim)))
	pids := statusFields(status, "NStgid:")
	own := len(pids) > 0 && string(pids[len(pids)-1]) == strconv.Itoa(pid)
	switch {
	case own:
	case same && capabilities&(1<<unix.CAP_SYS_ADMIN) != 0 && len(pids) == 1:
		says.Pid = int32(pid)
	default:
		return says, unix.EPERM
	}
	for _, id := range []struct {
		says       *uint32
		claim      []byte
		own        [3]uint32
		capability uint
		mapping    string
	}{
		{&says.Uid, claim[4:], s.uids, unix.CAP_SETUID, "/uid_map"},
		{&says.Gid, claim[8:], s.gids, unix.CAP_SETGID, "/gid_map"},
	} {
		mapping, _ := os.ReadFile(proc + id.mapping)
		outside, ok := mapID(mapping, binary.NativeEndian.Uint32(id.claim))
		switch {
		case !ok:
			return says, unix.EINVAL
		case !isAmong(id.own, outside) && capabilities&(1<<id.capability) == 0:
			return says, unix.EPERM
		}
		*id.says = outside
	}
	return says, 0
}

// mapID returns which user or group an ID of another user namespace is, by its map:
// user_namespaces(7).
func mapID(mapping []byte, id uint32) (outside uint32, ok bool) {
	for line := range bytes.Lines(mapping) {
		var numbers [3]uint64 // inside, outside, how many
		fields := bytes.Fields(line)
		for i := range min(len(fields), len(numbers)) {
			numbers[i], _ = strconv.ParseUint(string(fields[i]), 10, 32)
		}
		if n := uint64(id) - numbers[0]; n < numbers[2] {
			return uint32(numbers[1] + n), true
		}
	}
	return 0, false
}

func isAmong(ids [3]uint32, id uint32) bool { return id == ids[0] || id == ids[1] || id == ids[2] }

// statusFields returns the words behind key in a proc_pid_status(5) text.
func statusFields(status []byte, key string) [][]byte {
	_, rest, _ := bytes.Cut(status, []byte("\n"+key))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return bytes.Fields(line)
}
