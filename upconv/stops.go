package upconv

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/spawn"
)

// rouse continues the front process if it has stopped, or is about to, because the command had,
// which is not stopped any more.
func (p *process) rouse() {
	p.rousing.Lock()
	defer p.rousing.Unlock()
	for p.stops.Load() > 0 && !p.commandStopped.Load() {
		if isStopped(p.order.Front) {
			p.swallow.Add(1)
			unix.Kill(p.order.Front, unix.SIGCONT)
		}
		time.Sleep(rousePause)
	}
}

// rousePause is how long the front process may take to stop.
const rousePause = 5 * time.Millisecond

// swallowed reports whether a SIGCONT that the front process tells of may be this process's own.
func (p *process) swallowed() bool {
	for n := p.swallow.Load(); n > 0; n = p.swallow.Load() {
		if p.swallow.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// isStopped reports whether a process is stopped by a signal: proc_pid_stat(5).
func isStopped(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(rest, []byte("T"))
}

// stopSelf stops this process by the signal that stopped the command, so that the shell sees of its
// job what it would have seen, and returns when it is continued.
func stopSelf(sig unix.Signal) {
	// The Go runtime's handler would not stop, and os/signal gives no way past it.
	var stop, handler spawn.Sigaction // SIG_DFL
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if sig != unix.SIGSTOP {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&stop)), uintptr(unsafe.Pointer(&handler)), 8, 0, 0)
		defer unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&handler)), 0, 8, 0, 0)
	}
	// To this very thread: it is stopped before the call returns, and the handler is not back too
	// soon.
	unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
}
