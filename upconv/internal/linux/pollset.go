package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// PollSet is an epoll(7) set that is waited for in the Go runtime's poller: so who waits holds no
// thread.
type PollSet struct {
	file *os.File
	FD   int // its number, for epoll_ctl(2); still owned by file
}

func NewPollSet() (*PollSet, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // has os.NewFile use the poller
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &PollSet{os.NewFile(uintptr(fd), "epoll"), fd}, nil
}

// Wait fills events, and returns how many there are: at least one. The error says that the set is
// closed.
func (p *PollSet) Wait(events []unix.EpollEvent) (n int, err error) {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		for {
			if n, failed = unix.EpollWait(int(fd), events, 0); failed != unix.EINTR {
				return n > 0 || failed != nil
			}
		}
	})
	if err == nil {
		err = failed
	}
	return max(n, 0), err
}

func (p *PollSet) Close() { p.file.Close() }
