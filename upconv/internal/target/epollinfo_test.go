package target

import (
	"bytes"
	"testing"
)

func TestParseRegistration(t *testing.T) {
	line := "tfd:        7 events: 80000019 data: 7fff12340000abcd  pos:0 ino:1a2b sdev:8\n"
	tfd, event, ino, ok := ParseRegistration([]byte(line))
	if !ok || tfd != 7 || ino != 0x1a2b || event.Events != 0x80000019 || uint32(event.Fd) != 0x0000abcd || uint32(event.Pad) != 0x7fff1234 {
		t.Errorf("%d, %+v, %x, %v", tfd, event, ino, ok)
	}
	for _, other := range []string{"pos:\t0\n", "", "tfd:\n", "tfd: x\n", "flags:\t02\n"} {
		if tfd, _, _, ok := ParseRegistration([]byte(other)); ok {
			t.Errorf("%q is taken for descriptor %d", other, tfd)
		}
	}
}

// What comes out of /proc is the kernel's, but must never be a panic.
func FuzzParseRegistration(f *testing.F) {
	f.Add([]byte("tfd:        7 events: 80000019 data: 7fff12340000abcd  pos:0 ino:1a2b sdev:8\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if tfd, _, _, ok := ParseRegistration(line); ok && !bytes.HasPrefix(line, []byte("tfd:")) {
			t.Errorf("%q is taken for descriptor %d", line, tfd)
		}
	})
}
