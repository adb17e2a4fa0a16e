package supervisor

import (
	"bytes"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/target"
	"github.com/upconv/upconv/upconv/internal/trap"
)

// Node is what one process has once, however many sessions there are in it.
type sessionNode struct {
	log      *slog.Logger
	pid      int // upconv's own
	uid, gid int // that of the sockets it makes
	targets  *target.Threads
	threads  trap.CallThreads // of calls that are decided aside
	turns    trap.Turns       // of those whose calls are seen to by others
	held     *trap.HeldCalls  // all calls that upconv waits for
	tags     int              // /proc/cgroups, where there are net_cls or net_prio cgroups; else -1

	load   sync.Once                   // of what follows
	peeker atomic.Pointer[peek.Peeker] // what looks at sockets and threads in the kernel; nil: nothing, or not yet
}

// NewNode returns a node. ended is told of threads that have ended.
func newSessionNode(log *slog.Logger, ended func(tid int)) (*sessionNode, error) {
	n := &sessionNode{log: log, pid: os.Getpid(), uid: os.Geteuid(), gid: os.Getegid(), tags: openTags()}
	n.held = trap.NewHeldCalls(n.peeker.Load, &n.turns, log)
	var err error
	n.targets, err = target.NewThreads(seccompx.PidfdThread.Probe() == nil, ended)
	return n, err
}

// LookNow has the calls that upconv waits for be looked at soon: something has happened that may
// concern them.
func (n *sessionNode) LookNow() { n.held.LookNow() }

// peeks returns what looks at sockets and threads in the kernel, nil if nothing can. It takes some
// milliseconds, the first time.
func (n *sessionNode) peeks() *peek.Peeker {
	n.load.Do(func() {
		peeker, err := peek.Open()
		if err != nil {
			n.log.Debug("sockets are looked at by system calls alone", "error", err)
			return
		}
		n.peeker.Store(peeker)
	})
	return n.peeker.Load()
}

// close gives up what the node has. No session may be left.
func (n *sessionNode) close() {
	n.targets.Close()
	if n.tags >= 0 && n.tags != tagsHidden {
		linux.Close(n.tags)
	}
	if peeker := n.peeker.Load(); peeker != nil {
		peeker.Close()
	}
}

// openTags opens /proc/cgroups if there can be net_cls or net_prio cgroups. It returns -1 if there
// can be none.
func openTags() (fd int) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || !bytes.Contains(own, []byte("net_cls")) && !bytes.Contains(own, []byte("net_prio")) {
		return -1
	}
	if fd, err := unix.Open("/proc/cgroups", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		return fd
	}
	return tagsHidden
}

// tagsHidden is no descriptor: /proc/cgroups cannot be read, as where /proc is mounted with
// subset=pid. Then there may be many.
const tagsHidden = 1 << 30
