package swap

import (
	"bytes"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Retag undoes what fetching a socket does where there are net_cls and net_prio cgroups: it puts it
// into upconv's own.
//
// It holds the lock of who moves the socket: one that another has just taken the place of must not
// be put back.
func (w *Worker) Retag(c *session.Call, fd int) {
	if w.s.Tags < 0 || !w.manyTags() {
		return
	}
	defer w.s.Moving.Unlock(w.s.Moving.Lock(linux.InodeOf(fd)))
	if cloexec, errno := w.s.Targets.CloseOnExec(c.TID, c.FD, w.Scratch[:]); errno == 0 && !w.Replaced(c, fd) {
		w.Install(c, c.FD, fd, cloexec)
	}
}

// manyTags reports whether there are more such cgroups than the one that everybody is in.
func (w *Worker) manyTags() bool {
	if w.tagged == 0 || w.Taken-w.tagged > tagsFor {
		w.tagged, w.tags = w.Taken, readManyTags(w.s.Tags)
	}
	return w.tags
}

// readManyTags is manyTags for the descriptor of /proc/cgroups.
func readManyTags(cgroups int) bool {
	var text [1024]byte
	got, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(cgroups), uintptr(unsafe.Pointer(&text)), uintptr(len(text)), 0, 0, 0)
	return errno != 0 || int(got) == len(text) || hasManyTags(text[:got])
}

// hasManyTags is manyTags for what /proc/cgroups says. A controller of hierarchy 0 is not mounted,
// and the number behind it is how many cgroups v2 has.
func hasManyTags(text []byte) bool {
	for _, name := range []string{"\nnet_cls\t", "\nnet_prio\t"} {
		// "net_cls HIERARCHY NUM_CGROUPS ENABLED", cgroups(7).
		if _, line, ok := bytes.Cut(text, []byte(name)); ok {
			hierarchy, count, ok := bytes.Cut(line, []byte("\t"))
			if string(hierarchy) != "0" && !(ok && bytes.HasPrefix(count, []byte("1\t"))) {
				return true
			}
		}
	}
	return false
}

// tagsFor is for how long what manyTags has found holds. Nobody who moves a program to another
// cgroup expects it to be in effect for every packet in the same moment.
const tagsFor = 20 * time.Millisecond
