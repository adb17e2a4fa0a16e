package receive

import (
	"encoding/binary"
	"time"

	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// timeout is that of recvmmsg(2): looked at after each datagram, and at the end what is left of it
// is told.
type timeout struct {
	at        uint64 // the struct timespec; 0: none
	time64    bool   // with 64-bit numbers
	sec, nsec int64
	began     time.Time

	leftSec, leftNsec int64
}

// read reads the struct timespec of the target. It is false where there is no valid one.
func (t *timeout) read(c *session.Call) bool {
	var raw [16]byte
	if t.time64 {
		if target.ReadMemory(c.TID, t.at, raw[:]) != 0 {
			return false
		}
		t.sec, t.nsec = int64(binary.NativeEndian.Uint64(raw[:])), int64(binary.NativeEndian.Uint64(raw[8:]))
		if c.Compat {
			t.nsec = int64(uint32(t.nsec)) // the upper half is padding
		}
	} else {
		if target.ReadMemory(c.TID, t.at, raw[:8]) != 0 {
			return false
		}
		t.sec, t.nsec = int64(int32(binary.NativeEndian.Uint32(raw[:]))), int64(int32(binary.NativeEndian.Uint32(raw[4:])))
	}
	t.began = time.Now()
	return t.sec >= 0 && t.nsec >= 0 && t.nsec < 1e9
}

// passed notes what is left, and reports whether that is nothing.
func (t *timeout) passed() bool {
	if t.at == 0 {
		return false
	}
	elapsed := time.Since(t.began)
	t.leftSec, t.leftNsec = t.sec-int64(elapsed/time.Second), t.nsec-int64(elapsed%time.Second)
	if t.leftNsec < 0 {
		t.leftSec, t.leftNsec = t.leftSec-1, t.leftNsec+1e9
	}
	if t.leftSec < 0 {
		t.leftSec, t.leftNsec = 0, 0
	}
	return t.leftSec == 0 && t.leftNsec == 0
}

// write tells the target what is left. It is false if the target's memory cannot be written.
func (t *timeout) write(c *session.Call) bool {
	var raw [16]byte
	if t.time64 {
		binary.NativeEndian.PutUint64(raw[:], uint64(t.leftSec))
		binary.NativeEndian.PutUint64(raw[8:], uint64(t.leftNsec))
		return target.WriteMemory(c.TID, t.at, raw[:]) == 0
	}
	binary.NativeEndian.PutUint32(raw[:], uint32(t.leftSec))
	binary.NativeEndian.PutUint32(raw[4:], uint32(t.leftNsec))
	return target.WriteMemory(c.TID, t.at, raw[:8]) == 0
}
