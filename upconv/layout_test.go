package upconv

import (
	"encoding/binary"
	"testing"
)

// TestMsghdr decodes the same structures in the layouts of both.
func TestMsghdr(t *testing.T) {
	want := msghdr{name: 0x1000, nameLen: -16, iovecs: 0x2000, count: 3, control: 0x3000, controlLen: 40}
	e := binary.NativeEndian
	long := func(to []byte, n uint64) []byte { return e.AppendUint64(to, n) }
	short := func(to []byte, n uint64) []byte { return e.AppendUint32(to, uint32(n)) }
	for _, test := range []struct {
		name    string
		compat  bool
		word    func([]byte, uint64) []byte
		padding []byte // behind msg_namelen, and behind msg_flags
		size    int    // of struct msghdr
		most    uint64 // the longest that a part can be
	}{
		{"this machine's", false, long, make([]byte, 4), 56, 1<<63 - 1},
		{"i386's", true, short, nil, 28, 1<<31 - 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, namelen := layout{test.compat}, want.nameLen
			raw := append(e.AppendUint32(test.word(nil, want.name), uint32(namelen)), test.padding...)
			for _, n := range []uint64{want.iovecs, want.count, want.control, want.controlLen} {
				raw = test.word(raw, n)
			}
			raw = append(e.AppendUint32(raw, 0), test.padding...)
			if got := c.msghdr(raw); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if len(raw) != test.size || c.msghdrSize() != test.size || c.mmsghdrSize() != test.size+c.wordSize() {
				t.Errorf("sizes %d and %d, want %d", c.msghdrSize(), c.mmsghdrSize(), test.size)
			}
			var vector []byte
			for _, n := range []uint64{1, 2, 3, test.most} {
				vector = test.word(vector, n)
			}
			if base, length := c.iovec(vector, 1); base != 3 || length != test.most || len(vector) != 2*c.iovecSize() {
				t.Errorf("struct iovec: %d, %d", base, length)
			}
			if c.negative(test.most) || !c.negative(test.most+1) {
				t.Errorf("a length of %d is the longest", test.most)
			}
		})
	}
}
