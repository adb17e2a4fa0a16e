package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/upconv/upconv/upconv"
	"github.com/upconv/upconv/upconv/doctor"
)

// asUpconv has the test binary be upconv.
const asUpconv = "UPCONV_TEST_AS_UPCONV"

func TestMain(m *testing.M) {
	if upconv.IsSupervisor() || os.Getenv(asUpconv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestLaunchAsBuilt has the test binary itself run a command, and so with the race detector where
// the tests have it: what is between clone(2) and execve(2), and the canary, must not need the
// runtime however they were compiled. The connect(2) is refused, and the signal is passed on, which
// asks the canary.
func TestLaunchAsBuilt(t *testing.T) {
	if err := doctor.Requirements(); err != nil {
		t.Skipf("needs what upconv needs: %v", err)
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs the program bash")
	}
	const script = `trap 'exit 7' USR1
(echo > /dev/tcp/203.0.113.10/80) 2>/dev/null || echo refused
echo ready
while :; do read -t 10 || :; done`
	cmd := exec.Command("/proc/self/exe", "run", "--isolate", "--via", "reject:ECONNREFUSED", "--", bash, "-c", script)
	cmd.Env = append(os.Environ(), asUpconv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var lines []string
	for said := bufio.NewScanner(out); said.Scan(); {
		lines = append(lines, said.Text())
		if said.Text() == "ready" {
			cmd.Process.Signal(syscall.SIGUSR1)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("it ended with %v, want exit status 7\n%s", err, errs.String())
	}
	if got := strings.Join(lines, "\n"); got != "refused\nready" || errs.Len() > 0 {
		t.Errorf("the command said %q, and on standard error:\n%s", got, errs.String())
	}
}
