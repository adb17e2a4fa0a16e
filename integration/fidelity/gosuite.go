package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// goSuite is the tests of a package of Go's standard library.
type goSuite struct{ pkg, binary string }

func (g *goSuite) name() string { return "go " + g.pkg }

func (g *goSuite) needs() string { return "Go with its sources" }

func (g *goSuite) prepare() error {
	// Tests of the standard library find their testdata in the directory of their package.
	build := exec.Command("go", "test", "-c", "-o", g.binary, g.pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build, err, out)
	}
	return nil
}

func (g *goSuite) command(mode mode, only []string, _ string) ([]string, string, []string) {
	dir := filepath.Join(goroot(), "src", g.pkg)
	if mode == listing {
		return []string{g.binary, "-test.list=^(Test|Example|Fuzz)"}, dir, nil
	}
	return []string{g.binary, "-test.short", "-test.v=test2json", "-test.timeout=100s",
		"-test.run=^(" + strings.Join(only, "|") + ")$"}, dir, nil
}

func (g *goSuite) list(log string) ([]string, error) {
	text, err := os.ReadFile(log)
	return strings.Fields(string(text)), err
}

func (g *goSuite) unit(test string) string {
	top, _, _ := strings.Cut(test, "/")
	return top
}

func (g *goSuite) parse(_, log string) ([]record, error) {
	in, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	convert := exec.Command("go", "tool", "test2json")
	convert.Stdin = in
	out, err := convert.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", convert, err)
	}
	return parseTest2JSON(out)
}

// parseTest2JSON reads what go tool test2json writes. Tests that were begun and not ended were running when
// the program died, except for those that waited for their turn: they may yet have one.
func parseTest2JSON(text []byte) ([]record, error) {
	var order []string
	tests := map[string]*record{}
	paused := map[string]bool{}
	for lines := bufio.NewReader(bytes.NewReader(text)); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			break
		}
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("test2json: %w: %q", err, line)
		}
		if e.Test == "" {
			continue
		}
		rec := tests[e.Test]
		if rec == nil {
			rec = &record{test: e.Test, result: died}
			tests[e.Test] = rec
			order = append(order, e.Test)
		}
		if rec.result == failed && e.Action != "output" {
			continue // crypto/tls runs some tests twice under one name
		}
		switch e.Action {
		case "pause":
			paused[e.Test] = true
		case "cont":
			paused[e.Test] = false
		case "output":
			rec.output += e.Output
		case "pass":
			rec.result = passed
		case "fail":
			rec.result = failed
		case "skip":
			rec.result = skipped
		}
	}
	var all []record
	for _, test := range order {
		if rec := tests[test]; rec.result != died || !paused[test] {
			all = append(all, *rec)
		}
	}
	return all, nil
}

// goroot is where Go's sources are.
func goroot() string {
	out, _ := exec.Command("go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(out))
}
