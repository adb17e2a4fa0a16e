package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// unittests.py runs modules of unittest tests and writes one JSON object a line for what happens.
//
//go:embed unittests.py
var unittests string

// pySuite is a number of modules of Python tests.
type pySuite struct {
	title, packages string
	modules         []string
	without         []string // parts of the names of tests that cannot be run: see suites
	scratch         string
	python          string // found by prepare
	udp             bool   // it sends datagrams
}

func (p *pySuite) name() string { return p.title }

func (p *pySuite) datagrams() bool { return p.udp }

func (p *pySuite) needs() string { return p.packages }

func (p *pySuite) driver() string { return filepath.Join(p.scratch, "unittests.py") }

// prepare looks for a Python that has the modules: Debian's, or else the one in PATH.
func (p *pySuite) prepare() error {
	if err := os.WriteFile(p.driver(), []byte(unittests), 0o644); err != nil {
		return err
	}
	const find = "import importlib.util, sys\n" +
		"for m in sys.argv[1:]:\n    if not importlib.util.find_spec(m): sys.exit('no module ' + m)\n" +
		"print(sys.executable)"
	var wanting []string
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		var errs strings.Builder
		look := exec.Command(python, append([]string{"-c", find}, p.modules...)...)
		look.Stderr = &errs
		out, err := look.Output()
		if err == nil {
			p.python = strings.TrimSpace(string(out))
			return nil
		}
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		wanting = append(wanting, fmt.Sprintf("%s: %s", python, lines[len(lines)-1]))
	}
	slices.Sort(wanting)
	return fmt.Errorf("no Python has these tests: %s", strings.Join(slices.Compact(wanting), "; "))
}

func (p *pySuite) command(mode mode, only []string, out string) ([]string, string, []string) {
	os.Remove(out)
	chosen, dir := out+".only", out+".dir"
	os.WriteFile(chosen, []byte(strings.Join(only, "\n")), 0o644)
	os.Mkdir(dir, 0o755) // tests leave files where they are
	args := []string{p.python, "-W", "ignore", p.driver(), out, chosen}
	if mode == listing {
		args[len(args)-1] = "-"
	}
	// Equal hashes, equal order.
	return append(args, p.modules...), dir, []string{"PYTHONHASHSEED=0"}
}

func (p *pySuite) list(log string) ([]string, error) {
	text, err := os.ReadFile(log)
	var names []string
	for name := range strings.Lines(string(text)) {
		name = strings.TrimSuffix(name, "\n")
		if rest, ok := strings.CutPrefix(name, "TEST "); ok && !p.excluded(rest) {
			names = append(names, rest)
		}
	}
	return names, err
}

func (p *pySuite) excluded(test string) bool {
	return slices.ContainsFunc(p.without, func(part string) bool { return strings.Contains(test, part) })
}

// unit is the test itself: unittest knows no parts that could be told apart.
func (p *pySuite) unit(test string) string { return test }

func (p *pySuite) parse(out, log string) ([]record, error) {
	f, err := os.Open(out)
	if os.IsNotExist(err) {
		return nil, nil // it died before it could begin
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []record
	at := map[string]int{}
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var e struct{ Test, Result, Output string }
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: %w: %q", out, err, line)
		}
		i, known := at[e.Test]
		if !known {
			i = len(all)
			at[e.Test] = i
			all = append(all, record{test: e.Test})
		}
		all[i].result = result(e.Result)
		all[i].output += e.Output
	}
	for i := range all {
		if all[i].result == died {
			text, _ := os.ReadFile(log)
			all[i].output += tail(string(text))
		}
	}
	return all, nil
}
