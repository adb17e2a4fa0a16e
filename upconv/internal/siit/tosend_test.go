package siit

import (
	"bytes"
	"math/rand"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/testkit"
)

// TestSendControlAsNatively sends with control messages, good and bad, and compares what the kernel
// says.
func TestSendControlAsNatively(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	four, six := testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), testkit.Socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	at4, at6 := testkit.Socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0), testkit.Socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	port := testkit.BindBoth(t, at4, at6, func(port uint16) []byte { return testkit.SockaddrLoopback(unix.AF_INET, port) })
	w := &ControlBuffer{}
	seen := map[unix.Errno]int{}
	for round := range 5000 {
		raw := randomControl(rnd)
		want := sendWith(four, testkit.SockaddrLoopback(unix.AF_INET, port), bytes.Clone(raw))
		native, got := w.ToSend(raw, false, unix.AF_INET)
		if got == 0 || len(native) > 0 {
			got = sendWith(six, testkit.SockaddrLoopback(unix.AF_INET6, port), native)
		}
		if seen[want]++; got != want {
			t.Fatalf("round %d: %v, natively %v: %x", round, got, want, raw)
		}
	}
	if seen[0] < 500 || seen[unix.EINVAL] < 500 {
		t.Errorf("hardly anything was tried: %v", seen)
	}
}

func sendWith(fd int, to, control []byte) unix.Errno {
	data := []byte("data")
	vector := unix.Iovec{Base: &data[0]}
	vector.SetLen(len(data))
	header := unix.Msghdr{Name: &to[0], Namelen: uint32(len(to)), Iov: &vector, Iovlen: 1}
	if len(control) > 0 {
		header.Control = &control[0]
		header.SetControllen(len(control))
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), 0)
	return errno
}

// randomControl makes control messages, most of them well-formed.
func randomControl(rnd *rand.Rand) (raw []byte) {
	for range rnd.Intn(4) {
		level := []int{unix.IPPROTO_IP, unix.IPPROTO_IP, unix.IPPROTO_IP, unix.SOL_SOCKET, unix.IPPROTO_UDP, unix.IPPROTO_IPV6, 77}[rnd.Intn(7)]
		name := []int{unix.IP_TOS, unix.IP_TTL, unix.IP_PKTINFO, unix.IP_RETOPTS, IPProtocol, 0, 99, unix.SO_MARK, unix.UDP_SEGMENT, unix.IPV6_PKTINFO}[rnd.Intn(10)]
		data := testkit.CmsgInt(int32([]int{-1, 0, 1, 64, 255, 256, 1 << 20}[rnd.Intn(7)]))
		switch {
		case name == unix.IP_PKTINFO: // a source of its own is not looked at
			data = append(append(testkit.CmsgInt(int32(rnd.Intn(3))), 0, 0, 0, 0), 127, 0, 0, 1)
		case name == unix.IP_RETOPTS:
			data = []byte{1, 1, 1, 1}
		}
		data = data[:[]int{len(data), len(data), len(data), len(data), 0, 1, 2}[rnd.Intn(7)]]
		if level == unix.IPPROTO_IP && name == unix.IP_RETOPTS && len(data) < 4 {
			continue // what is wrong with such options is not looked at
		}
		raw = AppendControl(raw, level, name, data)
	}
	if len(raw) > 0 && rnd.Intn(6) == 0 {
		raw[0] = byte(rnd.Intn(256)) // a length
	}
	if rnd.Intn(6) == 0 {
		raw = raw[:rnd.Intn(len(raw)+1)]
	}
	return raw
}
