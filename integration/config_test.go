package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConfig sends destinations where a policy file says, unless a flag says otherwise.
func TestConfig(t *testing.T) {
	l := newLab(t)
	addr := l.greet()
	_, port, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	file, events := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "events")
	policy := fmt.Sprintf(`version: 1
egress:
  - to: [%s, 198.51.100.0/24]
    ports: 1, %s
    via: netns:%s
  - to: "*"
    ports: 0-65535
    via: reject:EHOSTUNREACH
`, serverAddr, port, l.egress)
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	curl := []string{"--", needProgram(t, "curl"), "-sS", "--http0.9", "-m", "10"}
	run := append([]string{"run", "--netns", l.origin, "--config", file, "--events", events}, curl...)
	if got := output(t, upconv(t, append(run, "http://"+addr+"/")...)); got != greeting {
		t.Errorf("got %q, want %q", got, greeting)
	}
	if code, out := status(t, upconv(t, append(run, "http://"+serverAddr+":2/")...)); code != 7 {
		t.Errorf("a rejected port: exit status %d, %s", code, out)
	}
	flag := append([]string{"run", "--netns", l.origin, "--rule", serverAddr + "=reject:EPERM", "--config", file, "--events", events}, curl...)
	if code, out := status(t, upconv(t, append(flag, "http://"+addr+"/")...)); code == 0 {
		t.Errorf("a flag before the file: %s", out)
	}
	lines, err := os.ReadFile(events)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`"rule":"1","route":"netns:` + l.egress + `"`,
		`"rule":"2","route":"reject:EHOSTUNREACH"`,
		`"rule":"1","route":"reject:EPERM"`,
	}
	for i, line := range strings.Split(strings.TrimSpace(string(lines)), "\n") {
		if i >= len(want) || !strings.Contains(line, want[i]) {
			t.Errorf("event %d: %s", i+1, line)
		}
	}

	// explain says what run does, of the namespace that run starts commands in.
	explain := func(dst string) string {
		return output(t, upconv(t, "explain", "--netns", l.origin, "--config", file, dst))
	}
	for dst, say := range map[string]string{
		addr:                "rule      1, " + file + ":3: " + addr + "=netns:" + l.egress + "\n",
		serverAddr + ":2":   "connect fails at once with EHOSTUNREACH",
		"198.51.100.1:1":    "in the network namespace " + l.egress + "\n",
		"127.0.0.1:" + port: "rule      local",
	} {
		if got := explain(dst); !strings.Contains(got, say) {
			t.Errorf("explain %s does not say %q:\n%s", dst, say, got)
		}
	}
	// The egress has an IPv4 address, which is local there.
	if got := output(t, upconv(t, "explain", "--netns", l.egress, "--via", "reject", egressAddr)); !strings.Contains(got, "an address of the program's own namespace") {
		t.Errorf("the namespace's own address:\n%s", got)
	}
}
