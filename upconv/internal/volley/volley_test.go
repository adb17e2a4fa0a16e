package volley

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// option is a getsockopt(2) of an int.
func option(fd, level, name int, value *[2]uint32) Call {
	value[1] = 4
	return Call{Number: unix.SYS_GETSOCKOPT, Args: [6]uintptr{uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&value[1]))}}
}

func TestMake(t *testing.T) {
	tcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tcp)
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(udp)
	const untouched = 12345
	for _, test := range []struct {
		what     string
		fd       int
		needed   int
		ok       bool
		errnos   [3]unix.Errno
		protocol uint32
	}{
		{"all succeed", tcp, 3, true, [3]unix.Errno{}, unix.IPPROTO_TCP},
		{"one that is not needed fails", udp, 0, true, [3]unix.Errno{unix.EOPNOTSUPP}, unix.IPPROTO_UDP},
		{"one that is needed fails", udp, 1, false, [3]unix.Errno{unix.EOPNOTSUPP}, untouched},
		{"all fail", -1, 0, true, [3]unix.Errno{unix.EBADF, unix.EBADF, unix.EBADF}, untouched},
		{"more are needed than there are", tcp, 4, true, [3]unix.Errno{}, unix.IPPROTO_TCP},
	} {
		values := new([3][2]uint32)
		values[1][0] = untouched
		calls := []Call{
			option(test.fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, &values[0]),
			option(test.fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, &values[1]),
			option(test.fd, unix.SOL_SOCKET, unix.SO_TYPE, &values[2]),
		}
		if ok := Make(calls, test.needed); ok != test.ok {
			t.Errorf("%s: ok is %v", test.what, ok)
		}
		for i := range calls {
			if errno := calls[i].Errno(); errno != test.errnos[i] {
				t.Errorf("%s: call %d: errno %d, want %d", test.what, i, errno, test.errnos[i])
			}
		}
		if values[1][0] != test.protocol {
			t.Errorf("%s: protocol %d, want %d", test.what, values[1][0], test.protocol)
		}
		runtime.KeepAlive(values)
	}
}

// TestMakeArgs has a call with six arguments arrive as it was meant.
func TestMakeArgs(t *testing.T) {
	fd, err := unix.MemfdCreate("volley", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 8192); err != nil {
		t.Fatal(err)
	}
	text := new([5]byte)
	copy(text[:], "hello")
	offsets := new([2]int64)
	offsets[0], offsets[1] = 0, 4096
	calls := []Call{
		{Number: unix.SYS_PWRITE64, Args: [6]uintptr{uintptr(fd), uintptr(unsafe.Pointer(text)), 5, 0}},
		{Number: unix.SYS_COPY_FILE_RANGE, Args: [6]uintptr{uintptr(fd), uintptr(unsafe.Pointer(&offsets[0])), uintptr(fd), uintptr(unsafe.Pointer(&offsets[1])), 5, 0}},
	}
	if !Make(calls, len(calls)) {
		t.Fatal(calls[0].Errno(), calls[1].Errno())
	}
	if calls[1].Result() != 5 {
		t.Errorf("copy_file_range: %d", calls[1].Result())
	}
	var got [5]byte
	if _, err := unix.Pread(fd, got[:], 4096); err != nil || string(got[:]) != "hello" {
		t.Errorf("%q, %v", got[:], err)
	}
	runtime.KeepAlive(text)
	runtime.KeepAlive(offsets)
}
