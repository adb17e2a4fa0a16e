package swap

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/testkit"
)

// TestShortageEnds has descriptors run out when the set for witnesses is made: the next try
// succeeds.
func TestShortageEnds(t *testing.T) {
	w := testWorker(t)
	current := testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	w.Home = &netns.Egress{Cookie: linux.NetnsCookie(current)}
	t.Cleanup(w.Close)
	testkit.WithoutDescriptors(t, w.newWitnesses)
	if w.witnesses >= 0 {
		t.Fatalf("without descriptors: %d", w.witnesses)
	}
	if !w.witness(current) {
		t.Error("there is no set for witnesses")
	}
}
