package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// report is a suite's comparison.
type report struct {
	suite          string
	datagrams      bool // it sends some
	native, upconv run
	repeated       []repetition // tests that differed at first
	err            error        // why there is no comparison, or not the whole of one
}

// repetition is a test whose result differed at first and that was run again, both ways.
type repetition struct {
	test           string
	native, upconv []result // the first one first
	output         string   // what it printed under upconv when it differed
	nativeOutput   string
}

// different is the verdict: whether upconv, and not the test's own unsteadiness, made the
// difference.
//
// A test that natively has several results may have any of them. One that differed the first time,
// when much was going on, and then never again is unsteady as well, only more seldom than repeating
// has shown.
func (r *repetition) different() bool {
	if len(r.upconv) < 2 {
		return true // it could not be repeated
	}
	return slices.ContainsFunc(r.upconv[1:], func(u result) bool { return !slices.Contains(r.native, u) })
}

// different returns the tests that upconv makes a difference to.
func (r *report) different() []repetition {
	return slices.DeleteFunc(slices.Clone(r.repeated), func(r repetition) bool { return !r.different() })
}

// ok is whether the suite is as it is natively, and proves it.
func (r *report) ok() bool {
	return r.err == nil && r.upconv.swaps.swapped > 0 && (r.upconv.swaps.udp > 0 || !r.datagrams) && len(r.different()) == 0
}

// compare runs the whole suite both ways.
func (l *lab) compare(s suite) *report {
	r := &report{suite: s.name(), datagrams: s.datagrams()}
	r.err = func() error {
		here, err := newPlace()
		if err != nil {
			return err
		}
		defer here.close()
		units, err := l.units(s, here)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		native, err := l.do(s, here, false, "native", units)
		if err != nil {
			return fmt.Errorf("natively: %w", err)
		}
		r.native = *native
		upconv, err := l.do(s, here, true, "upconv", units)
		if err != nil {
			return fmt.Errorf("under upconv: %w", err)
		}
		r.upconv = *upconv
		r.repeated = differences(native, upconv)
		return nil
	}()
	return r
}

// differences lists what did not end alike in two runs, in the order in which the tests were run.
func differences(native, upconv *run) []repetition {
	var all []repetition
	look := func(test string) {
		n, u := native.of(test), upconv.of(test)
		if n == u {
			return
		}
		rep := repetition{test: test, native: []result{n}, upconv: []result{u}}
		if rec := upconv.records[test]; rec != nil {
			rep.output = rec.output
		}
		if rec := native.records[test]; rec != nil {
			rep.nativeOutput = rec.output
		}
		all = append(all, rep)
	}
	for _, test := range native.order {
		look(test)
	}
	for _, test := range upconv.order {
		if native.records[test] == nil {
			look(test)
		}
	}
	return all
}

// What differs is run this often, or for this long if that comes first, but twice at least.
const (
	repeats     = 10
	repeatLimit = 30 * time.Second
)

// repeat runs the tests that differed again, both ways, to see which do so of their own accord.
func (l *lab) repeat(s suite, r *report) error {
	if r.err != nil || len(r.repeated) == 0 {
		return nil
	}
	var units []string
	for _, rep := range r.repeated {
		if u := s.unit(rep.test); !slices.Contains(units, u) {
			units = append(units, u)
		}
	}
	here, err := newPlace()
	if err != nil {
		return err
	}
	defer here.close()
	began := time.Now()
	for i := range repeats {
		if i >= 2 && time.Since(began) > repeatLimit {
			break
		}
		native, errN := l.do(s, here, false, fmt.Sprintf("again%d.native", i), units)
		upconv, errU := l.do(s, here, true, fmt.Sprintf("again%d.upconv", i), units)
		if err := errors.Join(errN, errU); err != nil {
			return fmt.Errorf("repeating what differed: %w", err)
		}
		for j := range r.repeated {
			rep := &r.repeated[j]
			rep.native = append(rep.native, native.of(rep.test))
			rep.upconv = append(rep.upconv, upconv.of(rep.test))
		}
	}
	return nil
}
