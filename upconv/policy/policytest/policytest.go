// Package policytest is for tests of what takes rules.
package policytest

import (
	"errors"
	"testing"

	"github.com/upconv/upconv/upconv/policy"
)

// Rules reads rules.
func Rules(t testing.TB, texts ...string) []policy.Rule {
	t.Helper()
	var rules []policy.Rule
	for _, text := range texts {
		rule, err := policy.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	return rules
}

// CheckSyntaxError checks that an error about in is a *policy.SyntaxError that points at
// in[start:end].
func CheckSyntaxError(t testing.TB, in string, start, end int, err error) {
	t.Helper()
	var e *policy.SyntaxError
	if !errors.As(err, &e) {
		t.Errorf("%q: error %v, want a *policy.SyntaxError", in, err)
		return
	}
	if e.Start != start || e.End != end {
		t.Errorf("%q: points at %q [%d:%d], want [%d:%d]: %v", in, e.Input[e.Start:e.End], e.Start, e.End, start, end, e)
	}
}
