package seccompx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"

	"golang.org/x/net/bpf"
)

// MaxInstructions is the most a program may have (BPF_MAXINSNS, linux/bpf_common.h).
const MaxInstructions = 4096

// ErrTooLong is what [Filter.Assemble] wraps if a program came out longer than [MaxInstructions].
var ErrTooLong = errors.New("filter program too long")

// Program is a filter as the kernel runs it. Its elements have the layout of struct sock_filter.
type Program []bpf.RawInstruction

// Offsets in struct seccomp_data (linux/seccomp.h). All architectures with a table here are
// little-endian: the low half of an argument comes first.
const (
	offNr   = 0
	offArch = 4
	offIP   = 8
	offArgs = 16
)

func offLow(arg int) uint32  { return offArgs + 8*uint32(arg) }
func offHigh(arg int) uint32 { return offLow(arg) + 4 }

// linearMax is how many calls are looked for one after the other. Above that a comparison
// that halves them pays.
const linearMax = 4

// Assemble makes the program. Errors name the rule, counted from 0, and what is wrong with it; a
// program of more than [MaxInstructions] is [ErrTooLong].
//
// The program checks the architecture first, then the number, and looks at arguments last: calls
// without a rule are through after a handful of instructions, and from Linux 5.11 on the kernel
// remembers of calls which are always allowed that it need not run the program at all.
func (f *Filter) Assemble() (Program, error) {
	f, err := f.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("seccomp filter: %w", err)
	}
	c := compiler{filter: f, blocks: map[string]label{}}
	insts, err := c.compile().link()
	if err != nil {
		return nil, fmt.Errorf("seccomp filter: %w", err)
	}
	raw, err := bpf.Assemble(insts)
	if err != nil {
		return nil, fmt.Errorf("seccomp filter: %w", err)
	}
	return raw, nil
}

