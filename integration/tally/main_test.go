package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// record is what go test -json prints of a package with tests of every kind, one that dies, and one
// that does not compile.
const record = `go: downloading something
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"    a_test.go:1: not to be seen\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"run","Package":"p","Test":"TestParent"}
{"Action":"run","Package":"p","Test":"TestParent/one"}
{"Action":"output","Package":"p","Test":"TestParent/one","Output":"    a_test.go:7: needs a kernel: 6.14\n"}
{"Action":"output","Package":"p","Test":"TestParent/one","Output":"    --- SKIP: TestParent/one (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestParent/one"}
{"Action":"run","Package":"p","Test":"TestParent/two"}
{"Action":"output","Package":"p","Test":"TestParent/two","Output":"    a_test.go:9: what is wrong\n"}
{"Action":"fail","Package":"p","Test":"TestParent/two"}
{"Action":"fail","Package":"p","Test":"TestParent"}
{"Action":"run","Package":"p","Test":"TestSilent"}
{"Action":"skip","Package":"p","Test":"TestSilent"}
{"Action":"run","Package":"p","Test":"TestSubprocess"}
{"Action":"output","Package":"p","Test":"TestSubprocess","Output":"    a_test.go:1: in a subprocess:\n"}
{"Action":"output","Package":"p","Test":"TestSubprocess","Output":"            b_test.go:3: needs a kernel: 6.14\n"}
{"Action":"output","Package":"p","Test":"TestSubprocess","Output":"        --- SKIP: TestSubprocess (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestSubprocess"}
{"Action":"run","Package":"p","Test":"TestDies"}
{"Action":"output","Package":"p","Test":"TestDies","Output":"panic: oh\n"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
{"ImportPath":"q","Action":"build-output","Output":"q.go:1: no such thing\n"}
{"Action":"output","Package":"r","Output":"ok  \tr\t0.1s\n"}
{"Action":"pass","Package":"r"}
`

func TestTally(t *testing.T) {
	var out strings.Builder
	all := newTally(&out)
	if err := all.read(strings.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	all.summary(&out)
	const want = `go: downloading something
    a_test.go:9: what is wrong
FAIL	p	0.1s
panic: oh
q.go:1: no such thing
ok  	r	0.1s

1 tests passed, 2 failed, 3 skipped
     2 skipped: needs a kernel: 6.14
     1 skipped: no reason given
`
	if out.String() != want {
		t.Errorf("it prints\n%s, want\n%s", out.String(), want)
	}
}

// TestUnexpected allows one reason, so that the other one is told with its test.
func TestUnexpected(t *testing.T) {
	all := newTally(&strings.Builder{})
	if err := all.read(strings.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(file, []byte("# kernels\n\nneeds a kernel: .*\nno reason\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	allowed, err := readAllowed(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(all.unexpected(allowed), ""); got != "  p TestSilent: no reason given\n" {
		t.Errorf("unexpected: %q", got)
	}
	if allowed, err := readAllowed(""); err != nil || all.unexpected(allowed) != nil {
		t.Errorf("without a file: %v, %v", all.unexpected(allowed), err)
	}
}

// TestLosses has one loss that explains a failure, one that does not concern this refusal, and one
// whose test passes.
func TestLosses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "losses")
	const text = "# what cannot hold\n\nkcmp\tTestParent/t.*\tplaces are lost\nbpf\tTestDies\tnever\nkcmp.*\tTestGood\tno longer so\nkcmp\tTestGood\tsometimes lost\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tallied := func(record string) *tally {
		losses, err := readLosses(file, "kcmp")
		if err != nil || len(losses) != 3 {
			t.Fatalf("%d losses, %v", len(losses), err)
		}
		all := newTally(&strings.Builder{})
		all.losses = losses
		if err := all.read(strings.NewReader(record)); err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := tallied(record)
	var out strings.Builder
	all.summary(&out)
	if !strings.HasPrefix(out.String(), "\n1 tests passed, 1 failed, 3 skipped\n") || !strings.HasSuffix(out.String(), "\n     1 lost: places are lost\n") {
		t.Errorf("it prints\n%s", out.String())
	}
	if got := strings.Join(all.held(), ""); got != "  ^(?:TestGood)$: no longer so\n" {
		t.Errorf("held: %q", got)
	}
	if all.onlyLosses() {
		t.Error("a package that died is a loss")
	}
	only, _, _ := strings.Cut(record, `{"Action":"run","Package":"p","Test":"TestDies"}`)
	if !tallied(only).onlyLosses() {
		t.Error("a loss is a failure")
	}
	const parent = `{"Action":"fail","Package":"p","Test":"TestGood2"}`
	if tallied(only + parent).onlyLosses() {
		t.Error("a failure beside a loss is a loss")
	}
	if _, err := readLosses(file, "x"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("kcmp TestParent places\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLosses(file, "kcmp"); err == nil {
		t.Error("a line without tabs is read")
	}
}

// TestParentAlone: a test that fails though its subtests have passed is a failure.
func TestParentAlone(t *testing.T) {
	const record = `{"Action":"run","Package":"p","Test":"TestParent"}
{"Action":"run","Package":"p","Test":"TestParent/one"}
{"Action":"pass","Package":"p","Test":"TestParent/one"}
{"Action":"fail","Package":"p","Test":"TestParent"}
`
	all := newTally(&strings.Builder{})
	if err := all.read(strings.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	if all.results["pass"] != 1 || all.results["fail"] != 1 {
		t.Errorf("%v", all.results)
	}
}

// TestSlashes: a parent is known by a subtest whose own name has a slash.
func TestSlashes(t *testing.T) {
	const record = `{"Action":"run","Package":"p","Test":"TestParent"}
{"Action":"run","Package":"p","Test":"TestParent/one/root"}
{"Action":"fail","Package":"p","Test":"TestParent/one/root"}
{"Action":"fail","Package":"p","Test":"TestParent"}
`
	all := newTally(&strings.Builder{})
	if err := all.read(strings.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	if all.results["fail"] != 1 {
		t.Errorf("%v", all.results)
	}
}
