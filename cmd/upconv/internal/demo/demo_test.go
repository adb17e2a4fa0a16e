package demo

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFold(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
	}{
		{"", []string{""}},
		{"0123456789", []string{"0123456789"}},
		{"01234 6789 bc", []string{"01234 6789", "bc"}},
		{"01234 67890 c", []string{"01234", "67890 c"}},
		{"01234567890 23", []string{"01234567890", "23"}},
		{"01234567890123", []string{"01234567890123"}},
		{"  234  7890123", []string{"  234", "7890123"}},
		{"äöüäöüä öüß é", []string{"äöüäöüä", "öüß é"}},
	} {
		if got := fold(c.line, 10); !slices.Equal(got, c.want) {
			t.Errorf("fold(%q) = %q, want %q", c.line, got, c.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got, want := printable("a\tä\x1b[2J\r\u009b7m\x7f"), "a\tä\ufffd[2J\ufffd\ufffd7m\ufffd"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMedian(t *testing.T) {
	if got := median([]time.Duration{5, 1, 3}); got != 3 {
		t.Errorf("of three: %d", got)
	}
	if got := median([]time.Duration{7, 1, 3, 5}); got != 4 {
		t.Errorf("of four: %d", got)
	}
}

func TestSplitEvents(t *testing.T) {
	words, events := splitEvents("curl: hello\n" + `{"call":"connect","dst":"203.0.113.10:80"}` + "\n{not an event}\n" + `{"dropped":3}` + "\nend")
	if want := "curl: hello\n{not an event}\n" + `{"dropped":3}` + "\nend"; words != want {
		t.Errorf("words: %q, want %q", words, want)
	}
	if len(events) != 1 || events[0].Dst != pageAddr {
		t.Errorf("events: %+v", events)
	}
}

func TestPictureFits(t *testing.T) {
	for line := range strings.Lines(picture) {
		if len(margin+line) > columns {
			t.Errorf("too wide: %s", line)
		}
	}
}