// withDefaults returns a copy with every field given, or says what is wrong with the filter.
func (f *Filter) withDefaults() (*Filter, error) {
	g := *f
	if g.Arches == nil {
		g.Arches = NativeArches()
	}
	if len(g.Arches) == 0 {
		return nil, errors.New("no architecture is given, and there is no table for the one this program is built for")
	}
	for i, a := range g.Arches {
		if a.table() == nil {
			return nil, fmt.Errorf("no system call table for %v", a)
		}
		if slices.Contains(g.Arches[:i], a) {
			return nil, fmt.Errorf("architecture %v is given twice", a)
		}
	}
	allAllow := true
	for i, r := range g.Rules {
		if err := g.checkRule(r); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		allAllow = allAllow && r.Do == Allow
	}
	if g.Default == 0 {
		if allAllow && len(g.Rules) > 0 {
			return nil, errors.New("every rule allows and no default is given: the filter would do nothing")
		}
		g.Default = Allow
	}
	if g.UnknownArch == 0 {
		g.UnknownArch = Errno(syscall.ENOSYS)
	}
	if g.X32 == 0 {
		g.X32 = Errno(syscall.ENOSYS)
	}
	for _, a := range []struct {
		name   string
		action Action
	}{{"default", g.Default}, {"unknown architecture", g.UnknownArch}, {"x32", g.X32}} {
		if err := a.action.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return &g, nil
}

func (f *Filter) checkRule(r Rule) error {
	if len(r.Syscalls) == 0 {
		return errors.New("it names no system call")
	}
	for _, a := range r.Arches {
		if !slices.Contains(f.Arches, a) {
			return fmt.Errorf("architecture %v is not one of the filter's, %v", a, f.Arches)
		}
	}
	for _, name := range r.Syscalls {
		known := r.Arches
		if len(known) == 0 {
			// Anywhere at all: what distinguishes a typo from a call that this architecture lacks.
			known = []Arch{AMD64, I386, ARM64}
		}
		if !slices.ContainsFunc(known, func(a Arch) bool { _, ok := a.Syscall(name); return ok }) {
			return fmt.Errorf("no system call %q on %v", name, known)
		}
	}
	for i, c := range r.When {
		if err := c.check(); err != nil {
			return fmt.Errorf("condition %d: %w", i, err)
		}
	}
	return r.Do.check()
}

// chain is what is left to decide once architecture and number are known: rules with conditions,
// tried in order, and what happens if none matches.
type chain struct {
	rules []int // indices into Filter.Rules
	fall  Action
}

// chains returns the chain of every call of an architecture that is not simply for the default.
func (f *Filter) chains(a Arch) map[uint32]chain {
	byNr := map[uint32][]int{}
	for i, r := range f.Rules {
		if len(r.Arches) > 0 && !slices.Contains(r.Arches, a) {
			continue
		}
		for _, name := range r.Syscalls {
			nr, ok := a.Syscall(name)
			if !ok {
				continue
			}
			if rules := byNr[nr]; len(rules) == 0 || rules[len(rules)-1] != i { // named twice in one rule
				byNr[nr] = append(rules, i)
			}
		}
	}
	chains := map[uint32]chain{}
	for nr, rules := range byNr {
		c := chain{rules, f.Default}
		for n, i := range rules {
			if len(f.Rules[i].When) == 0 { // nothing behind it is ever reached
				c = chain{rules[:n], f.Rules[i].Do}
				break
			}
		}
		// What ends as it would have ended anyway need not be asked.
		for n := len(c.rules); n > 0 && f.Rules[c.rules[n-1]].Do == c.fall; n-- {
			c.rules = c.rules[:n-1]
		}
		if len(c.rules) > 0 || c.fall != f.Default {
			chains[nr] = c
		}
	}
	return chains
}

func (c chain) key() string {
	b := binary.LittleEndian.AppendUint32(nil, uint32(c.fall))
	for _, i := range c.rules {
		b = binary.LittleEndian.AppendUint32(b, uint32(i))
	}
	return string(b)
}

// compiler lays out the program: for each architecture its check and a search for the number, and
// behind them all the chains, each of which is there once however many calls share it.
type compiler struct {
	filter *Filter
	code   assembly
	blocks map[string]label
	queue  []block
}

type block struct {
	at    label
	chain chain
}

func (c *compiler) compile() *assembly {
	a := &c.code
	a.load(offArch)
	for _, arch := range c.filter.Arches {
		mine, next := a.newLabel(), a.newLabel()
		a.jump(bpf.JumpEqual, uint32(arch), mine, next)
		a.place(mine)
		a.load(offNr)
		if arch == AMD64 {
			x32, minus1, native := a.newLabel(), a.newLabel(), a.newLabel()
			a.jump(bpf.JumpBitsSet, X32Bit, x32, native)
			a.place(x32)
			a.jump(bpf.JumpEqual, math.MaxUint32, native, minus1)
			a.place(minus1)
			a.ret(c.filter.X32)
			a.place(native)
		}
		chains := c.filter.chains(arch)
		nrs := make([]uint32, 0, len(chains))
		for nr := range chains {
			nrs = append(nrs, nr)
		}
		slices.Sort(nrs)
		c.search(nrs, chains)
		a.place(next) // the accumulator still holds the architecture on this way
	}
	a.ret(c.filter.UnknownArch)
	for i := 0; i < len(c.queue); i++ {
		a.place(c.queue[i].at)
		c.chain(c.queue[i].chain)
	}
	return a
}

// search jumps to the chain of the number in the accumulator.
func (c *compiler) search(nrs []uint32, chains map[uint32]chain) {
	a := &c.code
	if len(nrs) > linearMax {
		low, high := a.newLabel(), a.newLabel()
		mid := len(nrs) / 2
		a.jump(bpf.JumpGreaterOrEqual, nrs[mid], high, low)
		a.place(low)
		c.search(nrs[:mid], chains)
		a.place(high)
		c.search(nrs[mid:], chains)
		return
	}
	for _, nr := range nrs {
		next := a.newLabel()
		a.jump(bpf.JumpEqual, nr, c.block(chains[nr]), next)
		a.place(next)
	}
	a.ret(c.filter.Default)
}

func (c *compiler) block(ch chain) label {
	key := ch.key()
	at, ok := c.blocks[key]
	if !ok {
		at = c.code.newLabel()
		c.blocks[key] = at
		c.queue = append(c.queue, block{at, ch})
	}
	return at
}

func (c *compiler) chain(ch chain) {
	a := &c.code
	for _, i := range ch.rules {
		r := c.filter.Rules[i]
		next := a.newLabel()
		for _, cond := range r.When {
			holds := a.newLabel()
			c.compare(cond, holds, next)
			a.place(holds)
		}
		a.ret(r.Do)
		a.place(next)
	}
	a.ret(ch.fall)
}

// compare jumps to yes or no. A filter has 32-bit registers: the high halves are compared first,
// and the low ones only if those are equal. A half that the mask leaves nothing of is not loaded.
func (c *compiler) compare(cond Cond, yes, no label) {
	a := &c.code
	switch cond.Op { // three of them are the opposite of another
	case NotEqual:
		cond.Op, yes, no = Equal, no, yes
	case Less:
		cond.Op, yes, no = GreaterOrEqual, no, yes
	case LessOrEqual:
		cond.Op, yes, no = Greater, no, yes
	}
	mask := cond.mask()
	maskHigh, maskLow := uint32(mask>>32), uint32(mask)
	high, low := uint32(cond.Value>>32), uint32(cond.Value)

	if maskHigh != 0 {
		a.load(offHigh(cond.Arg))
		a.and(maskHigh)
		if cond.Op != Equal && cond.Op != MaskedEqual {
			notAbove := a.newLabel()
			a.jump(bpf.JumpGreaterThan, high, yes, notAbove)
			a.place(notAbove)
		}
		same := a.newLabel()
		a.jump(bpf.JumpEqual, high, same, no)
		a.place(same)
	}
	if maskLow == 0 { // equal so far, and 0 against 0 from here on
		if cond.Op == Greater {
			a.goTo(no)
		} else {
			a.goTo(yes)
		}
		return
	}
	a.load(offLow(cond.Arg))
	a.and(maskLow)
	switch cond.Op {
	case Equal, MaskedEqual:
		a.jump(bpf.JumpEqual, low, yes, no)
	case Greater:
		a.jump(bpf.JumpGreaterThan, low, yes, no)
	case GreaterOrEqual:
		a.jump(bpf.JumpGreaterOrEqual, low, yes, no)
	}
}
