package spawn

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/doctor"
)

// TestRefusedStep: what a child is refused before execve(2) is named, with what helps.
func TestRefusedStep(t *testing.T) {
	for step, want := range map[int32]string{
		stepParent:  "prctl(2) PR_SET_PDEATHSIG: operation not permitted: " + doctor.AFilter + " refuses it: use a profile that allows prctl(2)",
		stepPrivs:   "prctl(2) PR_SET_NO_NEW_PRIVS: operation not permitted: " + doctor.AFilter + " refuses it: use a profile that allows prctl(2)",
		stepSockets: "a socket in the command's network namespace: operation not permitted: " + doctor.AFilter + " refuses it: use a profile that allows socket(2) with AF_NETLINK and AF_INET",
		stepFiles:   "a descriptor table for the command: unshare(2): operation not permitted: " + doctor.AFilter + " refuses it: use a profile that allows unshare(2) or close_range(2)",
		stepLimits:  "give the command its limit of open files: prlimit64(2): operation not permitted: " + doctor.AFilter + " refuses it: use a profile that allows prlimit64(2)",
		StepNetns:   "enter the command's network namespace: operation not permitted",
	} {
		r := &Report{Step: step, Errno: int32(unix.EPERM)}
		if got := RefusedStep(step, r.StepError(&Plan{})).Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got := RefusedStep(stepSockets, unix.EMFILE); !errors.Is(got, unix.EMFILE) || strings.Contains(got.Error(), doctor.AFilter) {
		t.Errorf("not refused: %v", got)
	}
}
