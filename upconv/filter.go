package upconv

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// The first argument of socketcall(2), linux/net.h.
const (
	sysConnect     = 3
	sysGetsockname = 6
	sysGetpeername = 7
	sysSetsockopt  = 14
	sysGetsockopt  = 15
)

// Commands of fcntl(2) and ioctl(2) that say who gets a descriptor's signals: asm-generic/fcntl.h,
// asm-generic/sockios.h.
const (
	fioSetOwn = 0x8901
	siocSPGrp = 0x8902
)

// Filter returns the seccomp filter that a supervised program runs under. A connect(2) is stopped
// where its address is long enough for an IPv4 destination and short enough for the kernel
// to take it. io_uring_setup(2) fails with ENOSYS, since io_uring connects without a system
// call; programs fall back. Everything else runs at full speed.
//
// Where sockets are swapped or destinations refused, sends with MSG_FASTOPEN are stopped too: they connect. Where sockets are
// swapped, so are some more calls: epoll_create(2), to know who has epoll sets, unless upconv sees whether a socket is in one
// (see sight.go); and, only to know that it is done at all, the setting of socket options that hardly any program sets (see
// optionsUsed).
//
// Sends of datagrams to an address are stopped if the policy has routes for them; receiving them, only if some of those are to
// another address family.
//
// The length is an int, which the kernel takes from the low half of the register. So only that half
// is compared: a program could put anything into the other one.
//
// Where sockets are replaced by those of another address family, the calls that would tell are stopped too: those for the
// names of sockets, and getsockopt(2) and setsockopt(2) for some options.
//
// It is the filter of [SwapAtConnect].
func Filter(p *Policy, udp UDPMode) seccompx.Filter { return filter(p.needs(udp)) }

func filter(n needs) seccompx.Filter {
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
	if n.atSocket() {
		f.Rules = append(f.Rules, atSocketRules(n)...)
	}
	if n.sends {
		f.Rules = append(f.Rules, sendRules()...)
	}
	if n.swaps && n.sends || n.receives { // else there are neither companions nor receivers that wait
		f.Rules = append(f.Rules, bindRules()...)
	}
	if n.crosses() {
		f.Rules = append(f.Rules, crossingRules(n)...)
		f.Rules = append(f.Rules, receiveRules(n, n.receives)...)
	}
	if n.swaps || n.rejects {
		f.Rules = append(f.Rules, fastOpenRules()...)
	}
	if n.swaps {
		f.Rules = append(f.Rules, swapRules(n)...)
		if !n.sees {
			f.Rules = append(f.Rules, seccompx.Rule{Syscalls: []string{"epoll_create", "epoll_create1"}, Do: seccompx.UserNotify})
		}
	}
	return f
}

// fastOpenRules stop the other calls that connect.
func fastOpenRules() []seccompx.Rule {
	arg := func(n int) seccompx.Operand { return seccompx.Arg(n).Low32() }
	return []seccompx.Rule{
		{
			Syscalls: []string{"sendto"},
			When:     []seccompx.Cond{arg(3).HasAny(unix.MSG_FASTOPEN), arg(5).AtLeast(sizeofSockaddrIn), arg(5).AtMost(sizeofSockaddrStorage)},
			Do:       seccompx.UserNotify,
		},
		{Syscalls: []string{"sendmsg"}, When: []seccompx.Cond{arg(2).HasAny(unix.MSG_FASTOPEN)}, Do: seccompx.UserNotify},
		{Syscalls: []string{"sendmmsg"}, When: []seccompx.Cond{arg(3).HasAny(unix.MSG_FASTOPEN)}, Do: seccompx.UserNotify},
	}
}

// swapRules stop what a swap must know about.
func swapRules(n needs) []seccompx.Rule {
	notify := func(call string, when ...seccompx.Cond) seccompx.Rule {
		return seccompx.Rule{Syscalls: []string{call}, When: when, Do: seccompx.UserNotify}
	}
	arg := func(n int) seccompx.Operand { return seccompx.Arg(n).Low32() }
	rules := []seccompx.Rule{notify("socketcall", arg(0).Equal(sysSetsockopt))}
	for _, call := range []string{"fcntl", "fcntl64"} {
		for _, command := range []uint64{unix.F_SETOWN, unix.F_SETSIG, unix.F_SETOWN_EX} {
			rules = append(rules, notify(call, arg(1).Equal(command)))
		}
	}
	for _, command := range []uint64{fioSetOwn, siocSPGrp} {
		rules = append(rules, notify("ioctl", arg(1).Equal(command)))
	}
	if n.unix && n.udp {
		rules = append(rules, notify("setsockopt", arg(1).Equal(unix.IPPROTO_UDP)))
	}
	for _, level := range sockoptLevels {
		ofLevel := arg(1).Equal(uint64(level))
		for _, options := range [][]sockopt{sockopts, passedOptions} {
			for i := range options {
				if row := &options[i]; row.level == level && !n.tells(row) && (row.always || &options[0] == &passedOptions[0]) {
					rules = append(rules, seccompx.Rule{
						Syscalls: []string{"setsockopt"},
						When:     []seccompx.Cond{ofLevel, arg(2).Equal(uint64(row.name))},
						Do:       seccompx.Allow,
					})
				}
			}
		}
		rules = append(rules, notify("setsockopt", ofLevel))
	}
	return rules
}

// tells reports whether a program that sets the option could find out that its socket is of another family.
func (n needs) tells(row *sockopt) bool {
	return n.unix && row.level != unix.SOL_SOCKET || n.inet6 && (row.level == unix.IPPROTO_IPV6 || row.level == unix.IPPROTO_IP)
}

// crossingRules stop what would tell a program that its socket is of another family.
func crossingRules(n needs) []seccompx.Rule {
	arg := func(n int) seccompx.Operand { return seccompx.Arg(n).Low32() }
	rules := []seccompx.Rule{{Syscalls: []string{"getpeername", "getsockname"}, Do: seccompx.UserNotify}}
	for _, call := range []uint64{sysGetpeername, sysGetsockname, sysGetsockopt} {
		rules = append(rules, seccompx.Rule{
			Syscalls: []string{"socketcall"}, When: []seccompx.Cond{arg(0).Equal(call)}, Do: seccompx.UserNotify,
		})
	}
	for _, o := range n.asked() {
		when := []seccompx.Cond{arg(1).Equal(uint64(o.level))}
		if o.name != anyOption {
			when = append(when, arg(2).Equal(uint64(o.name)))
		}
		rules = append(rules, seccompx.Rule{Syscalls: []string{"getsockopt"}, When: when, Do: seccompx.UserNotify})
	}
	return rules
}
