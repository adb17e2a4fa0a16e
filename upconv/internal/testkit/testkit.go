// Package testkit has what the unit tests of several packages use.
package testkit

import (
	"os"
	"testing"
	"time"
)

// Until polls a condition that another process or thread makes true.
func Until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: has not come true", what)
		}
	}
}

// OpenFDs returns how many descriptors this process has.
func OpenFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
