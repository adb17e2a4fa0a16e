package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Most integration tests compare what a program sees natively with what it sees under upconv, and
// some of that depends on when a busy machine runs which thread. So a few tests that have failed
// are run again, alone, several times: one that passes each time is told of as unsteady, and is no
// failure. Each such test stands for something to look into, be it in the test or in upconv.

// maxAgain is how many tests may fail and be run again. More are no accident.
const maxAgain = 3

// timesAgain returns how often a test that has failed is run again, from $TALLY_AGAIN; 0: never.
func timesAgain() int {
	n, err := strconv.Atoi(os.Getenv("TALLY_AGAIN"))
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// againArgs returns the arguments of go test that run a test again so many times, alone, after a
// run with args.
func againArgs(n name, args []string, times int) []string {
	again := []string{"test", "-count=" + strconv.Itoa(times), "-timeout=5m", "-failfast"}
	if slices.Contains(args, "-race") {
		again = append(again, "-race")
	}
	var levels []string
	for level := range strings.SplitSeq(n.test, "/") {
		levels = append(levels, "^"+regexp.QuoteMeta(level)+"$")
	}
	return append(again, "-run="+strings.Join(levels, "/"), n.pkg)
}

// settle runs the tests that have failed again, after a run with args, and reports whether all of
// them have passed each time. They are then unsteady, and no failures.
func (t *tally) settle(args []string, times int) bool {
	if times == 0 || t.died || len(t.failures) == 0 || len(t.failures) > maxAgain {
		return false
	}
	for _, n := range t.failures {
		fmt.Fprintf(t.out, "again, %d times: %s %s\n", times, n.pkg, n.test)
		cmd := exec.Command("go", againArgs(n, args, times)...)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "no tests to run") {
			t.out.Write(out)
			return false
		}
	}
	t.results["fail"] -= len(t.failures)
	t.unsteady = append(t.unsteady, t.failures...)
	t.failures = nil
	return true
}

// tellUnsteady prints which tests are unsteady.
func (t *tally) tellUnsteady(to io.Writer) {
	for _, n := range t.unsteady {
		fmt.Fprintf(to, "unsteady: failed once, and then passed each time: %s %s\n", n.pkg, n.test)
	}
}
