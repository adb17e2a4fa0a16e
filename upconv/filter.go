package upconv

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/policy"
)

// Filter returns the seccomp filter that a supervised program runs under. A connect(2) is stopped
// where its address is long enough for an IPv4 destination and short enough for the kernel to take
// it. io_uring_setup(2) fails with ENOSYS, since io_uring connects without a system call; programs
// fall back. Everything else runs at full speed.
//
// Where sockets are swapped or destinations refused, sends with MSG_FASTOPEN are stopped too: they
// connect. Where sockets are swapped, so are some more calls: epoll_create(2), to know who has
// epoll sets, unless upconv sees whether a socket is in one (see sight.go); bind(2), for a port may
// be one that has left (see ports.go); and, only to know that it is done at all, the setting of
// socket options that hardly any program sets (see optionsUsed), and landlock_restrict_self(2) (see
// restricted.go).
//
// Sends of datagrams to an address are stopped if the policy has routes for them; receiving them,
// only if some of those are to another address family.
//
// The length is an int, which the kernel takes from the low half of the register. So only that half
// is compared: a program could put anything into the other one.
//
// Where sockets are replaced by those of another address family, the calls that would tell are
// stopped too: those for the names of sockets, and getsockopt(2) and setsockopt(2) for some
// options.
//
// It is the filter of [SwapAtConnect].
func Filter(p *policy.Policy, udp policy.UDPMode) seccompx.Filter { return filter(needsOf(p, udp)) }

func filter(n needs) seccompx.Filter {
	f := seccompx.Filter{
		Rules: []seccompx.Rule{
			{Syscalls: []string{"io_uring_setup"}, Do: seccompx.Errno(unix.ENOSYS)},
			notify("connect", low(2).AtLeast(n.shortestAddress()), low(2).AtMost(linux.SizeofSockaddrStorage)),
		},
		Default: seccompx.Allow,
	}
	f.Rules = append(f.Rules, socketcallRules(sysConnect)...)
	if n.atSocket() {
		f.Rules = append(f.Rules, atSocketRules(n)...)
	}
	if n.netns {
		f.Rules = append(f.Rules, listenRules()...)
	}
	if n.sends {
		f.Rules = append(f.Rules, sendRules()...)
	}
	if n.crosses() {
		f.Rules = append(f.Rules, crossingRules(n)...)
		f.Rules = append(f.Rules, receiveRules(n, n.receives)...)
	}
	if n.swaps || n.rejects {
		f.Rules = append(f.Rules, fastOpenRules()...)
	}
	if n.swaps { // else there are neither ports that have left, nor companions, nor receivers that wait
		f.Rules = append(f.Rules, bindRules()...)
		f.Rules = append(f.Rules, swapRules(n)...)
		if !n.sees {
			f.Rules = append(f.Rules, seccompx.Rule{Syscalls: []string{"epoll_create", "epoll_create1"}, Do: seccompx.UserNotify})
		}
	}
	return f
}

// notify is the rule that stops a call.
func notify(call string, when ...seccompx.Cond) seccompx.Rule {
	return seccompx.Rule{Syscalls: []string{call}, When: when, Do: seccompx.UserNotify}
}

// low is an argument that is an int.
func low(arg int) seccompx.Operand { return seccompx.Arg(arg).Low32() }

// fastOpenRules stop the other calls that connect.
func fastOpenRules() []seccompx.Rule {
	return []seccompx.Rule{
		notify("sendto", low(3).HasAny(unix.MSG_FASTOPEN), low(5).AtLeast(linux.SizeofSockaddrIn), low(5).AtMost(linux.SizeofSockaddrStorage)),
		notify("sendmsg", low(2).HasAny(unix.MSG_FASTOPEN)),
		notify("sendmmsg", low(3).HasAny(unix.MSG_FASTOPEN)),
	}
}

