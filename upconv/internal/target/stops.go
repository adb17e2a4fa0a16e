package target

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Stops leave no pending signal to see in a thread that waits for upconv's answer. But the kernel
// has told the thread of them, as it does of a signal, and understands ERESTARTSYS (signal_wake_up
// in kernel/signal.c), also if the stop is over by then.

// GroupStopped reports whether a process of several threads is being stopped (SIGSTOP, SIGTSTP):
// one of its threads has taken the signal, and all that upconv does not hold have stopped or are
// about to. held are those that it does.
func GroupStopped(pid int, held map[int]bool) bool {
	if !held[pid] {
		switch state := stateOf(pid, pid); state {
		case 'Z', 'X', 0: // the first thread has ended
		default:
			return state == 'T'
		}
	}
	for _, tid := range ThreadsOf(pid) {
		if held[tid] {
			continue
		}
		switch state := stateOf(pid, tid); state {
		case 'Z', 'X', 0:
		default:
			return state == 'T'
		}
	}
	return false // the signal is pending yet
}

// stateOf returns the state of a thread, proc_pid_stat(5); 0 where it has ended.
func stateOf(pid, tid int) byte {
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/stat")
	if at := bytes.LastIndex(stat, []byte(") ")); at >= 0 && at+2 < len(stat) {
		return stat[at+2]
	}
	return 0
}

// freezers are where the hierarchies of cgroups are mounted that can freeze processes: of version
// 2, and of the freezer of version 1. "" stands for none.
var freezers = sync.OnceValue(func() (mounts struct{ v2, v1 string }) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		// proc_pid_mountinfo(5): the mount point is the fifth field, and the type is behind " - ".
		front, back, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(types) < 3 {
			continue
		}
		switch options := strings.Split(types[2], ","); {
		case types[0] == "cgroup2":
			mounts.v2 = fields[4]
		case types[0] == "cgroup" && slices.Contains(options, "freezer"):
			mounts.v1 = fields[4]
		}
	}
	return mounts
})

// InFrozenCgroup reports whether a thread is in a cgroup that is, or is being, frozen; onlyV1: in
// one of version 1.
func InFrozenCgroup(tid int, onlyV1 bool) bool {
	mounts := freezers()
	if onlyV1 {
		mounts.v2 = ""
	}
	if mounts.v1 == "" && mounts.v2 == "" {
		return false
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/cgroup")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		switch {
		case len(fields) != 3 || fields[2] == "/":
		case fields[0] == "0" && mounts.v2 != "" && frozenV2(mounts.v2, fields[2]):
			return true
		case mounts.v1 != "" && slices.Contains(strings.Split(fields[1], ","), "freezer"):
			state, _ := os.ReadFile(mounts.v1 + fields[2] + "/freezer.state")
			if len(state) > 0 && !bytes.HasPrefix(state, []byte("THAWED")) {
				return true
			}
		}
	}
	return false
}

// frozenV2 reports whether a cgroup or one that it is in is to be frozen:
// Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze.
func frozenV2(root, path string) bool {
	for path != "" && path != "/" {
		value, _ := os.ReadFile(root + path + "/cgroup.freeze")
		if bytes.HasPrefix(value, []byte("1")) {
			return true
		}
		path = path[:strings.LastIndexByte(path, '/')]
	}
	return false
}
