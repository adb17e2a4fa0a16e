package supervisor

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
)

// TestLostWorker says that a worker whose thread could not return to its namespace makes no socket
// any more, not even one of that namespace, and none in advance.
func TestLostWorker(t *testing.T) {
	w := testSession(t).newWorker()
	defer w.close()
	w.home, w.lost = &netns.Egress{}, errors.New("lost")
	if fd, errno := w.socket(w.home, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP); errno != unix.EIO {
		linux.Close(fd)
		t.Errorf("a socket of home: %v, want EIO", errno)
	}
	w.spares[0].used = true
	w.tidy()
	if made := len(w.spares[0].fds); made > 0 {
		t.Errorf("%d sockets in advance", made)
	}
}
