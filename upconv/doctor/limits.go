package doctor

import (
	"fmt"

	"github.com/upconv/upconv/upconv/internal/birth"
)

// tasksNeeded is how many processes and threads upconv comes to have besides those that the front
// process has when it looks: in that process, the supervisor, the canary and the command.
// TestPidsLimit holds it.
const tasksNeeded = 24

// CheckTasks returns an error if the processes and threads that upconv needs cannot be had.
func CheckTasks() error {
	if n := birth.TryTasks(tasksNeeded); n < tasksNeeded {
		return fmt.Errorf("of the %d more processes and threads that upconv and the command need, only %d can be had: raise the limit "+
			"(docker run --pids-limit, TasksMax= of a unit, pids.max of the cgroup; ulimit -u of the user)", tasksNeeded, n)
	}
	return nil
}
