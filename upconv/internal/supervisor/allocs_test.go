package supervisor

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/policy"
)

// TestAllocations holds that a connect(2) whose socket is swapped, and a sendto(2) of a socket that
// is where it sends to, allocate nothing, whether sockets are looked at in the kernel or not. All
// is in one namespace, on 127.0.0.9.
func TestAllocations(t *testing.T) {
	if !linux.HasCapability(unix.CAP_SYS_ADMIN) {
		t.Skip("needs CAP_SYS_ADMIN: it enters a network namespace")
	}
	for _, sees := range []bool{true, false} {
		t.Run(fmt.Sprintf("sees=%v", sees), func(t *testing.T) { testAllocations(t, sees) })
	}
}

func testAllocations(t *testing.T, sees bool) {
	n, err := NewNode(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	rule, err := policy.ParseRule("127.0.0.9=netns:host")
	if err != nil {
		t.Fatal(err)
	}
	decided, err := policy.New([]policy.Rule{rule}, policy.Route{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(decided, nil, policy.UDPFull, policy.SwapAtConnect)
	if err != nil {
		t.Fatal(err)
	}
	if sees && !p.needs.Sees {
		t.Skip("needs CAP_BPF and CAP_PERFMON")
	}
	p.needs.Sees = sees
	th := serve(t, n, p)
	defer th.end(t)
	th.session.Looks() // now, and not during the first call

	listener, name := boundTo127009(t, unix.SOCK_STREAM)
	if err := unix.Listen(listener, 16); err != nil {
		t.Fatal(err)
	}
	connect := func() unix.Errno {
		fd, _, _ := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0)
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&name[0])), uintptr(len(name))); errno != 0 {
			return errno
		}
		accepted, _, _ := unix.Syscall(unix.SYS_ACCEPT, uintptr(listener), 0, 0)
		unix.RawSyscall(unix.SYS_CLOSE, accepted, 0, 0)
		unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		return 0
	}
	th.checkAllocations(t, "connect", connect)

	receiver, to := boundTo127009(t, unix.SOCK_DGRAM)
	sender, errno := linux.NewSocket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	t.Cleanup(func() { linux.Close(sender) })
	var data [16]byte
	send := func() unix.Errno {
		if _, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(sender), uintptr(unsafe.Pointer(&data)), uintptr(len(data)), 0,
			uintptr(unsafe.Pointer(&to[0])), uintptr(len(to))); errno != 0 {
			return errno
		}
		_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(receiver), uintptr(unsafe.Pointer(&data)), uintptr(len(data)), 0, 0, 0)
		return errno
	}
	th.checkAllocations(t, "sendto", send)
}

// boundTo127009 returns a socket with an address of 127.0.0.9, and that.
func boundTo127009(t *testing.T, kind int) (fd int, name []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 9}}); err != nil {
		t.Fatal(err)
	}
	var all [linux.SizeofSockaddrStorage]byte
	if !linux.SocketName(fd, false, &all) {
		t.Fatal("it has no name")
	}
	return fd, all[:linux.SizeofSockaddrIn]
}

// checkAllocations has the thread do something again and again.
func (th *served) checkAllocations(t *testing.T, what string, do func() unix.Errno) {
	t.Helper()
	const rounds = 2000
	run := func(rounds int) {
		done := make(chan struct{})
		th.do <- func() {
			defer close(done)
			for range rounds {
				if errno := do(); errno != 0 {
					t.Errorf("%s: %v", what, errno)
					return
				}
			}
		}
		<-done
	}
	run(200) // what is made once is made by then
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	run(rounds)
	runtime.ReadMemStats(&after)
	// Some are the runtime's, and those of what looks at the workers now and then.
	if each := float64(after.Mallocs-before.Mallocs) / rounds; each > 0.1 {
		t.Errorf("%s: %.2f allocations each", what, each)
	}
}
