package event

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/policy"
)

func sampleEvent() *Pending {
	return &Pending{
		Began: time.Now(), Call: "connect", TID: os.Getpid(), FD: 7, Proto: policy.TCP,
		Dst: netip.MustParseAddrPort("203.0.113.10:80"), Decision: policy.Decision{Rule: "1", Route: &policy.Route{Kind: policy.Netns, Target: "blue"}},
	}
}

func TestEventKeys(t *testing.T) {
	var out bytes.Buffer
	e := NewLog(&out, 4026531840, func(err error) { t.Error(err) })
	e.Record(sampleEvent(), 0)
	e.Record(sampleEvent(), unix.ECONNREFUSED)
	e.Flush(10 * time.Second)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), out.String())
	}
	for i, result := range []string{"ok", "ECONNREFUSED"} {
		var got map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]any{
			"call": "connect", "pid": float64(os.Getpid()), "tid": float64(os.Getpid()), "netns": 4026531840.0, "fd": 7.0,
			"proto": "tcp", "dst": "203.0.113.10:80", "rule": "1", "route": "netns:blue", "local": "", "result": result,
		} {
			if got[key] != want {
				t.Errorf("%s is %v, want %v", key, got[key], want)
			}
		}
		for _, key := range []string{"time", "comm", "cgroup", "duration_us"} {
			if _, ok := got[key]; !ok {
				t.Errorf("no %s", key)
			}
			delete(got, key)
		}
		if len(got) != 11 {
			t.Errorf("keys that nobody knows: %v", got)
		}
	}
}

func TestNoEvents(t *testing.T) {
	var e *Log
	e.Record(sampleEvent(), 0)
	e.Flush(time.Hour)
}
