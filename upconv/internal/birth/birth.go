// Package birth remembers what this process was given at exec(2), before the Go runtime changed it.
//
// A wrapper that starts a command has to hand on exactly what it was given. By the time main runs,
// the Go runtime has installed handlers over signals that were ignored, raised RLIMIT_NOFILE to its
// hard limit and opened /dev/null on standard descriptors that were closed; nothing in the standard
// library tells what was there before. So the program is linked with its entry point set to this
// package's assembly (go build -ldflags "-E github.com/upconv/upconv/upconv/internal/birth.entry"),
// which asks the kernel and then jumps to the runtime's own entry point.
//
// It also blocks the real-time signals, since only a signalfd keeps count of those that queue up,
// and takes back that SIGPIPE is ignored, since the runtime would hand one that was sent to this
// process on to that.
//
// A binary linked without that flag works too; [Record.Exact] is then false and the record is the
// best that can be found out later.
package birth

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Record is what a process was given at exec(2). It can be passed to another process as JSON.
type Record struct {
	// Exact is false where the binary was linked without the entry point: then only SIGHUP and
	// SIGINT are known to have been ignored, and RLIMIT_NOFILE's soft limit is unknown.
	Exact bool
	// Ignored has bit N-1 set where signal N was ignored (as in SigIgn of proc_pid_status(5)).
	Ignored uint64
	// Blocked has bit N-1 set where signal N was blocked (SigBlk).
	Blocked uint64
	// NoFile is RLIMIT_NOFILE, soft and hard; zero where unknown.
	NoFile [2]uint64
	// Closed has bit N set where the standard descriptor N (0, 1, 2) was closed.
	Closed uint8
}

// Written by the entry point, before there is a runtime: plain memory, no pointers.
var (
	entered  uint64
	handlers [65 * 4]uint64 // struct sigaction as rt_sigaction(2) gives it: handler, flags, restorer (not on arm64), mask
	blocked  uint64
	dfl      [4]uint64 // a struct sigaction of SIG_DFL
	realtime uint64    = RealTime
	nofile   [2]uint64
	stdflags [3]int64 // what fcntl(F_GETFD) returned for 0, 1 and 2
)

// RealTime is the mask of the real-time signals that belong to programs: 35 to 64, signal(7); the
// thread libraries keep 32 to 34. Where the record is exact, this process was started with them
// blocked.
const RealTime uint64 = 0xffff_fffc_0000_0000

// entry is where the process starts when linked with -E. It must not be called.
func entry()

// Used by the assembly alone.
var _, _, _ = entry, &dfl, &realtime

const sigIgn = 1 // SIG_IGN, signal(7)

// Get returns the record of this process. It must be called from the main goroutine, early:
// where the record is not exact, the signal mask is that of the calling thread.
func Get() Record {
	var r Record
	if entered != 0 {
		r.Exact = true
		for sig := 1; sig <= 64; sig++ {
			if handlers[sig*4] == sigIgn {
				r.Ignored |= 1 << (sig - 1)
			}
		}
		r.Blocked = blocked
		r.NoFile = nofile
		for fd, flags := range stdflags {
			if flags < 0 {
				r.Closed |= 1 << fd
			}
		}
		return r
	}
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT} {
		if signal.Ignored(sig) {
			r.Ignored |= 1 << (sig - 1)
		}
	}
	r.Blocked = statusMask("SigBlk:")
	return r
}

// statusMask reads one of the signal masks of /proc/thread-self/status; 0 where it cannot.
func statusMask(key string) uint64 {
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			mask, _ := strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
			return mask
		}
	}
	return 0
}
