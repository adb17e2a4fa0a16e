package stream

import (
	"testing"
	"time"
)

// TestPortContended tells of a thread that was told to go on with its bind(2), until it makes
// another call or a time has passed.
func TestPortContended(t *testing.T) {
	var p ports
	const port, other, mine, theirs = 700, 700 + 256, 10, 11
	contended := func(want bool, when string) {
		t.Helper()
		if got := p.isContended(mine, port); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	contended(false, "at first")
	p.ask(mine, port)
	contended(false, "when only this thread asks")
	p.ask(theirs, other)
	contended(false, "when another one asks for another port")
	p.ask(theirs, port)
	contended(true, "when another one asks for the port")
	p.ask(mine, port)
	contended(true, "when this one asks after it")
	p.goesOn(theirs)
	contended(false, "when the other one has gone on")
	p.ask(theirs, port)
	for began := time.Now(); p.isContended(mine, port); time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it does not end")
		}
	}
}

// TestPortForget forgets the departure that it is told of, and no later one.
func TestPortForget(t *testing.T) {
	var p ports
	const port = 700
	first, second := departure{to: 1, moving: true}, departure{to: 1, cookie: 5}
	p.put(port, first)
	if d, gone := p.ask(1, port); !gone || d != first {
		t.Errorf("%v %v, want %v", d, gone, first)
	}
	p.put(port, second)
	p.forget(port, first)
	if d, gone := p.ask(1, port); !gone || d != second {
		t.Errorf("%v %v, want %v", d, gone, second)
	}
	p.forget(port, second)
	if _, gone := p.ask(1, port); gone {
		t.Error("it is remembered")
	}
	if _, gone := p.ask(1, port+1); gone {
		t.Error("the neighbours")
	}
}
