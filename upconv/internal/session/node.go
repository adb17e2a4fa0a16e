package session

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
type Node struct {
	Log      *slog.Logger
	PID      int // upconv's own
	UID, GID int // those of the sockets that it makes
	Targets  *target.Threads
	Threads  trap.CallThreads // of calls that are decided aside
	Turns    trap.Turns       // of those whose calls are seen to by others
	Held     *trap.HeldCalls  // all calls that upconv waits for
	Tags     int              // a descriptor of /proc/cgroups, if there can be net_cls or net_prio cgroups, or tagsHidden; else -1

	load   sync.Once                   // of what follows
	peeker atomic.Pointer[peek.Peeker] // what looks at sockets and threads in the kernel; nil: nothing, or not yet
}

// NewNode returns a node. ended is told of threads that have ended. The error says that there are
// no descriptors for that.
func NewNode(log *slog.Logger, ended func(tid int)) (*Node, error) {
	n := &Node{Log: log, PID: os.Getpid(), UID: os.Geteuid(), GID: os.Getegid(), Tags: openTags()}
	n.Held = trap.NewHeldCalls(n.peeker.Load, &n.Turns, log)
	var err error
	n.Targets, err = target.NewThreads(seccompx.PidfdThread.Probe() == nil, ended)
	return n, err
}

// LookNow has the calls that upconv waits for be looked at soon: something has happened that may
// concern them.
func (n *Node) LookNow() { n.Held.LookNow() }

// peeks returns what looks at sockets and threads in the kernel, nil if nothing can. It takes some
// milliseconds, the first time.
func (n *Node) peeks() *peek.Peeker {
	n.load.Do(func() {
		peeker, err := peek.Open()
		if err != nil {
			n.Log.Debug("sockets are looked at by system calls alone", "error", err)
			return
		}
		n.peeker.Store(peeker)
	})
	return n.peeker.Load()
}

// Close gives up what the node has. No session may be left.
func (n *Node) Close() {
	n.Targets.Close()
	if n.Tags >= 0 && n.Tags != tagsHidden {
		linux.Close(n.Tags)
	}
	if peeker := n.peeker.Load(); peeker != nil {
		peeker.Close()
	}
}

// openTags opens /proc/cgroups if there can be net_cls or net_prio cgroups; the caller owns the
// descriptor. It returns -1 if there can be none, and tagsHidden if that cannot be read.
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
