package integration

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// refuseVariable names calls of refuse.c that every upconv of this run of the tests is refused,
// with the errno that errnoVariable names, EPERM by default. make test-refused sets them.
const (
	refuseVariable = "UPCONV_REFUSE"
	errnoVariable  = "UPCONV_REFUSE_ERRNO"
)

// Where the upconv that is refused calls has its text. No program that a test runs has any there,
// so that the filter, which these inherit, tells their calls from upconv's.
const (
	refusedLow  = 0x30000000
	refusedHigh = 0x40000000
)

// makeRefused makes an executable that starts upconv under a filter that refuses its calls. It
// returns upconv's own path.
func makeRefused(path, calls string) (upconv string, err error) {
	dir := filepath.Join(filepath.Dir(path), "refused")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	upconv = filepath.Join(dir, filepath.Base(path)) // of the same name in ps(1)
	if err := makeBuild(upconv, fmt.Sprintf("TEXT=%#x", refusedLow)); err != nil {
		return "", err
	}
	compile := exec.Command("gcc", "-static", "-O1", "-Wall", "-o", path, fmt.Sprintf("-DPROGRAM=%q", upconv), fmt.Sprintf("-DCALLS=%q", calls),
		"-DERRNO="+cmp.Or(os.Getenv(errnoVariable), "EPERM"), fmt.Sprintf("-DLOW=%#x", refusedLow), fmt.Sprintf("-DHIGH=%#x", refusedHigh), "testdata/refuse.c")
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", compile, err, out)
	}
	return upconv, nil
}

// refusingFilters returns how many filters a command has for that.
func refusingFilters() int {
	if os.Getenv(refuseVariable) == "" {
		return 0
	}
	return 1
}
