package trap

import (
	"testing"

	"github.com/upconv/upconv/upconv/internal/peek"
)

// TestSignalWatchTake: what is told of a thread or a process concerns all calls of that process,
// once, and what is lost concerns all calls.
func TestSignalWatchTake(t *testing.T) {
	a := &HeldCall{keys: watchKeys{thread: 2, process: 3}}
	alsoA := &HeldCall{keys: watchKeys{thread: 4, process: 3}}
	b := &HeldCall{keys: watchKeys{thread: 6, process: 7}}
	unwatched := &HeldCall{}
	calls := map[*HeldCall]struct{}{a: {}, alsoA: {}, b: {}, unwatched: {}}
	for name, c := range map[string]struct {
		told []peek.Told
		lost bool
		want []*HeldCall
	}{
		"nothing":       {},
		"a thread":      {told: []peek.Told{{Key: 4}}, want: []*HeldCall{a, alsoA}},
		"a process":     {told: []peek.Told{{Key: 7}}, want: []*HeldCall{b}},
		"both":          {told: []peek.Told{{Key: 2}, {Key: 7}}, want: []*HeldCall{a, alsoA, b}},
		"an ended call": {told: []peek.Told{{Key: 8}}},
		"lost":          {lost: true, want: []*HeldCall{a, alsoA, b, unwatched}},
	} {
		var w signalWatch
		w.note(c.told, c.lost)
		concerned := w.take(calls)
		if len(concerned) != len(c.want) {
			t.Errorf("%s: %d calls are concerned, want %d", name, len(concerned), len(c.want))
		}
		for _, h := range c.want {
			if !concerned[h] {
				t.Errorf("%s: %v is not concerned", name, h.keys)
			}
		}
		if w.waits() || len(w.take(calls)) > 0 {
			t.Errorf("%s: it is taken twice", name)
		}
	}
}
