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

// options are what the command line says.
type options struct {
	upconv   string // the file to test
	keep     string // where all that the suites write is kept; "": nowhere
	parallel int
	list     bool
	only     *regexp.Regexp // names of suites
}

// readOptions reads the command line.
func readOptions() (o options, err error) {
	flag.StringVar(&o.upconv, "upconv", os.Getenv("UPCONV_BIN"), "the upconv to test; default $UPCONV_BIN")
	only := flag.String("run", "", "only suites whose name matches this regular expression")
	flag.IntVar(&o.parallel, "j", runtime.NumCPU()+1, "suites at a time, which mostly wait, each in a network namespace of its own")
	flag.StringVar(&o.keep, "keep", "", "keep all that the suites wrote, and the events, in this directory")
	flag.BoolVar(&o.list, "list", false, "list the suites and what they need, and run nothing")
	flag.Parse()
	o.only, err = regexp.Compile(*only)
	return o, err
}

// compareAll runs the chosen suites and prints what has come out, or lists them. ok is whether all
// came out the same.
func compareAll() (ok bool, err error) {
	o, err := readOptions()
	if err != nil {
		return false, err
	}
	scratch, remove, err := openScratch(o.keep)
	if err != nil {
		return false, err
	}
	defer remove()
	var chosen []suite
	for _, s := range suites(scratch) {
		if o.only.MatchString(s.name()) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return false, fmt.Errorf("no suite's name matches %q", o.only)
	}
	if o.list {
		for _, s := range chosen {
			fmt.Printf("%-20s %s\n", s.name(), s.needs())
		}
		return true, nil
	}
	lab, err := newLab(scratch, o.upconv)
	if err != nil {
		return false, err
	}
	if err := prepareAll(chosen); err != nil {
		return false, err
	}
	if slices.ContainsFunc(chosen, suite.datagrams) {
		if err := lab.proof(); err != nil {
			return false, err
		}
	}
	reports := lab.runAll(chosen, o.parallel)
	return write(os.Stdout, reports), nil
}

// openScratch makes the directory that suites work in: keep, or if that is "" a new one, which
// remove removes.
func openScratch(keep string) (scratch string, remove func(), err error) {
	scratch, remove = keep, func() {}
	if keep == "" {
		if scratch, err = os.MkdirTemp("", "upconv-fidelity-"); err != nil {
			return "", nil, err
		}
		made := scratch
		remove = func() { os.RemoveAll(made) }
	}
	// Suites change their working directory, and ordinary users that they become look for files in
	// it.
	if scratch, err = filepath.Abs(scratch); err == nil {
		err = errors.Join(os.MkdirAll(scratch, 0o755), os.Chmod(scratch, 0o755))
	}
	if err != nil {
		remove()
		return "", nil, err
	}
	return scratch, remove, nil
}

// newLab returns the lab in which binary is tested.
func newLab(scratch, binary string) (*lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: it makes network namespaces")
	}
	if binary == "" {
		return nil, errors.New("which upconv? -upconv FILE or UPCONV_BIN")
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return &lab{scratch: scratch, upconv: path}, nil
}

// prepareAll gets all suites ready before the first is run: it is no use to learn after five
// minutes what is to be installed.
func prepareAll(chosen []suite) error {
	var wanting []error
	for _, s := range chosen {
		if err := s.prepare(); err != nil {
			wanting = append(wanting, fmt.Errorf("%s: %w (needs %s)", s.name(), err, s.needs()))
		}
	}
	return errors.Join(wanting...)
}

// runAll runs suites, as many at a time as parallel says.
func (l *lab) runAll(chosen []suite, parallel int) []*report {
	reports := make([]*report, len(chosen))
	turns := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for i, s := range chosen {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			reports[i] = l.compare(s)
			fmt.Fprintf(os.Stderr, "%s: natively %.0f s, under upconv %.0f s\n", s.name(),
				reports[i].native.took.Seconds(), reports[i].upconv.took.Seconds())
		})
	}
	all.Wait()
	// With nothing else going on: a test that differs may have been short of time.
	for i, s := range chosen {
		if err := l.repeat(s, reports[i]); err != nil {
			reports[i].err = errors.Join(reports[i].err, err)
		}
	}
	return reports
}
