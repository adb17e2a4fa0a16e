package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// write prints the table and what is behind it, and reports whether all is well.
func write(w io.Writer, reports []*report) (ok bool) {
	ok = true
	for _, r := range reports {
		details(w, r)
	}
	// Natively: how many there are, how many of them are not skipped, and how many of those fail.
	fmt.Fprintf(w, "\n%-20s %6s %6s %6s %6s %9s %8s %8s %6s %6s %8s %8s\n",
		"suite", "tests", "run", "fail", "same", "different", "repeated", "swapped", "udp", "direct", "native s", "upconv s")
	for _, r := range reports {
		ok = ok && r.ok()
		if r.err != nil {
			fmt.Fprintf(w, "%-20s no comparison: see above\n", r.suite)
			continue
		}
		ran, failing := 0, 0
		for _, rec := range r.native.records {
			if rec.result != skipped {
				ran++
			}
			if rec.result != skipped && rec.result != passed {
				failing++
			}
		}
		tests, different := len(r.native.records), len(r.different())
		fmt.Fprintf(w, "%-20s %6d %6d %6d %6d %9d %8d %8d %6d %6d %8.1f %8.1f\n", r.suite, tests, ran, failing,
			tests-different, different, len(r.repeated), r.upconv.swaps.swapped, r.upconv.swaps.udp, r.upconv.swaps.direct,
			r.native.took.Seconds(), r.upconv.took.Seconds())
	}
	return ok
}

// details prints what a table has no room for.
func details(w io.Writer, r *report) {
	if r.err != nil {
		fmt.Fprintf(w, "\n%s: %v\n", r.suite, r.err)
		return
	}
	if s := r.upconv.swaps; s.swapped == 0 {
		fmt.Fprintf(w, "\n%s: nothing was swapped, so nothing was tested\n", r.suite)
	} else if r.datagrams && s.udp == 0 {
		fmt.Fprintf(w, "\n%s: no datagram socket was swapped, so no datagrams were tested\n", r.suite)
	} else if len(s.failed)+s.dropped > 0 {
		fmt.Fprintf(w, "\n%s: connections that failed at once:", r.suite)
		for _, errno := range slices.Sorted(maps.Keys(s.failed)) {
			fmt.Fprintf(w, " %d %s", s.failed[errno], errno)
		}
		fmt.Fprintf(w, "; events not written: %d\n", s.dropped)
	}
	for _, side := range []struct {
		name string
		run  *run
	}{{"natively", &r.native}, {"under upconv", &r.upconv}} {
		if side.run.deaths > 0 {
			fmt.Fprintf(w, "\n%s: crashed or hung %d times %s, and was started again with the tests that remained\n",
				r.suite, side.run.deaths, side.name)
		}
	}
	for _, rep := range r.repeated {
		if !rep.different() {
			fmt.Fprintf(w, "\n%s: unsteady: %s: natively %s, under upconv %s\n%s", r.suite, rep.test, tally(rep.native), tally(rep.upconv), indent(rep.output))
			continue
		}
		fmt.Fprintf(w, "\n%s: DIFFERENT: %s: natively %s, under upconv %s\n%s", r.suite, rep.test, tally(rep.native), tally(rep.upconv), indent(rep.output))
		if rep.native[0] != passed {
			fmt.Fprintf(w, "  natively it printed\n%s", indent(rep.nativeOutput))
		}
	}
}

// tally says how often there was which result: "FAIL", or "9 pass, 1 FAIL".
func tally(results []result) string {
	counts := map[result]int{}
	for _, r := range results {
		counts[r]++
	}
	if len(counts) == 1 {
		return string(results[0])
	}
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[r], r))
	}
	return strings.Join(parts, ", ")
}

func indent(text string) string {
	text = strings.TrimRight(tail(text), "\n")
	if text == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"
}