// swapRules stop what a swap must know about.
func swapRules(n needs) []seccompx.Rule {
	rules := append(socketcallRules(sysSetsockopt), notify("landlock_restrict_self"))
	for _, call := range []string{"fcntl", "fcntl64"} {
		for _, command := range []uint64{unix.F_SETOWN, unix.F_SETSIG, unix.F_SETOWN_EX} {
			rules = append(rules, notify(call, low(1).Equal(command)))
		}
	}
	for _, command := range []uint64{fioSetOwn, siocSPGrp} {
		rules = append(rules, notify("ioctl", low(1).Equal(command)))
	}
	if n.unix && n.udp {
		rules = append(rules, notify("setsockopt", low(1).Equal(unix.IPPROTO_UDP)))
	}
	for _, level := range sockoptLevels {
		ofLevel := low(1).Equal(uint64(level))
		for _, options := range [][]sockopt{sockopts, passedOptions} {
			for i := range options {
				if row := &options[i]; row.level == level && n.passes(row) {
					rules = append(rules, seccompx.Rule{
						Syscalls: []string{"setsockopt"},
						When:     []seccompx.Cond{ofLevel, low(2).Equal(uint64(row.name))},
						Do:       seccompx.Allow,
					})
				}
			}
		}
		rules = append(rules, notify("setsockopt", ofLevel))
	}
	return rules
}

// passes reports whether setsockopt(2) is not stopped for an option.
func (n needs) passes(row *sockopt) bool {
	return row.always && !n.tells(row) && (n.sees || !row.blind)
}

// tells reports whether a program that sets the option could find out that its socket is of another
// family.
func (n needs) tells(row *sockopt) bool {
	return n.unix && row.level != unix.SOL_SOCKET || n.inet6 && (row.level == unix.IPPROTO_IPV6 || row.level == unix.IPPROTO_IP)
}

// crossingRules stop what would tell a program that its socket is of another family.
func crossingRules(n needs) []seccompx.Rule {
	rules := []seccompx.Rule{{Syscalls: []string{"getpeername", "getsockname"}, Do: seccompx.UserNotify}}
	rules = append(rules, socketcallRules(sysGetpeername, sysGetsockname, sysGetsockopt)...)
	for _, o := range n.asked() {
		when := []seccompx.Cond{low(1).Equal(uint64(o.level))}
		if o.name != anyOption {
			when = append(when, low(2).Equal(uint64(o.name)))
		}
		rules = append(rules, notify("getsockopt", when...))
	}
	return rules
}

// callRules are what a filter does with one call; the first that matches decides.
type callRules []seccompx.Rule

// stopIf stops the call under some conditions, if that is needed.
func (r *callRules) stopIf(needed bool, when ...seccompx.Cond) {
	r.addIf(needed, seccompx.UserNotify, when)
}

// passIf leaves the call alone under some conditions, if a later rule would stop it.
func (r *callRules) passIf(needed bool, when ...seccompx.Cond) {
	r.addIf(needed, seccompx.Allow, when)
}

// fail has the call fail.
func (r *callRules) fail(errno unix.Errno) { r.addIf(true, seccompx.Errno(errno), nil) }

func (r *callRules) addIf(needed bool, do seccompx.Action, when []seccompx.Cond) {
	if needed {
		*r = append(*r, seccompx.Rule{When: when, Do: do})
	}
}

// filterRules returns the rules of a row, those for socketcall(2) included.
func (row *callRow) filterRules(n needs) []seccompx.Rule {
	var all callRules
	row.rules(n, &all)
	stops := slices.ContainsFunc(all, func(r seccompx.Rule) bool { return r.Do == seccompx.UserNotify })
	for i := range all {
		all[i].Syscalls = []string{row.name}
	}
	if row.unseen != nil {
		stops = row.unseen(n)
	}
	if row.number != 0 && stops {
		all = append(all, notify("socketcall", low(0).Equal(uint64(row.number))))
	}
	return all
}

func tableFilter(n needs) seccompx.Filter {
	f := seccompx.Filter{Default: seccompx.Allow}
	for i := range calls {
		f.Rules = append(f.Rules, calls[i].filterRules(n)...)
	}
	return f
}
