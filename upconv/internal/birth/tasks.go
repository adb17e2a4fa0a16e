package birth

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// cloneIdle clones this process into one that shares all its memory, waits for ever, and is killed
// with the calling thread. It returns the child's pid, or a negative errno. The caller must have
// blocked all signals: the child must never run anything of Go.
func cloneIdle() int

// TryTasks reports how many more processes or threads can be had at this moment, up to most: as
// many as RLIMIT_NPROC and the pids.max of cgroups let this process have. It tries it out, since
// not all of those limits can be read. It takes some 20 us for each.
func TryTasks(most int) (n int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before) != nil {
		return most
	}
	pids := make([]int, 0, most)
	for len(pids) < most {
		pid := cloneIdle()
		if pid < 0 {
			break
		}
		pids = append(pids, pid)
	}
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
	for _, pid := range pids {
		for {
			if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != unix.EINTR {
				break
			}
		}
	}
	unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	return len(pids)
}
