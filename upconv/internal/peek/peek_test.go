package peek

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t testing.TB) *Peeker {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestLook(t *testing.T) {
	p := open(t)
	t.Log(p.signature)
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	var s Sight
	if errno := p.Look(os.Getpid(), fd, &s); errno != 0 {
		t.Fatal(errno)
	}
	t.Logf("%+v", s)
}

func BenchmarkLook(b *testing.B) {
	p := open(b)
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	var s Sight
	b.ReportAllocs()
	for b.Loop() {
		p.Look(os.Getpid(), fd, &s)
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		p, err := Open()
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
