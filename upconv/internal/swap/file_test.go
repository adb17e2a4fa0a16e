package swap

import (
	"errors"
	"log/slog"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/peek"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// TestCopyYet puts another file under a number that was a socket's: that is no copy any more.
func TestCopyYet(t *testing.T) {
	for _, sees := range []bool{false, true} {
		t.Run("sees="+strconv.FormatBool(sees), func(t *testing.T) {
			w := testWorker(t)
			if sees {
				peeker, err := peek.Open()
				if errors.Is(err, unix.EPERM) && os.Getenv("UPCONV_TEST_ALL") == "" {
					t.Skipf("needs CAP_BPF and CAP_PERFMON: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(peeker.Close)
				w.s.Sights.Store(&session.Sights{Peeker: peeker})
			}
			fd, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if errno != 0 {
				t.Fatal(errno)
			}
			defer func() { linux.Close(fd) }()
			c := &session.Call{TID: os.Getpid(), FD: fd}
			if w.See(c) != sees {
				t.Fatal("seen:", c.View != nil)
			}
			ino := linux.InodeOf(fd)
			if cloexec, still := w.copyYet(c, fd, ino); !cloexec || !still {
				t.Errorf("of the socket itself: close-on-exec %v, still there %v", cloexec, still)
			}
			if !target.IsSocket(c.TID, fd, ino) {
				t.Error("the socket itself is taken for another one")
			}
			for _, other := range []func() int{
				func() int {
					other, _ := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					return other
				},
				func() int {
					other, _ := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
					return other
				},
			} {
				linux.Close(fd)
				if fd = other(); fd != c.FD {
					unix.Dup3(fd, c.FD, unix.O_CLOEXEC)
					linux.Close(fd)
					fd = c.FD
				}
				if _, still := w.copyYet(c, fd, ino); still || target.IsSocket(c.TID, fd, ino) {
					t.Error("another file is taken for it")
				}
			}
		})
	}
}

// testWorker returns a worker of a session without a listener. Its node ends with the test.
func testWorker(t *testing.T) *Worker {
	t.Helper()
	n, err := session.NewNode(slog.New(slog.DiscardHandler), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s, w := &Session{}, &Worker{}
	s.Init(n)
	w.Init(s, nil)
	return w
}
