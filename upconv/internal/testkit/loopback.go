package testkit

import (
	"encoding/binary"
	"math/rand"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func Socket(t testing.TB, domain, kind, proto int) int {
	t.Helper()
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func SockaddrLoopback(family int, port uint16) []byte {
	if family == unix.AF_INET {
		sa := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(sa, unix.AF_INET)
		binary.BigEndian.PutUint16(sa[2:], port)
		copy(sa[4:], []byte{127, 0, 0, 1})
		return sa
	}
	sa := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(sa, unix.AF_INET6)
	binary.BigEndian.PutUint16(sa[2:], port)
	sa[23] = 1
	return sa
}

func RawSendto(t testing.TB, fd int, data, to []byte) {
	t.Helper()
	data = append(data, 0)
again:
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)-1), 0,
		uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)))
	if errno == unix.ECONNREFUSED { // of an earlier one
		goto again
	}
	if errno != 0 {
		t.Fatal(errno)
	}
}

// BindBoth binds two sockets to the same port of their loopback addresses: the first one to the
// name that is that of IPv4, and the other one, of AF_INET6, to its own.
func BindBoth(t testing.TB, four, six int, name func(port uint16) []byte) uint16 {
	t.Helper()
	for range 100 {
		port := uint16(20000 + rand.Intn(12000)) // below ip_local_port_range
		if !bindTo(four, name(port)) {
			continue
		}
		if bindTo(six, SockaddrLoopback(unix.AF_INET6, port)) {
			return port
		}
		t.Fatal("a port is free for one and not for the other") // and four is bound now
	}
	t.Fatal("no port")
	return 0
}

func bindTo(fd int, sa []byte) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	return errno == 0
}
