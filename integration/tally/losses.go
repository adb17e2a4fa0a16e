package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// A loss is what docs/containers.md says of a refused call, and the tests that fail for it.
type loss struct {
	test           *regexp.Regexp // of a whole name, with the names of subtests
	reason         string
	failed, passed int // how many tests of it did
}

// sometimes begins the reason for what need not fail.
const sometimes = "sometimes "

// readLosses reads those lines of a file that are about a refusal. A line is three fields, with
// tabs between them: a regular expression for refusals, one for tests, and the reason. Empty lines
// and those that begin with # are comments.
func readLosses(file, refusal string) (losses []*loss, err error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == '\t' })
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: not a refusal, a test and a reason: %s", file, line)
		}
		var whole [2]*regexp.Regexp
		for i := range whole {
			if whole[i], err = regexp.Compile("^(?:" + fields[i] + ")$"); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
		if whole[0].MatchString(refusal) {
			losses = append(losses, &loss{test: whole[1], reason: fields[2]})
		}
	}
	return losses, nil
}

// lose counts a test that a loss is about, and reports whether it has failed for that.
func (t *tally) lose(n name, result string) bool {
	for _, l := range t.losses {
		if t.died || !l.test.MatchString(n.test) {
			continue
		}
		switch result {
		case "fail":
			l.failed++
			return true
		case "pass":
			l.passed++
		}
	}
	return false
}

// onlyLosses reports whether nothing has failed but what may.
func (t *tally) onlyLosses() bool {
	failed := 0
	for _, l := range t.losses {
		failed += l.failed
	}
	return failed > 0 && t.results["fail"] == 0 && !t.died
}

// held lists the losses whose tests have all passed, but for those that happen sometimes.
func (t *tally) held() (lines []string) {
	for _, l := range t.losses {
		if l.failed == 0 && l.passed > 0 && !strings.HasPrefix(l.reason, sometimes) {
			lines = append(lines, fmt.Sprintf("  %s: %s\n", l.test, l.reason))
		}
	}
	return lines
}
