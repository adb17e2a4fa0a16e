package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// runOf makes a run of "test=result" words.
func runOf(words ...string) *run {
	r := &run{records: map[string]*record{}}
	for _, word := range words {
		test, res, _ := strings.Cut(word, "=")
		r.add([]record{{test: test, result: result(res)}})
	}
	return r
}

func TestDifferences(t *testing.T) {
	native := runOf("A=pass", "B=skip", "C=pass", "D=FAIL", "E=pass")
	upconv := runOf("A=pass", "C=skip", "D=FAIL", "E=DIED", "F=pass")
	var got []string
	for _, d := range differences(native, upconv) {
		got = append(got, d.test+":"+string(d.native[0])+":"+string(d.upconv[0]))
	}
	// Nothing that ran natively may be skipped or missing, nor may anything come out of nowhere.
	want := []string{"B:skip:absent", "C:pass:skip", "E:pass:DIED", "F:absent:pass"}
	if !slices.Equal(got, want) {
		t.Errorf("differences %q, want %q", got, want)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name           string
		native, upconv []result
		different      bool
	}{
		{"always", []result{passed, passed, passed}, []result{failed, failed, failed}, true},
		{"now and then, natively never", []result{passed, passed, passed}, []result{failed, passed, failed}, true},
		{"natively too", []result{passed, failed, passed}, []result{failed, passed, failed}, false},
		{"never again", []result{passed, passed, passed}, []result{failed, passed, passed}, false},
		{"unsteady natively, but never skipped", []result{passed, failed}, []result{failed, skipped}, true},
		{"not repeated", []result{passed}, []result{failed}, true},
	} {
		rep := repetition{native: c.native, upconv: c.upconv}
		if got := rep.different(); got != c.different {
			t.Errorf("%s: different %v, want %v", c.name, got, c.different)
		}
	}
}

func TestNothingSwappedIsNotOK(t *testing.T) {
	r := &report{suite: "s", native: *runOf("A=pass"), upconv: *runOf("A=pass")}
	var text strings.Builder
	if write(&text, []*report{r}) || !strings.Contains(text.String(), "nothing was swapped") {
		t.Errorf("a suite in which nothing was swapped passes:\n%s", &text)
	}
	r.upconv.swaps.swapped = 1
	if text.Reset(); !write(&text, []*report{r}) {
		t.Errorf("a suite like the native one does not pass:\n%s", &text)
	}
	// Where datagrams are sent, connections alone prove nothing.
	r.datagrams = true
	if text.Reset(); write(&text, []*report{r}) || !strings.Contains(text.String(), "no datagram socket was swapped") {
		t.Errorf("a suite with datagrams passes without any of them swapped:\n%s", &text)
	}
	r.upconv.swaps.udp = 1
	if text.Reset(); !write(&text, []*report{r}) {
		t.Errorf("a suite with datagrams, like the native one, does not pass:\n%s", &text)
	}
	r.err = errors.New("incomplete")
	if text.Reset(); write(&text, []*report{r}) {
		t.Errorf("a suite that could not be compared passes:\n%s", &text)
	}
}

func TestCountSwaps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events")
	os.WriteFile(file, []byte(`{"call":"connect","route":"netns:/proc/1/fd/3","local":"127.0.0.1:40000","result":"ok"}
{"call":"connect","route":"netns:/proc/1/fd/3","local":"","result":"EADDRINUSE"}
{"call":"connect","route":"direct","local":"","result":"ok"}
{"call":"sendto","proto":"udp","route":"netns:/proc/1/fd/3","local":"127.0.0.1:40001","result":"ok"}
{"call":"sendto","proto":"udp","route":"netns:/proc/1/fd/3","result":"EPERM"}
{"time":"2026-01-01T00:00:00Z","dropped":3}
`), 0o644)
	s, err := countSwaps(file)
	if err != nil || s.swapped != 2 || s.udp != 1 || s.direct != 1 || s.dropped != 3 || s.failed["EADDRINUSE"] != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestParseTest2JSON(t *testing.T) {
	recs, err := parseTest2JSON([]byte(`{"Action":"start"}
{"Action":"run","Test":"A"}
{"Action":"pass","Test":"A"}
{"Action":"run","Test":"Waiting"}
{"Action":"pause","Test":"Waiting"}
{"Action":"run","Test":"B"}
{"Action":"run","Test":"B/sub"}
{"Action":"output","Test":"B/sub","Output":"oh\n"}
{"Action":"skip","Test":"B/sub"}
{"Action":"run","Test":"Twice"}
{"Action":"fail","Test":"Twice"}
{"Action":"run","Test":"Twice"}
{"Action":"pass","Test":"Twice"}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range recs {
		got = append(got, r.test+"="+string(r.result)+r.output)
	}
	// B was running when the program died; Waiting was not, and is to have its turn yet.
	want := []string{"A=pass", "B=DIED", "B/sub=skipoh\n", "Twice=FAIL"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestUnittests runs unittests.py over a module that does all the things that tests do.
func TestUnittests(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("UPCONV_TEST_ALL") != "" {
			t.Fatal("needs python3")
		}
		t.Skip("needs python3")
	}
	dir := t.TempDir()
	t.Setenv("PYTHONPATH", dir)
	os.WriteFile(filepath.Join(dir, "sample.py"), []byte(`
import os, unittest

class A(unittest.TestCase):
    def test_1_good(self): pass
    def test_2_bad(self): self.fail("so bad")
    def test_3_skipped(self): self.skipTest("why")
    def test_4_parts(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertNotEqual(i, 1)
    def test_5_bad_end(self):
        self.addCleanup(self.fail, "late")
    @unittest.expectedFailure
    def test_6_known(self): self.fail()
    @unittest.skip("never")
    def test_7_never(self): pass
    def test_8_left_out(self): pass

class B(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("not here")
    def test_of_skipped_class(self): pass

class C(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no")
    def test_of_failed_class(self): pass

class D(unittest.TestCase):
    def test_crash(self): os._exit(3)
    def test_later(self): pass
`), 0o644)
	p := &pySuite{modules: []string{"sample"}, without: []string{"left_out"}, scratch: dir, python: python}
	if err := os.WriteFile(p.driver(), []byte(unittests), 0o644); err != nil {
		t.Fatal(err)
	}
	out, log := filepath.Join(dir, "out"), filepath.Join(dir, "log")
	start := func(mode mode, only []string) {
		args, wd, _ := p.command(mode, only, out)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = wd
		text, _ := cmd.CombinedOutput()
		os.WriteFile(log, text, 0o644)
	}
	start(listing, nil)
	names, err := p.list(log)
	if err != nil || len(names) != 11 {
		t.Fatalf("list: %q, %v", names, err)
	}
	start(running, names)
	recs, err := p.parse(out, log)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range recs {
		got = append(got, strings.TrimPrefix(r.test, "sample.")+"="+string(r.result))
		if r.result == failed && r.output == "" {
			t.Errorf("%s has failed without output", r.test)
		}
	}
	want := []string{"A.test_1_good=pass", "A.test_2_bad=FAIL", "A.test_3_skipped=skip", "A.test_4_parts=FAIL",
		"A.test_5_bad_end=FAIL", "A.test_6_known=pass", "A.test_7_never=skip",
		"B.test_of_skipped_class=skip", "C.test_of_failed_class=FAIL", "D.test_crash=DIED"}
	if !slices.Equal(got, want) {
		text, _ := os.ReadFile(log)
		t.Errorf("got  %q\nwant %q\n%s", got, want, text)
	}
}
