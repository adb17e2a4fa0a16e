package event

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"
)

// A reader that does not read holds up neither who records nor, for long, a flush; what is lost is
// counted.
func TestSlowReader(t *testing.T) {
	reader, writer := io.Pipe()
	r := NewRecorder(writer, func(err error) { t.Error(err) })
	const n = queueLength + 100
	for range n {
		r.Record(Event{Call: "connect"})
	}
	r.Flush(time.Millisecond) // returns
	seen, dropped := 0, 0
	for lines := bufio.NewScanner(reader); seen+dropped < n+1 && lines.Scan(); {
		var line struct{ Dropped int }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if dropped += line.Dropped; line.Dropped == 0 {
			seen++
		}
		if seen == 10 && line.Dropped == 0 {
			r.Record(Event{Call: "connect"}) // there is room again, and the count goes along
		}
	}
	if dropped == 0 {
		t.Error("nothing was counted as dropped")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestBrokenWriter(t *testing.T) {
	told := make(chan error, 10)
	r := NewRecorder(brokenWriter{}, func(err error) { told <- err })
	r.Record(Event{Call: "connect"})
	r.Record(Event{Call: "connect"})
	r.Flush(10 * time.Second)
	if len(told) != 1 {
		t.Errorf("told %d times, want once", len(told))
	}
}
