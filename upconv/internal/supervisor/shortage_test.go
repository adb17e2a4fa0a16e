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
	netns, here := linux.NetnsCookie(current), &netns.Egress{Cookie: linux.NetnsCookie(current)}
	w.home = here
	raw, may := linux.NewSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if may == 0 {
		linux.Close(raw)
	}
	t.Cleanup(w.end)

	s.companions.mu.Lock()
	opened := s.companions.open()
	s.companions.mu.Unlock()
	if !opened {
		t.Fatal("no companions")
	}

	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: before.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	ok := w.outbox(&call{}, current, here)
	open := s.receivers.open()
	w.newWitnesses()
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if ok || open != unix.EMFILE || w.witnesses >= 0 {
		t.Fatalf("without descriptors: %v, %v, %d", ok, open, w.witnesses)
	}

	if ok := w.outbox(&call{}, current, here); may == 0 && !ok {
		t.Error("there is no socket to hand on through")
	}
	if raw, ok := s.companions.raw[netns]; !ok || (may == 0) != (raw.v4 >= 0) || (may == 0) != (raw.v6 >= 0) {
		t.Errorf("remembered: %+v %v", raw, ok)
	}
	if errno := s.receivers.open(); errno != 0 {
		t.Errorf("receivers: %v", errno)
	}
	if !w.witness(current) {
		t.Error("there is no set for witnesses")
	}
}
