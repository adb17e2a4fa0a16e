package target

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// WithCapabilitiesOf does what the kernel asks for capabilities, with none that the thread tid has
// not.
func WithCapabilitiesOf(tid int, do func() unix.Errno) unix.Errno {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return linux.ErrnoOf(err)
	}
	all, same := EffectiveOf(tid, status)
	if !same {
		all = 0
	}
	before, errno := linux.LimitEffective(func(effective uint64) uint64 { return effective & all })
	if errno != 0 {
		return errno
	}
	defer linux.SetCapabilities(&before)
	return do()
}
