package integration

import (
	"os"
	"strings"
	"testing"
)

// TestGuardedSends runs a program of two threads, one of whose datagram sockets is in the egress:
// so upconv makes its sends on streams, Unix sockets and others. They come out as natively: bulk
// data, sends that a signal or a time ends, SIGPIPE, descriptors and credentials that are passed,
// names of Unix sockets, and wrong arguments.
func TestGuardedSends(t *testing.T) {
	needRoot(t)
	for _, way := range []struct{ route, kind, abi string }{
		{"netns", "bpf", "amd64"}, {"isolate", "user", "i386"},
	} {
		t.Run(way.route+"/"+way.kind+"/"+way.abi, func(t *testing.T) {
			w := newCaseWay(t, way.route, way.kind)
			line := []string{compileC(t, "guarded_probe.c", udpABIs[way.abi]...), serverAddr, echoPort}
			native, under := w.native(line...), w.upconv([]string{"--rule", linkedAddr + "=unix:/run/nobody"}, line...)
			native.Dir, under.Dir = w.writableDir(t), w.writableDir(t)
			const kernel, another = "sends are made by the kernel\nend\n", "sends are made by another\nend\n"
			want, got := output(t, native), output(t, under)
			want, madeByKernel := strings.CutSuffix(want, kernel)
			got, madeByUpconv := strings.CutSuffix(got, another)
			if !madeByKernel || !madeByUpconv {
				t.Error("upconv did not make the sends: this test cannot tell anything")
			}
			sameOutput(t, want, got)
		})
	}
}

// writableDir makes a directory that the way's user may write.
func (w *caseWay) writableDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scratch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if w.user {
		if err := os.Chown(dir, nobodyID, nobodyID); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
