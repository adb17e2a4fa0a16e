package birth

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestTryTasks has as many as asked for, and leaves none behind.
func TestTryTasks(t *testing.T) {
	if n := TryTasks(20); n != 20 {
		t.Errorf("%d of 20 could be had", n)
	}
	if _, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("wait4: %v, want no children", err)
	}
}
func BenchmarkTryTasks(b *testing.B) {
	for b.Loop() {
		TryTasks(24)
	}
}
