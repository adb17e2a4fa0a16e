package calls

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/policy"
	"github.com/upconv/upconv/upconv/policy/policytest"
)

// TestFilterOfFamilies is about what is stopped only where sockets are replaced by those of other
// families.
func TestFilterOfFamilies(t *testing.T) {
	assemble := func(n session.Needs) seccompx.Program {
		f := Filter(n)
		f.Arches = []seccompx.Arch{seccompx.AMD64, seccompx.I386}
		program, err := f.Assemble()
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
	none, netns := assemble(session.Needs{}), assemble(session.Needs{Swaps: true})
	inet6, unixes := assemble(session.Needs{Swaps: true, Inet6: true}), assemble(session.Needs{Swaps: true, Unix: true})
	const stop, pass = seccompx.UserNotify, seccompx.Allow
	for _, c := range []struct {
		arch                       seccompx.Arch
		call                       string
		args                       [3]uint64
		none, netns, inet6, unixes seccompx.Action
	}{
		{seccompx.AMD64, "getpeername", [3]uint64{3}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockname", [3]uint64{3}, pass, pass, stop, stop},
		{seccompx.I386, "getsockname", [3]uint64{3}, pass, pass, stop, stop},
		{seccompx.I386, "socketcall", [3]uint64{linux.SocketcallGetsockname}, pass, pass, stop, stop},
		{seccompx.I386, "socketcall", [3]uint64{linux.SocketcallGetpeername}, pass, pass, stop, stop},
		{seccompx.I386, "socketcall", [3]uint64{linux.SocketcallGetsockopt}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.SOL_SOCKET, unix.SO_ERROR}, pass, pass, stop, pass},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.IPPROTO_IP, unix.IP_MTU}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.SOL_SOCKET, unix.SO_TYPE}, pass, pass, pass, pass},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.SOL_SOCKET, unix.SO_DOMAIN}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.SOL_SOCKET, linux.SoPeerName}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.SOL_SOCKET, unix.SO_PEERCRED}, pass, pass, pass, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.IPPROTO_IP, unix.IP_TOS}, pass, pass, pass, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.IPPROTO_IP, unix.IP_OPTIONS}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, pass, pass, stop, stop},
		{seccompx.AMD64, "getsockopt", [3]uint64{3, unix.IPPROTO_TCP, unix.TCP_INFO}, pass, pass, pass, stop},
		{seccompx.AMD64, "setsockopt", [3]uint64{3, unix.IPPROTO_TCP, unix.TCP_NODELAY}, pass, pass, pass, stop},
		{seccompx.AMD64, "setsockopt", [3]uint64{3, unix.IPPROTO_TCP, unix.TCP_SYNCNT}, pass, stop, stop, stop},
		{seccompx.AMD64, "setsockopt", [3]uint64{3, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, pass, pass, stop, stop},
		{seccompx.AMD64, "setsockopt", [3]uint64{3, unix.SOL_SOCKET, unix.SO_KEEPALIVE}, pass, pass, pass, pass},
		{seccompx.AMD64, "setsockopt", [3]uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, pass, stop, stop, stop},
		{seccompx.AMD64, "recvfrom", [3]uint64{3}, pass, pass, pass, pass},
		{seccompx.AMD64, "sendmsg", [3]uint64{3, 1, unix.MSG_FASTOPEN}, pass, stop, stop, stop},
		{seccompx.I386, "sendmsg", [3]uint64{3, 1, unix.MSG_FASTOPEN}, pass, stop, stop, stop},
		{seccompx.AMD64, "sendmsg", [3]uint64{3, 1}, pass, pass, pass, pass},
		{seccompx.AMD64, "bind", [3]uint64{3, 1, linux.SizeofSockaddrIn}, pass, stop, stop, stop},
		{seccompx.AMD64, "bind", [3]uint64{3, 1, linux.SizeofSockaddrIn - 1}, pass, pass, pass, pass},
		{seccompx.I386, "socketcall", [3]uint64{linux.SocketcallBind}, pass, stop, stop, stop},
	} {
		nr, ok := c.arch.Syscall(c.call)
		if !ok {
			t.Fatal(c.call)
		}
		for _, p := range []struct {
			name    string
			program seccompx.Program
			want    seccompx.Action
		}{{"none", none, c.none}, {"netns", netns, c.netns}, {"inet6", inet6, c.inet6}, {"unix", unixes, c.unixes}} {
			if got := judge(t, p.program, c.arch, nr, [6]uint64{c.args[0], c.args[1], c.args[2]}); got != p.want {
				t.Errorf("%s: %v %s(%d): %v, want %v", p.name, c.arch, c.call, c.args, got, p.want)
			}
		}
	}
}

