package receive

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/testkit"
)

// TestShortageEnds has descriptors run out when the set for those that wait is made: the next try
// succeeds.
func TestShortageEnds(t *testing.T) {
	s := receiveSupervisor(t)
	var errno unix.Errno
	testkit.WithoutDescriptors(t, func() { errno = s.Receivers.open() })
	if errno != unix.EMFILE {
		t.Fatalf("without descriptors: %v", errno)
	}
	if errno := s.Receivers.open(); errno != 0 {
		t.Errorf("with descriptors: %v", errno)
	}
	s.Receivers.Close()
}
