// Tally runs go test, prints what it prints without -v, and ends with how many tests there were,
// and how many were skipped for which reason. Its arguments are those of go test; "--" begins
// another run.
//
// $TALLY_AGAIN is how often tests that have failed are run again, alone, see again.go.
// $UPCONV_TEST_SKIPS names a file of regular expressions, one a line: a test that is skipped for a
// reason that none of them matches is a failure. $UPCONV_TEST_LOSSES names a file of what cannot
// hold where $UPCONV_REFUSE is refused: losses.go.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

func main() {
	allowed, err := readAllowed(os.Getenv("UPCONV_TEST_SKIPS"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	losses, err := readLosses(os.Getenv("UPCONV_TEST_LOSSES"), os.Getenv("UPCONV_REFUSE"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	t := newTally(os.Stdout)
	t.losses = losses
	status := 0
	for _, args := range splitRuns(os.Args[1:]) {
		if status = goTest(t, args); status != 0 {
			break
		}
	}
	t.summary(os.Stdout)
	if unexpected := t.unexpected(allowed); len(unexpected) > 0 {
		fmt.Printf("FAIL: skipped, but should have run here:\n%s", strings.Join(unexpected, ""))
		status = max(status, 1)
	}
	if held := t.held(); len(held) > 0 {
		fmt.Printf("FAIL: listed as lost, but holds:\n%s", strings.Join(held, ""))
		status = max(status, 1)
	}
	os.Exit(status)
}

// splitRuns cuts the arguments at "--".
func splitRuns(args []string) (runs [][]string) {
	for {
		end := slices.Index(args, "--")
		if end < 0 {
			return append(runs, args)
		}
		runs, args = append(runs, args[:end]), args[end+1:]
	}
}

// goTest runs go test and returns its exit status.
func goTest(t *tally, args []string) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	err = t.read(out)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		cmd.Process.Kill()
	}
	var exit *exec.ExitError
	switch waited := cmd.Wait(); {
	case errors.As(waited, &exit) && exit.ExitCode() == 1 && (t.onlyLosses() || t.settle(args, timesAgain())):
		return 0
	case errors.As(waited, &exit):
		return max(exit.ExitCode(), 1)
	case waited != nil || err != nil:
		return 2
	}
	return 0
}

// An event is a line of go test -json: go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

// A name says which test.
type name struct{ pkg, test string }

// above yields the tests that may have this one as a subtest, whose own name may have slashes, too.
func (n name) above(yield func(name) bool) {
	for i := range n.test {
		if n.test[i] == '/' && !yield(name{n.pkg, n.test[:i]}) {
			return
		}
	}
}

// A tally is what became of the tests. Only those without subtests count.
type tally struct {
	out     io.Writer
	running map[name][]string // what a test that has not ended has printed
	parents map[name]bool     // tests that have subtests
	results map[string]int    // by "pass", "fail" and "skip"
	skipped map[string][]name // by reason
	losses  []*loss           // what may fail
	failed  map[name]bool     // tests a subtest of which has failed; false: all that have are lost
	died    bool              // a package did not compile, or ended in the middle of a test

	failures, unsteady []name // see settle
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, running: map[name][]string{}, parents: map[name]bool{}, results: map[string]int{}, skipped: map[string][]name{}, failed: map[name]bool{}}
}

// read takes what go test -json prints, and prints what is to be seen of it.
func (t *tally) read(from io.Reader) error {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case len(line) == 0:
		case json.Unmarshal(line, &e) != nil || e.Action == "":
			t.out.Write(line) // of go itself
		default:
			t.take(e)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (t *tally) take(e event) {
	n := name{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		t.died = true
		io.WriteString(t.out, e.Output)
	case e.Action == "run":
		t.running[n] = nil
		for parent := range n.above {
			t.parents[parent] = true
		}
	case e.Action == "output" && e.Test == "":
		if e.Output != "PASS\n" && e.Output != "FAIL\n" {
			io.WriteString(t.out, e.Output)
		}
	case e.Action == "output":
		if !strings.HasPrefix(e.Output, "=== ") {
			t.running[n] = append(t.running[n], e.Output)
		}
	case e.Test == "" && e.Action == "fail":
		for n := range t.running { // it died in them
			if n.pkg == e.Package {
				t.died = true
				t.end(n, "fail")
			}
		}
	case e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
		t.end(n, e.Action)
	}
}

// end takes the end of a test.
func (t *tally) end(n name, result string) {
	output := t.running[n]
	delete(t.running, n)
	lost := !t.parents[n] && t.lose(n, result)
	if result == "fail" {
		for parent := range n.above {
			t.failed[parent] = t.failed[parent] || !lost
		}
	}
	failed, broken := t.failed[n] // a test fails with its subtests, and is lost with them
	if lost || broken && !failed {
		return
	}
	if result == "fail" {
		io.WriteString(t.out, strings.Join(output, ""))
	}
	if t.parents[n] && (result != "fail" || broken) {
		return
	}
	t.results[result]++
	if result == "fail" {
		t.failures = append(t.failures, n)
	}
	if result == "skip" {
		reason := skipReason(output)
		t.skipped[reason] = append(t.skipped[reason], n)
	}
}

// logged is a line that a test has logged.
var logged = regexp.MustCompile(`^\s+[\w.-]+\.go:\d+: (.*)`)

// skipReason is the last line that a skipped test has logged.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		if m := logged.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

// summary prints how many tests there were, and the reasons for what was skipped, the most frequent
// first.
func (t *tally) summary(to io.Writer) {
	fmt.Fprintf(to, "\n%d tests passed, %d failed, %d skipped\n", t.results["pass"], t.results["fail"], t.results["skip"])
	for _, reason := range t.reasons() {
		fmt.Fprintf(to, "%6d skipped: %s\n", len(t.skipped[reason]), reason)
	}
	for _, l := range t.losses {
		if l.failed > 0 {
			fmt.Fprintf(to, "%6d lost: %s\n", l.failed, l.reason)
		}
	}
	t.tellUnsteady(to)
}

func (t *tally) reasons() (all []string) {
	for reason := range t.skipped {
		all = append(all, reason)
	}
	slices.SortFunc(all, func(a, b string) int {
		if more := len(t.skipped[b]) - len(t.skipped[a]); more != 0 {
			return more
		}
		return strings.Compare(a, b)
	})
	return all
}

// unexpected lists the tests that were skipped for none of the allowed reasons; nil allows all.
func (t *tally) unexpected(allowed []*regexp.Regexp) (lines []string) {
	for _, reason := range t.reasons() {
		if allowed == nil || slices.ContainsFunc(allowed, func(r *regexp.Regexp) bool { return r.MatchString(reason) }) {
			continue
		}
		for _, n := range t.skipped[reason] {
			lines = append(lines, fmt.Sprintf("  %s %s: %s\n", n.pkg, n.test, reason))
		}
	}
	return lines
}

// readAllowed reads the expressions of a file. Empty lines and those that begin with # are
// comments.
func readAllowed(file string) (allowed []*regexp.Regexp, err error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	allowed = []*regexp.Regexp{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		expression, err := regexp.Compile("^(?:" + line + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		allowed = append(allowed, expression)
	}
	return allowed, nil
}
