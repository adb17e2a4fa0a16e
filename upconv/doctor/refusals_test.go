package doctor

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
)

// TestMissing: an old kernel is told from a filter, and of a filter it is said what helps.
func TestMissing(t *testing.T) {
	absent := &seccompx.UnsupportedError{Feature: "pidfd_getfd", Since: "5.6"}
	refused := fmt.Errorf("probing: %w", unix.EPERM)
	for _, c := range []struct {
		name    string
		release string
		err     error
		want    string
	}{
		{"an old kernel", "5.4.0-42-generic", absent, "this kernel, Linux 5.4.0-42-generic, is too old: pidfd_getfd(2), which upconv needs, came with Linux 5.6"},
		{"a filter that says ENOSYS", "6.1.0-18-amd64", absent, AFilter + " hides pidfd_getfd(2), which upconv needs and Linux has since 5.6: " + cureGetfd},
		{"a filter that says EPERM", "6.1.0-18-amd64", refused, AFilter + " refuses pidfd_getfd(2), which upconv needs: " + cureGetfd + " (operation not permitted)"},
		{"a filter on an old kernel", "5.4", refused, AFilter + " refuses pidfd_getfd(2), which upconv needs: " + cureGetfd + " (operation not permitted)"},
		{"a listener", "6.1", seccompx.ErrListenerExists, seccompx.ErrListenerExists.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			getfd := requirement{seccompx.PidfdGetfd, "pidfd_getfd(2)", cureGetfd}
			if got := getfd.missing(c.release, c.err).Error(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestCures: every call that can be refused has a name and says what helps.
func TestCures(t *testing.T) {
	for _, r := range required {
		if r.call == "" || r.cure == "" {
			t.Errorf("%s: call %q, cure %q", r.feature.Name, r.call, r.cure)
		}
	}
	for _, h := range helperCalls {
		if h.name == "" || h.cost == "" || h.cure == "" || h.needed != strings.Contains(h.cost, "upconv run fails here") {
			t.Errorf("%+v", h)
		}
		noRaw := strings.Contains(h.cure, "CAP_NET_RAW") && !linux.HasCapability(unix.CAP_NET_RAW)
		if errno := h.try(); errno != 0 && !(noRaw && errno == unix.EPERM) {
			t.Errorf("%s: %v", h.name, errno)
		}
		h.try = func() unix.Errno { return unix.EPERM }
		if c := h.check(); c.OK || c.Needed != h.needed || c.Found != "operation not permitted" || c.Cost != h.cost+";\n"+h.cure {
			t.Errorf("refused: %+v", c)
		}
	}
}

// TestContainersGuide: every call that can be refused is in docs/containers.md.
func TestContainersGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/containers.md")
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, r := range required {
		call, _, _ := strings.Cut(r.call, "(")
		calls = append(calls, call)
	}
	for _, h := range helperCalls {
		call, _, _ := strings.Cut(h.name, "(")
		calls = append(calls, call)
	}
	for _, call := range calls {
		if !regexp.MustCompile(`(?m)^\| .*` + call + `.* \| .* \| .* \|$`).Match(guide) {
			t.Errorf("no row for %s", call)
		}
	}
}

func TestIsSince(t *testing.T) {
	for _, c := range []struct {
		release, since string
		want           bool
	}{
		{"6.18.44-fc-v595", "6.9", true}, {"5.19.0", "5.19", true}, {"5.18.19", "5.19", false}, {"6.1", "5.19", true}, {"4.19.0", "5.0", false}, {"?", "5.0", true},
	} {
		if got := isSince(c.release, c.since); got != c.want {
			t.Errorf("%s since %s: %v", c.release, c.since, got)
		}
	}
}
