package linux

import (
	"encoding/binary"
	"testing"
)

// TestMsghdr decodes the same structures in the layouts of both.
func TestMsghdr(t *testing.T) {
	want := Msghdr{Name: 0x1000, NameLen: -16, Iovecs: 0x2000, Count: 3, Control: 0x3000, ControlLen: 40}
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
			c, namelen := Layout{test.compat}, want.NameLen
			raw := append(e.AppendUint32(test.word(nil, want.Name), uint32(namelen)), test.padding...)
			for _, n := range []uint64{want.Iovecs, want.Count, want.Control, want.ControlLen} {
				raw = test.word(raw, n)
			}
			raw = append(e.AppendUint32(raw, 0), test.padding...)
			if got := c.Msghdr(raw); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if len(raw) != test.size || c.MsghdrSize() != test.size || c.MmsghdrSize() != test.size+c.WordSize() {
				t.Errorf("sizes %d and %d, want %d", c.MsghdrSize(), c.MmsghdrSize(), test.size)
			}
			var vector []byte
			for _, n := range []uint64{1, 2, 3, test.most} {
				vector = test.word(vector, n)
			}
			if base, length := c.Iovec(vector, 1); base != 3 || length != test.most || len(vector) != 2*c.IovecSize() {
				t.Errorf("struct iovec: %d, %d", base, length)
			}
			if c.Negative(test.most) || !c.Negative(test.most+1) {
				t.Errorf("a length of %d is the longest", test.most)
			}
		})
	}
}
