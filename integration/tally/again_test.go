package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is a package with one test that passes, one that fails the first time, and one that always
// fails if it is told to.
const module = `package p

import (
	"os"
	"testing"
)

func TestGood(t *testing.T) {}

func TestParent(t *testing.T) {
	t.Run("once a (b)", func(t *testing.T) {
		if _, err := os.Stat("was here"); err != nil {
			os.WriteFile("was here", nil, 0o600)
			t.Error("the first time")
		}
	})
	t.Run("always", func(t *testing.T) {
		if os.Getenv("ALWAYS") != "" {
			t.Error("each time")
		}
	})
}
`

// TestAgain runs a real package: a test that fails once is unsteady, and one that always fails is a
// failure.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"go.mod": "module p\n\ngo 1.24\n", "p_test.go": module} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "-mod=mod")
	for _, c := range []struct {
		always, again string
		status        int
		failed        int
		unsteady      bool
	}{
		{"", "", 1, 1, false},
		{"", "2", 0, 0, true},
		{"yes", "2", 1, 2, false},
	} {
		os.Remove("was here")
		t.Setenv("ALWAYS", c.always)
		t.Setenv("TALLY_AGAIN", c.again)
		var out strings.Builder
		all := newTally(&out)
		status := goTest(all, []string{"-count=1", "./..."})
		all.summary(&out)
		told := strings.Contains(out.String(), "unsteady: failed once, and then passed each time: p TestParent/once_a_(b)\n")
		if status != c.status || all.results["fail"] != c.failed || told != c.unsteady {
			t.Errorf("%+v: status %d, %d failed, unsteady %v:\n%s", c, status, all.results["fail"], told, out.String())
		}
	}
}

// TestAgainArgs names the test by expressions that match nothing else.
func TestAgainArgs(t *testing.T) {
	got := againArgs(name{"example.com/p", "TestA/b.c/d(e)"}, []string{"-race", "-count=1", "./..."}, 3)
	want := []string{"test", "-count=3", "-timeout=5m", "-failfast", "-race", `-run=^TestA$/^b\.c$/^d\(e\)$`, "example.com/p"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
