package target

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// DescriptorsLinkedTo returns the descriptors of a thread whose link in proc_pid_fd(5) is the given
// one. It looks at all of them. It is false where it cannot.
func DescriptorsLinkedTo(tid int, link string) (fds []int, ok bool) {
	dir, err := os.Open("/proc/" + strconv.Itoa(tid) + "/fd")
	if err != nil {
		return nil, false
	}
	defer dir.Close()
	var buf [64]byte
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			n, errno := unix.Readlinkat(int(dir.Fd()), name, buf[:])
			if errno == nil && string(buf[:n]) == link {
				if fd, err := strconv.Atoi(name); err == nil {
					fds = append(fds, fd)
				}
			}
		}
		if err != nil {
			return fds, err == io.EOF
		}
	}
}
