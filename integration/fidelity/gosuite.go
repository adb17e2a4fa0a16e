package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// goSuite is the tests of a Go package: of the standard library, or of a module that this one
// needs.
type goSuite struct {
	title, pkg, binary string
	dir                string         // the package's, found by prepare
	only               *regexp.Regexp // which of its tests; nil: all
	udp, long          bool           // it sends datagrams; it is run without -test.short
}

func (g *goSuite) name() string {
	if g.title != "" {
		return g.title
	}
	return "go " + g.pkg
}

func (g *goSuite) datagrams() bool { return g.udp }

func (g *goSuite) needs() string { return "Go with its sources" }

func (g *goSuite) prepare() error {
	build := exec.Command("go", "test", "-c", "-o", g.binary, g.pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build, err, out)
	}
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", g.pkg).Output()
	g.dir = strings.TrimSpace(string(dir))
	return err
}

func (g *goSuite) command(mode mode, only []string, _ string) ([]string, string, []string) {
	// Tests find their testdata in the directory of their package.
	if mode == listing {
		return []string{g.binary, "-test.list=^(Test|Example|Fuzz)"}, g.dir, nil
	}
	return []string{g.binary, fmt.Sprintf("-test.short=%t", !g.long), "-test.v=test2json", "-test.timeout=100s",
		"-test.run=^(" + strings.Join(only, "|") + ")$"}, g.dir, nil
}

func (g *goSuite) list(log string) ([]string, error) {
	text, err := os.ReadFile(log)
	return slices.DeleteFunc(strings.Fields(string(text)), func(test string) bool {
		return g.only != nil && !g.only.MatchString(test)
	}), err
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

// parseTest2JSON reads what go tool test2json writes. Tests that were begun and not ended were
// running when the program died, except for those that waited for their turn: they may yet have
// one.
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