// TestFilterOfRefusals is about what is stopped where destinations are refused and nothing else is
// done: all that connects.
func TestFilterOfRefusals(t *testing.T) {
	rejecting, err := policy.New(policytest.Rules(t, "192.0.2.0/24=reject"), policy.Route{})
	if err != nil {
		t.Fatal(err)
	}
	f := Filter(session.NeedsOf(rejecting, policy.UDPOff))
	f.Arches = []seccompx.Arch{seccompx.AMD64}
	program, err := f.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	const stop, pass = seccompx.UserNotify, seccompx.Allow
	for _, c := range []struct {
		call string
		args [6]uint64
		want seccompx.Action
	}{
		{"connect", [6]uint64{3, 1, 16}, stop},
		{"sendto", [6]uint64{3, 1, 1, unix.MSG_FASTOPEN, 1, 16}, stop},
		{"sendto", [6]uint64{3, 1, 1, 0, 1, 16}, pass},
		{"sendmsg", [6]uint64{3, 1, unix.MSG_FASTOPEN}, stop},
		{"sendmsg", [6]uint64{3, 1}, pass},
		{"sendmmsg", [6]uint64{3, 1, 1, unix.MSG_FASTOPEN}, stop},
		{"setsockopt", [6]uint64{3, unix.IPPROTO_TCP, unix.TCP_SYNCNT}, pass},
		{"epoll_create1", [6]uint64{}, pass},
	} {
		nr, _ := seccompx.AMD64.Syscall(c.call)
		if got := judge(t, program, seccompx.AMD64, nr, c.args); got != c.want {
			t.Errorf("%s%v: %v, want %v", c.call, c.args, got, c.want)
		}
	}
}

