package supervisor

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// TestAsideAgain says that what a handler has left to be closed is closed before the next one,
// which may wait for long, takes the call up.
func TestAsideAgain(t *testing.T) {
	n := testSession(t).node
	th := serve(t, n, refusing(t, "EPERM"))
	defer th.end(t)
	open := func(fd int) bool {
		_, ok := linux.FlagsOf(fd)
		return ok
	}
	calls := 0
	th.session.putAside(&call{tid: os.Getpid()}, asideBy(func(d decider, _ *call) outcome {
		w := d.base()
		fd, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if errno != 0 {
			t.Error(errno)
		}
		w.done = append(w.done, fd)
		return asideBy(func(decider, *call) outcome {
			if calls++; open(fd) {
				t.Error("the socket is open yet")
			}
			return answer(unix.EINTR)
		})
	})).run()
	if calls != 1 {
		t.Errorf("taken up %d times", calls)
	}
}
