// Fidelity runs test suites written by others natively and under upconv, and compares them test by
// test.
//
// The policy is the identity: every IPv4 destination, loopback too, is swapped for a socket of the
// very namespace that the suite runs in. So whatever a suite does to its sockets must come out as
// it does natively, and where it does not, the suite has found something that a swap gets wrong.
//
// Usage (as root, since it makes network namespaces):
//
//	go run ./integration/fidelity [-upconv FILE] [-run REGEXP] [-j N] [-keep DIR] [-list]
//
// It prints a table, and each test whose result differs with what that test printed. The exit
// status is 0 if all results are the same and every suite had connections swapped, and datagrams
// where it sends any, 1 if not, 2 if it could not find out.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
)

func main() {
	if os.Getenv(probing) != "" {
		result, err := probe()
		if err != nil {
			result = err.Error()
		}
		fmt.Println(result)
		return
	}
	os.Exit(func() int {
		ok, err := compareAll()
		if err != nil {
			fmt.Fprintln(os.Stderr, "fidelity:", err)
			return 2
		}
		if !ok {
			return 1
		}
		return 0
	}())
}

func compareAll() (ok bool, err error) {
	binary := flag.String("upconv", os.Getenv("UPCONV_BIN"), "the upconv to test; default $UPCONV_BIN")
	only := flag.String("run", "", "only suites whose name matches this regular expression")
	parallel := flag.Int("j", runtime.NumCPU()+1, "suites at a time, which mostly wait, each in a network namespace of its own")
	keep := flag.String("keep", "", "keep all that the suites wrote, and the events, in this directory")
	list := flag.Bool("list", false, "list the suites and what they need, and run nothing")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return false, err
	}

	scratch := *keep
	if scratch == "" {
		if scratch, err = os.MkdirTemp("", "upconv-fidelity-"); err != nil {
			return false, err
		}
		defer os.RemoveAll(scratch)
	}
	// Suites change their working directory, and ordinary users that they become look for files in
	// it.
	if scratch, err = filepath.Abs(scratch); err != nil {
		return false, err
	}
	if err := errors.Join(os.MkdirAll(scratch, 0o755), os.Chmod(scratch, 0o755)); err != nil {
		return false, err
	}

	var chosen []suite
	for _, s := range suites(scratch) {
		if pattern.MatchString(s.name()) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return false, fmt.Errorf("no suite's name matches %q", *only)
	}
	if *list {
		for _, s := range chosen {
			fmt.Printf("%-20s %s\n", s.name(), s.needs())
		}
		return true, nil
	}
	if os.Geteuid() != 0 {
		return false, errors.New("needs root: it makes network namespaces")
	}
	if *binary == "" {
		return false, errors.New("which upconv? -upconv FILE or UPCONV_BIN")
	}
	lab := &lab{scratch: scratch}
	if lab.upconv, err = filepath.Abs(*binary); err != nil {
		return false, err
	}
	if _, err := os.Stat(lab.upconv); err != nil {
		return false, err
	}

	// All of them, before the first is run: it is no use to learn after five minutes what is to be
	// installed.
	var wanting []error
	for _, s := range chosen {
		if err := s.prepare(); err != nil {
			wanting = append(wanting, fmt.Errorf("%s: %w (needs %s)", s.name(), err, s.needs()))
		}
	}
	if len(wanting) > 0 {
		return false, errors.Join(wanting...)
	}

	if slices.ContainsFunc(chosen, suite.datagrams) {
		if err := lab.proof(); err != nil {
			return false, err
		}
	}
	reports := make([]*report, len(chosen))
	turns := make(chan struct{}, *parallel)
	var all sync.WaitGroup
	for i, s := range chosen {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			reports[i] = lab.compare(s)
			fmt.Fprintf(os.Stderr, "%s: natively %.0f s, under upconv %.0f s\n", s.name(),
				reports[i].native.took.Seconds(), reports[i].upconv.took.Seconds())
		})
	}
	all.Wait()
	// With nothing else going on: a test that differs may have been short of time.
	for i, s := range chosen {
		if err := lab.repeat(s, reports[i]); err != nil {
			reports[i].err = errors.Join(reports[i].err, err)
		}
	}
	return write(os.Stdout, reports), nil
}
