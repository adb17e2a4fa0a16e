package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// suite is a test suite that can be run whole or in part.
type suite interface {
	name() string
	needs() string  // what must be installed
	prepare() error // compiles what must be compiled
	// command returns a program that runs the tests named in only, or all where that is nil, or
	// prints their names and runs none where mode is listing. Results go to the file out, or to the
	// program's outputs.
	command(mode mode, only []string, out string) (args []string, dir string, env []string)
	// list reads the names of all tests that can be asked for from what the listing printed.
	list(log string) ([]string, error)
	// parse reads results from out and log, the program's outputs. It takes what is there: the
	// program may have died in the middle.
	parse(out, log string) ([]record, error)
	// unit names the member of list that the test is or is part of.
	unit(test string) string
	// datagrams says whether the suite sends datagrams over IPv4, and so must have had such sockets
	// swapped.
	datagrams() bool
}

type mode int

const (
	running mode = iota
	listing
)

// result is how a test ended.
type result string

const (
	passed  result = "pass"
	failed  result = "FAIL"
	skipped result = "skip"
	died    result = "DIED"   // it was running when the whole suite crashed or hung
	absent  result = "absent" // it did not run, or does not exist, on this side
)

// record is one test's result and what it printed.
type record struct {
	test   string
	result result
	output string
}

// run is what came of running a suite, or part of it, in one of the two ways.
type run struct {
	order   []string
	records map[string]*record
	took    time.Duration
	swaps   swaps
	deaths  int // how often it crashed or hung and was started again with the tests that remained
}

// of returns the result of a test.
func (r *run) of(test string) result {
	if rec := r.records[test]; rec != nil {
		return rec.result
	}
	return absent
}

func (r *run) add(recs []record) {
	for _, rec := range recs {
		if r.records[rec.test] == nil {
			r.order = append(r.order, rec.test)
		}
		r.records[rec.test] = &rec
	}
}

// What a run may cost at most. A start of a suite needs far less than suiteLimit, and suites that
// crash more than maxDeaths times are not worth the time: what has not run by then is absent.
const (
	suiteLimit = 240 * time.Second
	maxDeaths  = 5
)

// lab is what the comparisons have in common.
type lab struct{ upconv, scratch string }

// wrap puts upconv with the identity policy before a command.
func (l *lab) wrap(args []string, here *place, events string) []string {
	to := "=netns:" + here.path()
	return append([]string{l.upconv, "run",
		// Named expressly, since local destinations are otherwise direct.
		"--rule", "0.0.0.0/8" + to, "--rule", "127.0.0.0/8" + to, "--rule", "*" + to,
		"--events", events, "--"}, args...)
}

// units lists a suite's tests, as command takes them.
func (l *lab) units(s suite, where *place) ([]string, error) {
	base := filepath.Join(l.scratch, file(s.name())+".list")
	args, dir, env := s.command(listing, nil, base+".out")
	if err := where.run(args, dir, env, base+".log", suiteLimit); err != nil {
		return nil, err
	}
	names, err := s.list(base + ".log")
	if err == nil && len(names) == 0 {
		text, _ := os.ReadFile(base + ".log")
		err = fmt.Errorf("no tests: %s", text)
	}
	return names, err
}

// do runs the units of a suite in where, natively or under upconv. A crash ends only the test that
// crashed: the suite is started again with those that remain.
func (l *lab) do(s suite, where *place, under bool, tag string, units []string) (*run, error) {
	r := &run{records: map[string]*record{}}
	base := filepath.Join(l.scratch, file(s.name())+"."+tag)
	began := time.Now()
	var events string
	if under {
		events = base + ".events"
		os.Remove(events)
	}
	for left := units; len(left) > 0 && r.deaths <= maxDeaths; {
		round := fmt.Sprintf("%s.%d", base, r.deaths)
		args, dir, env := s.command(running, left, round+".out")
		if under {
			args = l.wrap(args, where, events)
		}
		ended := where.run(args, dir, env, round+".log", suiteLimit)
		recs, err := s.parse(round+".out", round+".log")
		if err != nil {
			return nil, err
		}
		r.add(recs)
		seen := map[string]bool{}
		for _, rec := range recs {
			seen[s.unit(rec.test)] = true
		}
		before := len(left)
		left = slices.DeleteFunc(slices.Clone(left), func(u string) bool { return seen[u] })
		if len(left) == 0 && ended == nil {
			break
		}
		r.deaths++
		if len(left) == before {
			text, _ := os.ReadFile(round + ".log")
			return nil, fmt.Errorf("%d tests neither ran nor died, the first is %s (%v):\n%s", len(left), left[0], ended, tail(string(text)))
		}
	}
	r.took = time.Since(began)
	if under {
		var err error
		if r.swaps, err = countSwaps(events); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// file makes a file name of a suite's name.
func file(name string) string {
	return strings.NewReplacer(" ", "-", "/", "-").Replace(name)
}

// tail is the end of a long text.
func tail(text string) string {
	const most = 4000
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}
