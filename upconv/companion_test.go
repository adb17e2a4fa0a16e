package upconv

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestCompanionsOfTwo has two processes use one socket, put aside others for it one after the other, and close it: nothing is kept.
func TestCompanionsOfTwo(t *testing.T) {
	var k companions
	udp := func() int {
		fd, errno := newSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		return fd
	}
	current, first, second, elsewhere := udp(), udp(), udp(), udp()
	k.keep(companion{fd: first, place: 1}, current, false)
	k.keep(companion{fd: elsewhere, place: 2}, current, false)
	k.keep(companion{fd: second, place: 1}, current, false)
	if k.count != 2 {
		t.Errorf("%d are kept, and not one a namespace", k.count)
	}
	if fd, ok := k.take(current, 1); !ok || fd != second {
		t.Errorf("taken: %d %v, and not the latest, %d", fd, ok, second)
	} else {
		closeFD(fd)
	}
	closeFD(current)
	k.sweep()
	if k.count != 0 || len(k.kept) != 0 {
		t.Errorf("%d are kept, %d are known", k.count, len(k.kept))
	}
	for _, fd := range []int{first, second, elsewhere} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("%d is open yet: %v", fd, err)
		}
	}
}
