package supervisor

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
)

// TestShortageEnds has descriptors run out when something is made that is made only once: the next
// try succeeds.
func TestShortageEnds(t *testing.T) {
	s := testSession(t)
	w := s.newWorker()
	current, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	t.Cleanup(func() { linux.Close(current) })
	w.Home = &netns.Egress{Cookie: linux.NetnsCookie(current)}
	t.Cleanup(w.Close)

	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: before.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	open := s.Receivers.Open()
	w.NewWitnesses()
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if open != unix.EMFILE || w.Witnesses >= 0 {
		t.Fatalf("without descriptors: %v, %d", open, w.Witnesses)
	}

	if errno := s.Receivers.Open(); errno != 0 {
		t.Errorf("receivers: %v", errno)
	}
	if !w.Witness(current) {
		t.Error("there is no set for witnesses")
	}
}