// TestFilter runs the filter on calls as the kernel would.
func TestFilter(t *testing.T) {
	swapping := Filter(session.Needs{Swaps: true})
	filter := swapping
	filter.Arches = []seccompx.Arch{seccompx.AMD64, seccompx.I386}
	program, err := filter.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	arm := swapping
	arm.Arches = []seccompx.Arch{seccompx.ARM64}
	armProgram, err := arm.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	const dirty = 0xdeadbeef_00000000 // the kernel takes an int from the low half
	enosys := seccompx.Errno(unix.ENOSYS)
	for _, c := range []struct {
		arch    seccompx.Arch
		call    string
		args    [3]uint64
		want    seccompx.Action
		program seccompx.Program
	}{
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 15}, seccompx.Allow, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 16}, seccompx.UserNotify, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 28}, seccompx.UserNotify, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 110}, seccompx.UserNotify, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 128}, seccompx.UserNotify, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 129}, seccompx.Allow, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, 0xffffffff}, seccompx.Allow, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, dirty | 16}, seccompx.UserNotify, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, dirty | 128}, seccompx.UserNotify, program},
		{seccompx.AMD64, "connect", [3]uint64{3, 0x1000, dirty | 15}, seccompx.Allow, program},
		{seccompx.AMD64, "socket", [3]uint64{2, 1, 0}, seccompx.Allow, program},
		{seccompx.AMD64, "close", [3]uint64{3, 16, 16}, seccompx.Allow, program},
		{seccompx.AMD64, "io_uring_setup", [3]uint64{}, enosys, program},
		{seccompx.AMD64, "epoll_create", [3]uint64{1}, seccompx.UserNotify, program},
		{seccompx.AMD64, "epoll_create1", [3]uint64{0}, seccompx.UserNotify, program},
		{seccompx.AMD64, "epoll_ctl", [3]uint64{0}, seccompx.Allow, program},
		{seccompx.I386, "epoll_create1", [3]uint64{0}, seccompx.UserNotify, program},
		{seccompx.ARM64, "epoll_create1", [3]uint64{0}, seccompx.UserNotify, armProgram},
		{seccompx.I386, "connect", [3]uint64{3, 0x1000, 16}, seccompx.UserNotify, program},
		{seccompx.I386, "connect", [3]uint64{3, 0x1000, 15}, seccompx.Allow, program},
		{seccompx.I386, "socketcall", [3]uint64{3, 0x1000, 0}, seccompx.UserNotify, program},
		{seccompx.I386, "socketcall", [3]uint64{1, 0x1000, 0}, seccompx.Allow, program},
		{seccompx.I386, "io_uring_setup", [3]uint64{}, enosys, program},
		{seccompx.ARM64, "connect", [3]uint64{3, 0x1000, 16}, seccompx.UserNotify, armProgram},
		{seccompx.ARM64, "connect", [3]uint64{3, 0x1000, dirty | 16}, seccompx.UserNotify, armProgram},
		{seccompx.ARM64, "connect", [3]uint64{3, 0x1000, 15}, seccompx.Allow, armProgram},
		{seccompx.ARM64, "io_uring_setup", [3]uint64{}, enosys, armProgram},
		{seccompx.ARM64, "connect", [3]uint64{3, 0x1000, 16}, enosys, program}, // a foreign architecture
	} {
		nr, ok := c.arch.Syscall(c.call)
		if !ok {
			t.Fatalf("%v has no %s", c.arch, c.call)
		}
		if got := judge(t, c.program, c.arch, nr, [6]uint64{c.args[0], c.args[1], c.args[2]}); got != c.want {
			t.Errorf("%v %s%#x: %v, want %v", c.arch, c.call, c.args, got, c.want)
		}
	}
	connect, _ := seccompx.AMD64.Syscall("connect")
	if got := judge(t, program, seccompx.AMD64, connect|0x40000000, [6]uint64{3, 0x1000, 16}); got == seccompx.Allow {
		t.Errorf("connect by its x32 number is let through")
	}
}

