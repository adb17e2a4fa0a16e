package target

import (
	"bytes"
	"os"
	"strconv"
)

// identity is what events say of a target.
type identity struct {
	PID    int    // the process; 0 where it is gone
	Comm   string // proc_pid_comm(5)
	Cgroup string // the cgroup v2 path, or where there is none the first v1 one
}

// Identify reads who a thread is. It is slow: only for events.
func Identify(tid int) identity {
	proc := "/proc/" + strconv.Itoa(tid)
	comm, _ := os.ReadFile(proc + "/comm")
	cgroups, _ := os.ReadFile(proc + "/cgroup")
	return identity{PID: ThreadGroup(tid), Comm: string(bytes.TrimRight(comm, "\n")), Cgroup: cgroupPath(cgroups)}
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

// OwnCgroup returns this process's cgroup v2 path, "" where there is no v2.
func OwnCgroup() string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range bytes.Lines(text) {
		if path, ok := bytes.CutPrefix(bytes.TrimRight(line, "\n"), []byte("0::")); ok {
			return string(path)
		}
	}
	return ""
}
