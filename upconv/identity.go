package upconv

import (
	"bytes"
	"os"
	"strconv"
)

// identity is what events say of a target.
type identity struct {
	pid    int    // the process; 0 where it is gone
	comm   string // proc_pid_comm(5)
	cgroup string // the cgroup v2 path, or where there is none the first v1 one
}

// identify reads who a thread is. It is slow: only for events.
func identify(tid int) identity {
	proc := "/proc/" + strconv.Itoa(tid)
	comm, _ := os.ReadFile(proc + "/comm")
	cgroups, _ := os.ReadFile(proc + "/cgroup")
	return identity{pid: threadGroup(tid), comm: string(bytes.TrimRight(comm, "\n")), cgroup: cgroupPath(cgroups)}
}

// cgroupPath picks the path out of a proc_pid_cgroup(5) text.
func cgroupPath(text []byte) string {
	first := ""
	for line := range bytes.Lines(text) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\n"), []byte(":"), 3)
		if len(fields) != 3 {
			continue
		}
		if string(fields[0]) == "0" {
			return string(fields[2])
		}
		if first == "" {
			first = string(fields[2])
		}
	}
	return first
}

// ownCgroup returns this process's cgroup v2 path, "" where there is no v2.
func ownCgroup() string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range bytes.Lines(text) {
		if path, ok := bytes.CutPrefix(bytes.TrimRight(line, "\n"), []byte("0::")); ok {
			return string(path)
		}
	}
	return ""
}
