package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// record is what go test -json prints of a package with tests of every kind, one that dies, and one that does not compile.
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
