package session

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
)

// TestLostWorker says that a worker whose thread could not return to its namespace makes no socket
// any more, not even one of that namespace, and none in advance.
func TestLostWorker(t *testing.T) {
	s, w := &Session{}, &Worker{}
	n, err := NewNode(slog.New(slog.DiscardHandler), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s.Init(n, nil)
	w.Init(s, nil)
	defer w.Close()
	w.Home, w.Lost = &netns.Egress{}, errors.New("lost")
	if fd, errno := w.Socket(w.Home, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP); errno != unix.EIO {
		linux.Close(fd)
		t.Errorf("a socket of home: %v, want EIO", errno)
	}
	w.spares[0].used = true
	w.Tidy()
	if made := len(w.spares[0].fds); made > 0 {
		t.Errorf("%d sockets in advance", made)
	}
}
