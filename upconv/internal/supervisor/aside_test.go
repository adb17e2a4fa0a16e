package supervisor

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
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
	th.session.putAside(&session.Call{TID: os.Getpid()}, session.AsideBy(func(d session.Decider, _ *session.Call) session.Outcome {
		w := d.Base()
		fd, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if errno != 0 {
			t.Error(errno)
		}
		w.Done = append(w.Done, fd)
		return session.AsideBy(func(session.Decider, *session.Call) session.Outcome {
			if calls++; open(fd) {
				t.Error("the socket is open yet")
			}
			return session.Answer(unix.EINTR)
		})
	})).run()
	if calls != 1 {
		t.Errorf("taken up %d times", calls)
	}
}
