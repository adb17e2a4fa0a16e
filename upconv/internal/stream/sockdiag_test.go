package stream

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEachMessage tells answers of sock_diag(7) from refusals: that there is no such connection is
// an answer.
func TestEachMessage(t *testing.T) {
	const sequence = 7
	message := func(kind uint16, size int, code unix.Errno) []byte {
		m := make([]byte, size)
		binary.NativeEndian.PutUint32(m, uint32(size))
		binary.NativeEndian.PutUint16(m[4:], kind)
		binary.NativeEndian.PutUint32(m[8:], sequence)
		binary.NativeEndian.PutUint32(m[unix.SizeofNlMsghdr:], uint32(-int32(code)))
		return m
	}
	found := message(sockDiagByFamily, diagSize, 0)
	for name, c := range map[string]struct {
		came       []byte
		sockets    int
		told, more bool
	}{
		"a socket":            {found, 1, true, true},
		"two, and the end":    {append(append(found, found...), message(unix.NLMSG_DONE, 20, 0)...), 2, true, false},
		"none":                {message(unix.NLMSG_DONE, 20, 0), 0, true, false},
		"no such connection":  {message(unix.NLMSG_ERROR, 36, unix.ENOENT), 0, true, false},
		"not permitted":       {message(unix.NLMSG_ERROR, 36, unix.EPERM), 0, false, false},
		"cannot list streams": {message(unix.NLMSG_DONE, 20, unix.ENOENT), 0, false, false},
		"cut":                 {found[:40], 0, false, false},
	} {
		sockets := 0
		told, more := eachMessage(c.came, sequence, func([]byte) { sockets++ })
		if sockets != c.sockets || told != c.told || more != c.more {
			t.Errorf("%s: %d sockets, told %v, more %v", name, sockets, told, more)
		}
	}
	if told, _ := eachMessage(found, sequence+1, func([]byte) {}); told {
		t.Error("an answer to another request is taken")
	}
}
