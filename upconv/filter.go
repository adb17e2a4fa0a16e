package upconv

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

const sysConnect = 3 // SYS_CONNECT, linux/net.h: the first argument of socketcall(2)

// Filter returns the seccomp filter that a supervised program runs under. A connect(2) is stopped
// where its address is long enough for an IPv4 destination and short enough for the kernel
// to take it. io_uring_setup(2) fails with ENOSYS, since io_uring connects without a system
// call; programs fall back. Everything else runs at full speed.
//
// Where sockets are swapped, epoll_create(2) is stopped too, to know who has epoll sets.
//
// The length is an int, which the kernel takes from the low half of the register. So only that half
// is compared: a program could put anything into the other one.
func Filter(swaps bool) seccompx.Filter {
	length := seccompx.Arg(2).Low32()
	f := seccompx.Filter{
		Rules: []seccompx.Rule{
			{Syscalls: []string{"io_uring_setup"}, Do: seccompx.Errno(unix.ENOSYS)},
			{
				Syscalls: []string{"connect"},
				When:     []seccompx.Cond{length.AtLeast(sizeofSockaddrIn), length.AtMost(sizeofSockaddrStorage)},
				Do:       seccompx.UserNotify,
			},
			{ // i386's other way: the length is in memory, which a filter cannot see
				Syscalls: []string{"socketcall"},
				When:     []seccompx.Cond{seccompx.Arg(0).Low32().Equal(sysConnect)},
				Do:       seccompx.UserNotify,
			},
		},
		Default: seccompx.Allow,
	}
	if swaps {
		f.Rules = append(f.Rules, seccompx.Rule{Syscalls: epollCreateCalls, Do: seccompx.UserNotify})
	}
	return f
}

var epollCreateCalls = []string{"epoll_create", "epoll_create1"}
