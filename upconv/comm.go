package upconv

import (
	"os"
	"strconv"
)

// supervisorName is what ps(1), top(1) and pkill(1) call the supervisor. The kernel would call it
// exe, after /proc/self/exe, which is what it was executed as.
const supervisorName = "upconv"

// nameThreads gives all threads of this process a name, proc_pid_comm(5). Later ones inherit it. It
// is only for those who look: where /proc cannot be written, the old name stays.
func nameThreads(name string) {
	const tasks = "/proc/self/task/"
	threads, _ := os.ReadDir(tasks)
	for _, thread := range threads {
		if _, err := strconv.Atoi(thread.Name()); err == nil {
			os.WriteFile(tasks+thread.Name()+"/comm", []byte(name), 0)
		}
	}
}
