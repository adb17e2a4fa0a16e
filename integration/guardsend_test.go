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
	for _, way := range []struct{ route, kind, abi, user string }{
		{"netns", "bpf", "amd64", "root"}, {"netns", "bpf", "amd64", "nobody"}, {"isolate", "user", "i386", "nobody"},
	} {
		t.Run(strings.Join([]string{way.route, way.kind, way.abi, way.user}, "/"), func(t *testing.T) {
			w := newCaseWay(t, way.route, way.kind)
			line := []string{compileC(t, "guarded_probe.c", udpABIs[way.abi]...), serverAddr, echoPort}
			if way.user == "nobody" && !w.user {
				line = append(ordinaryUser(t), line...)
			}
			native, under := w.native(line...), w.upconv([]string{"--rule", linkedAddr + "=unix:/run/nobody"}, line...)
			native.Dir, under.Dir = writableDir(t, way.user), writableDir(t, way.user)
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

// writableDir makes a directory that a user may write.
func writableDir(t *testing.T, user string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "upconv-writable-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if user == "nobody" {
		if err := os.Chown(dir, nobodyID, nobodyID); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
