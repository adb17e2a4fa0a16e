package upconv_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/upconv/upconv/"

// imports says of each package which others of this module it may import, not counting test files.
var imports = map[string]string{
	"seccompx":                     "",
	"nsdial":                       "",
	"upconv/internal/ip4":          "",
	"upconv/internal/birth":        "",
	"upconv/internal/peek":         "",
	"upconv/internal/volley":       "",
	"upconv/internal/siit":         "",
	"upconv/internal/linux":        "seccompx",
	"upconv/internal/target":       "upconv/internal/linux seccompx",
	"upconv/internal/openfile":     "upconv/internal/linux upconv/internal/birth",
	"upconv/internal/proxyproto":   "",
	"upconv/internal/trap":         "upconv/internal/linux upconv/internal/target upconv/internal/peek seccompx",
	"upconv/internal/passport":     "upconv/internal/linux",
	"upconv/internal/netns":        "upconv/policy upconv/nat64 upconv/internal/linux nsdial",
	"upconv/internal/sockstate":    "upconv/internal/linux upconv/internal/netns upconv/internal/passport upconv/internal/volley",
	"upconv/internal/companion":    "upconv/internal/linux upconv/internal/sockstate upconv/internal/siit upconv/internal/target upconv/internal/trap",
	"upconv/internal/testkit":      "",
	"upconv/nat64":                 "upconv/internal/ip4",
	"upconv/policy":                "upconv/nat64 upconv/internal/ip4",
	"upconv/policy/policytest":     "upconv/policy",
	"upconv/event":                 "upconv/policy upconv/internal/linux upconv/internal/target seccompx",
	"upconv/explain":               "upconv/policy upconv/nat64",
	"upconv":                       "upconv/internal/spawn upconv/doctor upconv/event upconv/policy upconv/nat64 upconv/internal/supervisor upconv/internal/netns upconv/internal/linux upconv/internal/openfile upconv/internal/birth seccompx nsdial",
	"upconv/internal/spawn":        "upconv/doctor upconv/internal/openfile upconv/internal/birth seccompx",
	"upconv/doctor":                "upconv/internal/netns upconv/internal/linux upconv/internal/openfile upconv/internal/birth upconv/internal/peek seccompx",
	"upconv/internal/session":      "seccompx upconv/event upconv/internal/linux upconv/internal/netns upconv/internal/peek upconv/internal/sockstate upconv/internal/target upconv/internal/trap upconv/nat64 upconv/policy",
	"upconv/internal/crossing":     "upconv/internal/session upconv/event upconv/internal/linux upconv/internal/netns upconv/internal/passport upconv/internal/sockstate upconv/internal/target upconv/nat64 upconv/policy",
	"upconv/internal/swap":         "upconv/internal/crossing upconv/internal/session seccompx upconv/event upconv/internal/companion upconv/internal/linux upconv/internal/netns upconv/internal/openfile upconv/internal/peek upconv/internal/sockstate upconv/internal/target upconv/internal/volley",
	"upconv/internal/receive":      "upconv/internal/swap upconv/internal/crossing upconv/internal/session upconv/internal/linux upconv/internal/netns upconv/internal/passport upconv/internal/siit upconv/internal/sockstate upconv/internal/target upconv/internal/trap",
	"upconv/internal/datagram":     "upconv/internal/receive upconv/internal/swap upconv/internal/crossing upconv/internal/session upconv/event upconv/internal/companion upconv/internal/linux upconv/internal/netns upconv/internal/passport upconv/internal/siit upconv/internal/sockstate upconv/internal/target upconv/internal/trap upconv/nat64 upconv/policy",
	"upconv/internal/stream":       "upconv/internal/datagram upconv/internal/swap upconv/internal/crossing upconv/internal/session seccompx upconv/event upconv/internal/companion upconv/internal/linux upconv/internal/netns upconv/internal/proxyproto upconv/internal/siit upconv/internal/sockstate upconv/internal/target upconv/internal/trap upconv/policy",
	"upconv/internal/guard":        "upconv/internal/stream upconv/internal/datagram upconv/internal/crossing upconv/internal/session upconv/internal/linux upconv/internal/netns upconv/internal/siit upconv/internal/sockstate upconv/internal/target upconv/policy",
	"upconv/internal/calls":        "upconv/internal/guard upconv/internal/datagram upconv/internal/receive upconv/internal/swap upconv/internal/crossing upconv/internal/session seccompx upconv/event upconv/internal/linux upconv/internal/netns upconv/internal/siit upconv/internal/sockstate upconv/internal/target upconv/nat64 upconv/policy",
	"upconv/internal/supervisor":   "upconv/internal/calls upconv/internal/guard upconv/internal/stream upconv/internal/receive upconv/internal/session seccompx upconv/event upconv/internal/birth upconv/internal/linux upconv/internal/netns upconv/internal/target upconv/internal/trap upconv/nat64 upconv/policy",
	"cmd/upconv/internal/demo":     "upconv upconv/event nsdial",
	"cmd/upconv":                   "cmd/upconv/internal/demo upconv upconv/doctor upconv/policy upconv/explain",
	"seccompx/internal/mksyscalls": "",
	"integration/tally":            "",
	"integration/fidelity":         "",
	"integration":                  "",
}

// TestLayers holds that packages import in one direction only: a new import, and a new package, is
// a decision that the list above has to be told of.
func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], module)
		allowed, known := imports[name]
		if !known {
			t.Errorf("%s is not in the list of who may import whom", name)
		}
		for _, path := range fields[1:] {
			other, ours := strings.CutPrefix(path, module)
			if ours && !strings.Contains(" "+allowed+" ", " "+other+" ") {
				t.Errorf("%s imports %s", name, other)
			}
		}
	}
}
