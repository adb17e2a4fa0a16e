package peek

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLookAtThread looks at a process that is stopped, so that its signals stay pending.
func TestLookAtThread(t *testing.T) {
	p := open(t)
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	look := func() (thread Thread) {
		t.Helper()
		if errno := p.LookAtThread(pid, &thread); errno != 0 {
			t.Fatal(errno)
		}
		return thread
	}
	first := look()
	if first.Threads != 1 || first.Interrupted || first.Shared != 0 || first.Ending || first.Began == 0 {
		t.Errorf("nothing has happened: %+v", first)
	}
	cmd.Process.Signal(unix.SIGSTOP)
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatal(err, status)
	}
	unix.Kill(pid, unix.SIGUSR1)
	if now := look(); now.Shared != 1<<(unix.SIGUSR1-1) || now.Interrupted || now.Began != first.Began {
		t.Errorf("a signal for the process: %+v", now)
	}
	unix.Tgkill(pid, pid, unix.SIGUSR2)
	if now := look(); !now.Interrupted {
		t.Errorf("a signal for the thread: %+v", now)
	}
	cmd.Process.Kill()
	cmd.Wait()
	var gone Thread
	if errno := p.LookAtThread(pid, &gone); errno != unix.ESRCH {
		t.Errorf("of one that is gone: %v, %+v", errno, gone)
	}
}
