package openfile

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Inherited lists the descriptors above standard error that execve(2) would pass on.
func Inherited() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, unix.EMFILE) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w (is /proc mounted?)", err)
	}
	var fds []int
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}
