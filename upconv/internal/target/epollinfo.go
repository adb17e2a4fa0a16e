package target

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// ParseRegistration reads a line of an epoll set's proc_pid_fdinfo(5), such as
//
//	tfd:        7 events:       19 data: 7fff00000007  pos:0 ino:1a2b sdev:8
//
// tfd is decimal, everything else hexadecimal. ino is 0 where the kernel does not say.
func ParseRegistration(line []byte) (tfd int, event unix.EpollEvent, ino uint64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte("tfd:"))
	if !ok {
		return 0, event, 0, false
	}
	number, rest, ok := ParseNumber(rest, 10)
	if !ok {
		return 0, event, 0, false
	}
	field := func(key string) (n uint64) {
		if at := bytes.Index(rest, []byte(key)); at >= 0 {
			n, _, _ = ParseNumber(rest[at+len(key):], 16)
		}
		return n
	}
	data := field("data:")
	event = unix.EpollEvent{Events: uint32(field("events:")), Fd: int32(uint32(data)), Pad: int32(uint32(data >> 32))}
	return int(number), event, field("ino:"), true
}
