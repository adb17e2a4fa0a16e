package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what is printed into testdata/*.golden")

// A golden file has command lines, each behind "$ ", with what they print and, if it is not 0,
// their exit status. Words are separated by one space; two make an empty word.
func testGolden(t *testing.T, file string) {
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(want)) {
		command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ upconv ")
		if !ok {
			continue
		}
		fmt.Fprintf(&got, "$ upconv %s\n", command)
		var out bytes.Buffer
		root := newRoot()
		root.SetArgs(strings.Split(command, " "))
		root.SetOut(&out)
		root.SetErr(&out)
		if status := execute(root); status != 0 {
			fmt.Fprintf(&out, "[%d]\n", status)
		}
		got.Write(out.Bytes())
		got.WriteByte('\n')
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(want) {
		for i, line := range strings.Split(got.String(), "\n") {
			if other := strings.Split(string(want), "\n"); i >= len(other) || other[i] != line {
				t.Fatalf("%s:%d: printed %q (go test ./cmd/upconv -update writes what is printed)\n%s", file, i+1, line, got.String())
			}
		}
		t.Fatalf("%s has more than is printed", file)
	}
}

func TestCheck(t *testing.T) { testGolden(t, "testdata/check.golden") }

func TestExplain(t *testing.T) {
	real := discover
	t.Cleanup(func() { discover = real })
	discover = func(string) ([]netip.Prefix, error) {
		return []netip.Prefix{netip.MustParsePrefix("2001:db8:64::/96")}, nil
	}
	testGolden(t, "testdata/explain.golden")
}

// What run refuses. Nothing in the file may get as far as upconv.Run, which would take the test's
// process over.
func TestRunErrors(t *testing.T) { testGolden(t, "testdata/run.golden") }