// What a filter stops where sockets are swapped, beyond connect(2), and what must never be stopped.
func TestFilterSwaps(t *testing.T) {
	assemble := func(swaps, sees bool, arch seccompx.Arch) seccompx.Program {
		f := Filter(session.Needs{Swaps: swaps, Sees: sees})
		f.Arches = []seccompx.Arch{arch}
		p, err := f.Assemble()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const dirty = 0xdeadbeef_00000000
	for _, arch := range []seccompx.Arch{seccompx.AMD64, seccompx.ARM64, seccompx.I386} {
		blind, sees, none := assemble(true, false, arch), assemble(true, true, arch), assemble(false, false, arch)
		check := func(p seccompx.Program, want seccompx.Action, call string, args ...uint64) {
			t.Helper()
			nr, ok := arch.Syscall(call)
			if !ok {
				return
			}
			var all [6]uint64
			copy(all[:], args)
			if got := judge(t, p, arch, nr, all); got != want {
				t.Errorf("%v %s%#x: %v, want %v", arch, call, args, got, want)
			}
		}
		for i := range sockstate.Options {
			row := &sockstate.Options[i]
			want, wantBlind := seccompx.UserNotify, seccompx.UserNotify
			if row.Always {
				want = seccompx.Allow
			}
			if row.Always && !row.Blind {
				wantBlind = seccompx.Allow
			}
			check(sees, want, "setsockopt", 3, uint64(row.Level), uint64(row.Name))
			check(blind, wantBlind, "setsockopt", 3, uint64(row.Level), uint64(row.Name))
			check(blind, wantBlind, "setsockopt", 3, dirty|uint64(row.Level), dirty|uint64(row.Name))
			check(none, seccompx.Allow, "setsockopt", 3, uint64(row.Level), uint64(row.Name))
		}
		for _, name := range []uint64{unix.SO_RCVBUF, unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE, sockstate.SoRcvTimeoNew, sockstate.SoSndTimeoNew} {
			check(blind, seccompx.UserNotify, "setsockopt", 3, unix.SOL_SOCKET, name)
			check(sees, seccompx.Allow, "setsockopt", 3, unix.SOL_SOCKET, name)
		}
		check(blind, seccompx.UserNotify, "setsockopt", 3, unix.IPPROTO_TCP, 9999) // a new kernel's
		check(blind, seccompx.Allow, "setsockopt", 3, unix.IPPROTO_UDP, 103)
		check(blind, seccompx.Allow, "setsockopt", 3, unix.SOL_NETLINK, 1)
		check(blind, seccompx.Allow, "getsockopt", 3, unix.SOL_SOCKET, unix.SO_PRIORITY)
		for _, call := range []string{"fcntl", "fcntl64"} {
			check(blind, seccompx.UserNotify, call, 3, unix.F_SETOWN)
			check(blind, seccompx.UserNotify, call, 3, unix.F_SETOWN_EX)
			check(blind, seccompx.UserNotify, call, 3, unix.F_SETSIG)
			check(blind, seccompx.Allow, call, 3, unix.F_SETFL)
			check(blind, seccompx.Allow, call, 3, unix.F_DUPFD_CLOEXEC)
			check(none, seccompx.Allow, call, 3, unix.F_SETOWN)
		}
		check(blind, seccompx.UserNotify, "ioctl", 3, fioSetOwn)
		check(blind, seccompx.UserNotify, "ioctl", 3, siocSPGrp)
		check(blind, seccompx.Allow, "ioctl", 3, unix.TIOCINQ)
		check(blind, seccompx.UserNotify, "sendto", 3, 0x1000, 5, unix.MSG_FASTOPEN|unix.MSG_DONTWAIT, 0x2000, 16)
		check(blind, seccompx.Allow, "sendto", 3, 0x1000, 5, unix.MSG_FASTOPEN, 0, 0)
		check(blind, seccompx.Allow, "sendto", 3, 0x1000, 5, unix.MSG_NOSIGNAL, 0x2000, 16)
		check(blind, seccompx.UserNotify, "sendmsg", 3, 0x1000, unix.MSG_FASTOPEN)
		check(blind, seccompx.Allow, "sendmsg", 3, 0x1000, unix.MSG_NOSIGNAL)
		check(blind, seccompx.UserNotify, "sendmmsg", 3, 0x1000, 2, unix.MSG_FASTOPEN)
		check(blind, seccompx.Allow, "sendmmsg", 3, 0x1000, unix.MSG_FASTOPEN, 0)
		check(none, seccompx.Allow, "sendto", 3, 0x1000, 5, unix.MSG_FASTOPEN, 0x2000, 16)
		check(blind, seccompx.UserNotify, "epoll_create1", 0)
		check(sees, seccompx.Allow, "epoll_create1", 0)
		for _, call := range []string{"close", "dup", "dup2", "dup3", "socket", "bind", "listen", "shutdown", "epoll_ctl", "epoll_wait", "read", "write", "getsockname", "getpeername"} {
			check(blind, seccompx.Allow, call, 3, 1, 1, 1, 1, 1)
		}
	}
}

// judge runs a filter on a struct seccomp_data.
func judge(t *testing.T, p seccompx.Program, arch seccompx.Arch, nr uint32, args [6]uint64) seccompx.Action {
	t.Helper()
	return newMachine(t, p).decide(t, arch, nr, args)
}

// An option that is not read at every swap is one whose setting is told of, whatever the policy
// needs.
func TestOptionsUnreadAreStopped(t *testing.T) {
	const arch = seccompx.AMD64
	nr, _ := arch.Syscall("setsockopt")
	for _, n := range []session.Needs{
		{Swaps: true, Netns: true}, {Swaps: true, Netns: true, Sees: true}, {Swaps: true, Netns: true, UDP: true, Sends: true},
		{Swaps: true, Inet6: true}, {Swaps: true, Inet6: true, Sees: true, UDP: true, Sends: true, Receives: true},
		{Swaps: true, Unix: true}, {Swaps: true, Unix: true, UDP: true, Sends: true, Receives: true},
	} {
		f := Filter(n)
		f.Arches = []seccompx.Arch{arch}
		p, err := f.Assemble()
		if err != nil {
			t.Fatal(err)
		}
		var used sockstate.OptionsUsed
		used.Note(n.Passes)
		for i := range sockstate.Options {
			row := &sockstate.Options[i]
			action := judge(t, p, arch, nr, [6]uint64{3, uint64(row.Level), uint64(row.Name)})
			if !used.MustRead(i) && action != seccompx.UserNotify {
				t.Errorf("%+v: %s is neither read nor stopped", n, row.Label)
			}
			if used.Set(i); !used.MustRead(i) {
				t.Errorf("%+v: %s is not read although it was set", n, row.Label)
			}
		}
	}
}

// receiveRules are those of the calls that receive, with or without routes for datagrams.
func receiveRules(n session.Needs, datagrams bool) (rules []seccompx.Rule) {
	n.Receives = datagrams
	for i := range calls {
		if row := &calls[i]; strings.HasPrefix(row.name, "recv") {
			rules = append(rules, row.filterRules(n)...)
		}
	}
	return rules
}

// TestReceiveRules is about what is stopped.
func TestReceiveRules(t *testing.T) {
	const errorQueue, dirty = unix.MSG_ERRQUEUE | unix.MSG_DONTWAIT, 0xdeadbeef_00000000
	if rules := receiveRules(session.Needs{Swaps: true}, true); rules != nil {
		t.Errorf("without routes to other families: %v", rules)
	}
	for _, arch := range []seccompx.Arch{seccompx.AMD64, seccompx.I386, seccompx.ARM64} {
		for _, datagrams := range []bool{true, false} {
			f := seccompx.Filter{Rules: receiveRules(session.Needs{Inet6: true}, datagrams), Default: seccompx.Allow, Arches: []seccompx.Arch{arch}}
			program, err := f.Assemble()
			if err != nil {
				t.Fatal(err)
			}
			check := func(stops bool, call string, args ...uint64) {
				t.Helper()
				nr, ok := arch.Syscall(call)
				if !ok {
					return
				}
				want := seccompx.Allow
				if stops {
					want = seccompx.UserNotify
				}
				var all [6]uint64
				copy(all[:], args)
				if got := judge(t, program, arch, nr, all); got != want {
					t.Errorf("%v, datagrams %v: %s%#x: %v, want %v", arch, datagrams, call, args, got, want)
				}
			}
			check(false, "recvfrom", 3, 0x1000, 10, 0, 0, 0)
			check(false, "recvfrom", 3, 0x1000, 10, dirty, 0, 0x1000)
			check(datagrams, "recvfrom", 3, 0x1000, 10, 0, 0x1000, 0x2000)
			check(true, "recvfrom", 3, 0x1000, 10, errorQueue, 0, 0)
			check(true, "recvfrom", 3, 0x1000, 10, dirty|errorQueue, 0, 0)
			if arch != seccompx.I386 {
				check(datagrams, "recvfrom", 3, 0x1000, 10, 0, 1<<32, 0)
			}
			check(datagrams, "recvmsg", 3, 0x1000, unix.MSG_DONTWAIT)
			check(true, "recvmsg", 3, 0x1000, errorQueue)
			for _, call := range []string{"recvmmsg", "recvmmsg_time64"} {
				check(datagrams, call, 3, 0x1000, 5, 0, 0)
				check(true, call, 3, 0x1000, 5, errorQueue, 0)
			}
			for _, what := range []uint64{linux.SocketcallRecvfrom, linux.SocketcallRecvmsg, linux.SocketcallRecvmmsg} {
				check(true, "socketcall", what, 0x1000)
			}
			check(false, "socketcall", 10, 0x1000) // recv
			check(false, "read", 3)
		}
	}
}
