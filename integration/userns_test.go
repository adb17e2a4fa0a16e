package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// usernsVariable is set once testdata/userns.sh has done what it can, and noRootVariable if that
// was nothing: it says why.
const (
	usernsVariable = "UPCONV_TEST_USERNS"
	noRootVariable = "UPCONV_TEST_NO_ROOT"
)

// runAsRoot starts the tests of an ordinary user again, as the same process, as root of a user
// namespace. It returns only if it cannot.
func runAsRoot() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	// There is no network there to download what testdata/quic needs. If it fails the test says so.
	download := exec.Command("go", "mod", "download")
	download.Dir = "testdata/quic"
	download.Run()
	const script = "testdata/userns.sh"
	return fmt.Errorf("%s: %w", script, syscall.Exec(script, append([]string{script, exe}, os.Args[1:]...), os.Environ()))
}

// needRoot skips the test unless it has the rights of root, be it of a user namespace.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root, or user namespaces: %s", os.Getenv(noRootVariable))
	}
}

// needRealRoot skips the test in a user namespace.
func needRealRoot(t testing.TB, what string) {
	t.Helper()
	needRoot(t)
	if inUserNamespace() {
		skip(t, "needs root outside a user namespace: %s", what)
	}
}

// inUserNamespace reports whether root's rights are those of a user namespace.
func inUserNamespace() bool {
	ids, _ := os.ReadFile("/proc/self/uid_map")
	return strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295"
}

// needUsers skips the test unless there is a user ID for every user, of whom nobody is the last.
func needUsers(t testing.TB) {
	t.Helper()
	needRoot(t)
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(ids)) {
		var first, outside, count int
		if _, err := fmt.Sscan(line, &first, &outside, &count); err == nil && first <= nobodyID && nobodyID < first+count {
			return
		}
	}
	skip(t, "needs other user IDs than one's own: newuidmap(1), and 65,536 for this user in /etc/subuid and /etc/subgid")
}

const nobodyID = 65534

// needBPF skips the test where upconv may not look at sockets in the kernel.
func needBPF(t testing.TB) {
	t.Helper()
	if !hasBPF() {
		skip(t, "needs CAP_BPF and CAP_PERFMON outside a user namespace, BTF and Linux 6.14")
	}
}

// hasBPF reports whether upconv looks at sockets by BPF here.
func hasBPF() bool {
	out, _ := exec.Command(bin, "doctor").Output()
	return bytes.Contains(out, []byte("looks at sockets in the kernel"))
}
