package target

import (
	"bytes"
	"strings"
	"testing"
)

func TestFdinfoFlags(t *testing.T) {
	for text, want := range map[string]int{
		"pos:\t0\nflags:\t02000002\nmnt_id:\t9\nino:\t1234\n": 0o2000002,
		"pos:\t0\nflags:\t02\nmnt_id:\t9\n":                   0o2,
		"flags:\t0100002":                                     0o100002,
		"pos:\t0\n":                                           -1,
		"flags:\n":                                            -1,
		"flags:\tx":                                           -1,
		"":                                                    -1,
	} {
		got, ok := fdinfoFlags([]byte(text))
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %o, want %o", text, got, want)
		}
	}
}

func TestCgroupPath(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/x.service\n":                   "/system.slice/x.service",
		"9:name=systemd:/a\n4:memory:/b:c\n0::/v2:odd\n": "/v2:odd",
		"4:memory:/b:c\n1:cpu:/d\n":                      "/b:c",
		"":                                               "",
		"nonsense\n":                                     "",
	} {
		if got := cgroupPath([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// FuzzProc has the readers of /proc read anything. A cgroup's name, and so a line, may be of a
// program's making.
func FuzzProc(f *testing.F) {
	f.Add([]byte("pos:\t0\nflags:\t02000002\nmnt_id:\t9\n"))
	f.Add([]byte("4:memory:/b:c\n0::/v2:odd\n"))
	f.Add([]byte("Name:\tx\nTgid:\t12\nSigBlk:\t0000000000010000\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		if flags, ok := fdinfoFlags(text); !ok && flags != 0 {
			t.Errorf("%q: no flags, but %o", text, flags)
		}
		if path := cgroupPath(text); strings.Contains(path, "\n") || !bytes.Contains(text, []byte(":"+path)) && path != "" {
			t.Errorf("%q: cgroup %q", text, path)
		}
		for _, key := range []string{"Tgid:", "SigBlk:"} {
			if n := StatusField(text, key, 16); n != 0 && !bytes.Contains(text, []byte("\n"+key)) {
				t.Errorf("%q: %s %d", text, key, n)
			}
		}
		if !bytes.Equal(text, before) {
			t.Error("the text has changed")
		}
	})
}
