//go:build linux

package nsdial_test

import (
	"runtime"
	"testing"

	"github.com/upconv/upconv/nsdial"
	"golang.org/x/sys/unix"
)

// BenchmarkSocket compares socket(2) and close(2) as they are with a socket made
// elsewhere: on another thread, on a thread that entered, and in the namespace
// of the process.
func BenchmarkSocket(b *testing.B) {
	const family, typ = unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	run := func(b *testing.B, socket func(int, int, int) (int, error)) {
		b.ReportAllocs()
		for b.Loop() {
			fd, err := socket(family, typ, 0)
			if err != nil {
				b.Fatal(err)
			}
			unix.Close(fd)
		}
	}
	b.Run("plain", func(b *testing.B) { run(b, unix.Socket) })
	b.Run("home", func(b *testing.B) { run(b, open(b)(nsdial.OpenCurrent()).Socket) })
	b.Run("elsewhere", func(b *testing.B) { run(b, newNS(b).Socket) })
	b.Run("elsewhere-locked-caller", func(b *testing.B) {
		n := newNS(b)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		run(b, n.Socket)
	})
	b.Run("elsewhere-parallel", func(b *testing.B) {
		n := newNS(b)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				fd, err := n.Socket(family, typ, 0)
				if err != nil {
					b.Error(err)
					return
				}
				unix.Close(fd)
			}
		})
	})
	b.Run("entered", func(b *testing.B) {
		n := newNS(b)
		err := n.Do(func() error { run(b, n.Socket); return nil })
		if err != nil {
			b.Fatal(err)
		}
	})
}
