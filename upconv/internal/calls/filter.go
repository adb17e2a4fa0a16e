package calls

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/session"
)

// Filter returns the seccomp filter that a supervised program runs under. It stops no call that a
// policy with these needs has no need of, and what it does not stop runs at full speed.
func Filter(n session.Needs) seccompx.Filter {
	f := seccompx.Filter{Default: seccompx.Allow}
	for i := range calls {
		f.Rules = append(f.Rules, calls[i].filterRules(n)...)
	}
	return f
}

// filterRules returns the rules of a row, the one for socketcall(2) included.
func (row *callRow) filterRules(n session.Needs) []seccompx.Rule {
	var all callRules
	row.rules(n, &all)
	for i := range all {
		all[i].Syscalls = []string{row.name}
	}
	unseen := all.stopAny()
	if row.unseen != nil {
		unseen = row.unseen(n)
	}
	if row.socketcall != 0 && unseen {
		is := low(0).Equal(uint64(row.socketcall))
		all = append(all, seccompx.Rule{Syscalls: []string{"socketcall"}, When: []seccompx.Cond{is}, Do: seccompx.UserNotify})
	}
	return all
}

// callRules are what a filter does with one call; the first that matches decides.
type callRules []seccompx.Rule

func (r *callRules) add(do seccompx.Action, when []seccompx.Cond) {
	*r = append(*r, seccompx.Rule{When: when, Do: do})
}

// stop stops the call under some conditions.
func (r *callRules) stop(when ...seccompx.Cond) { r.add(seccompx.UserNotify, when) }

// stopIf stops the call under some conditions, if that is needed.
func (r *callRules) stopIf(needed bool, when ...seccompx.Cond) {
	if needed {
		r.stop(when...)
	}
}

// passIf leaves the call alone under some conditions, if a later rule would stop it.
func (r *callRules) passIf(needed bool, when ...seccompx.Cond) {
	if needed {
		r.add(seccompx.Allow, when)
	}
}

// fail has the call fail.
func (r *callRules) fail(errno unix.Errno) { r.add(seccompx.Errno(errno), nil) }

// stopAny reports whether the rules stop anything.
func (r callRules) stopAny() bool {
	return slices.ContainsFunc(r, func(one seccompx.Rule) bool { return one.Do == seccompx.UserNotify })
}

// low is an argument that is an int, which the kernel takes from the low half of the register: a
// program could put anything into the other one.
func low(arg int) seccompx.Operand { return seccompx.Arg(arg).Low32() }
