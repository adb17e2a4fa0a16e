package calls

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
)

// TestNoteSMC holds that the first socket of SMC has SO_PROTOCOL be read from then on.
func TestNoteSMC(t *testing.T) {
	for _, test := range []struct {
		args  [3]uint64
		notes bool
	}{
		{[3]uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}, false},
		{[3]uint64{unix.AF_INET, unix.SOCK_STREAM, sockstate.IPProtoSMC}, true},
		{[3]uint64{linux.AFSMC, unix.SOCK_STREAM, 0}, true},
	} {
		w := idleWorker(idleSession(t))
		c := new(session.Call)
		copy(c.Args[:], test.args[:])
		if out := w.socketCall(c); !out.CarriesOn() {
			t.Errorf("socket(%v) is not left to the kernel", test.args)
		}
		if is := w.s.Used.Others.Load(); is != test.notes {
			t.Errorf("socket(%v) is noted: %v", test.args, is)
		}
	}
}
