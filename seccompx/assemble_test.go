//go:build linux

package seccompx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// eval is what a filter means, in so many words: what every program is measured by.
func (f Filter) eval(d Data) Action {
	arches := f.Arches
	if arches == nil {
		arches = NativeArches()
	}
	or := func(a, b Action) Action {
		if a == 0 {
			return b
		}
		return a
	}
	if !slices.Contains(arches, d.Arch) {
		return or(f.UnknownArch, Errno(unix.ENOSYS))
	}
	if d.Arch == AMD64 && d.Nr&X32Bit != 0 && d.Nr != -1 {
		return or(f.X32, Errno(unix.ENOSYS))
	}
	name, known := d.Arch.SyscallName(uint32(d.Nr))
	for _, r := range f.Rules {
		if known && slices.Contains(r.Syscalls, name) && (len(r.Arches) == 0 || slices.Contains(r.Arches, d.Arch)) &&
			!slices.ContainsFunc(r.When, func(c Cond) bool { return !c.eval(d) }) {
			return r.Do
		}
	}
	return or(f.Default, Allow)
}

func (c Cond) eval(d Data) bool {
	v := d.Args[c.Arg]
	if c.Mask != 0 {
		v &= c.Mask
	}
	switch c.Op {
	case Equal, MaskedEqual:
		return v == c.Value
	case NotEqual:
		return v != c.Value
	case Greater:
		return v > c.Value
	case GreaterOrEqual:
		return v >= c.Value
	case Less:
		return v < c.Value
	case LessOrEqual:
		return v <= c.Value
	}
	panic("no such comparison")
}

// vm runs a program as the kernel would. The machine of x/net/bpf loads in network byte order, as
// from a packet.
type vm struct {
	t testing.TB
	*bpf.VM
}

func newVM(t testing.TB, p Program) vm {
	t.Helper()
	insts, all := bpf.Disassemble(p)
	if !all {
		t.Fatalf("instructions that nobody knows:\n%v", p)
	}
	m, err := bpf.NewVM(insts)
	if err != nil {
		t.Fatalf("%v\n%v", err, p)
	}
	return vm{t, m}
}

func (m vm) run(d Data) Action {
	m.t.Helper()
	var b [64]byte
	put := binary.BigEndian.PutUint32
	put(b[0:], uint32(d.Nr))
	put(b[4:], uint32(d.Arch))
	for i, v := range append([]uint64{d.IP}, d.Args[:]...) {
		put(b[8+8*i:], uint32(v))
		put(b[12+8*i:], uint32(v>>32))
	}
	r, err := m.Run(b[:])
	if err != nil {
		m.t.Fatal(err)
	}
	return Action(r)
}

func nr(t testing.TB, a Arch, name string) int32 {
	t.Helper()
	n, ok := a.Syscall(name)
	if !ok {
		t.Fatalf("no %s on %v", name, a)
	}
	return int32(n)
}

var allArches = []Arch{AMD64, I386, ARM64}

// edges are arguments around every half, sign and mask that the tests compare with.
func edges(values ...uint64) []uint64 {
	values = append(values, 0, 1<<31, 1<<32, 1<<63, math.MaxUint32, math.MaxUint64)
	var all []uint64
	for _, v := range values {
		swapped := v<<32 | v>>32
		all = append(all, v, v+1, v-1, v+1<<32, v-1<<32, v^1<<63, v^1<<31, swapped, v&math.MaxUint32, v&^math.MaxUint32, ^v)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func allConds() (conds []Cond) {
	arg := Arg(3)
	for _, v := range []uint64{0, 1, 16, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 + 1, 5<<32 + 7, 7<<32 + 5, 1<<63 - 1, 1 << 63, math.MaxUint64} {
		conds = append(conds, arg.Equal(v), arg.NotEqual(v), arg.Above(v), arg.AtLeast(v), arg.Below(v), arg.AtMost(v))
		for _, mask := range []uint64{1, 0xf0, 0xffffffff, 0xffffffff << 32, 1 << 32, 0xf0000000f, 0xff << 28, 1 << 63, math.MaxUint64} {
			m, v := arg.Masked(mask), v&mask
			conds = append(conds, m.Equal(v), m.NotEqual(v), m.Above(v), m.AtLeast(v), m.Below(v), m.AtMost(v))
		}
	}
	return append(conds, arg.Low32().AtLeast(16), arg.HasAny(6), arg.HasAll(6), arg.HasAll(1<<40|1))
}

// TestConditions tries every comparison at every edge.
func TestConditions(t *testing.T) {
	for _, c := range allConds() {
		f := Filter{Arches: allArches, Rules: []Rule{{Syscalls: []string{"connect"}, When: []Cond{c}, Do: UserNotify}}}
		m := newVM(t, assemble(t, f))
		for _, arch := range allArches {
			for _, v := range edges(c.Value, c.Mask, c.Value|^c.mask()) {
				d := Data{Nr: nr(t, arch, "connect"), Arch: arch}
				d.Args[3] = v
				if got, want := m.run(d), f.eval(d); got != want {
					t.Errorf("%v with %#x on %v: %v, want %v", c, v, arch, got, want)
				}
			}
		}
	}
}

func TestNumbersAndArchitectures(t *testing.T) {
	f := Filter{
		Arches: []Arch{AMD64, I386},
		Rules: []Rule{
			{Syscalls: []string{"io_uring_setup"}, Do: Errno(unix.ENOSYS)},
			{Syscalls: []string{"socketcall"}, When: []Cond{Arg(0).Equal(3)}, Do: UserNotify},
			{Syscalls: []string{"connect"}, When: []Cond{Arg(2).Low32().AtLeast(16), Arg(2).Low32().AtMost(128)}, Do: UserNotify},
			{Syscalls: []string{"sendto"}, Arches: []Arch{AMD64}, Do: KillThread},
		},
		X32: Errno(unix.EPERM), UnknownArch: KillProcess,
	}
	m := newVM(t, assemble(t, f))
	const e = Action(0x50000)
	for _, c := range []struct {
		arch Arch
		nr   int32
		args [6]uint64
		want Action
	}{
		{AMD64, 425, [6]uint64{}, e | 38},
		{I386, 425, [6]uint64{}, e | 38},
		{ARM64, 425, [6]uint64{}, KillProcess},
		{AMD64, 42, [6]uint64{3, 0, 15}, Allow},
		{AMD64, 42, [6]uint64{3, 0, 16}, UserNotify},
		{AMD64, 42, [6]uint64{3, 0, 128}, UserNotify},
		{AMD64, 42, [6]uint64{3, 0, 129}, Allow},
		{AMD64, 42, [6]uint64{3, 0, 1<<32 | 16}, UserNotify}, // the kernel takes an int
		{AMD64, X32Bit | 42, [6]uint64{3, 0, 16}, e | 1},
		{AMD64, X32Bit, [6]uint64{}, e | 1},
		{AMD64, math.MaxInt32, [6]uint64{}, e | 1},
		{AMD64, math.MinInt32 | X32Bit | 42, [6]uint64{3, 0, 16}, e | 1},
		{AMD64, math.MinInt32 | 42, [6]uint64{3, 0, 16}, Allow}, // no call at all
		{AMD64, -1, [6]uint64{3, 0, 16}, Allow},                 // taken over by a tracer
		{AMD64, -2, [6]uint64{}, e | 1},
		{AMD64, 102, [6]uint64{3}, Allow}, // getuid
		{I386, 102, [6]uint64{3}, UserNotify},
		{I386, 102, [6]uint64{4}, Allow},
		{I386, 362, [6]uint64{3, 0, 16}, UserNotify},
		{I386, 42, [6]uint64{3, 0, 16}, Allow}, // pipe
		{I386, X32Bit | 362, [6]uint64{3, 0, 16}, Allow},
		{AMD64, 44, [6]uint64{}, KillThread},
		{I386, 369, [6]uint64{}, Allow},
		{0, 42, [6]uint64{3, 0, 16}, KillProcess},
		{AMD64 &^ 0x80000000, 42, [6]uint64{3, 0, 16}, KillProcess},
	} {
		d := Data{Nr: c.nr, Arch: c.arch, Args: c.args}
		if got := m.run(d); got != c.want {
			t.Errorf("%v %#x %v: %v, want %v", c.arch, uint32(c.nr), c.args, got, c.want)
		}
		if got := f.eval(d); got != c.want {
			t.Errorf("the evaluator says of %v %#x: %v, want %v", c.arch, uint32(c.nr), got, c.want)
		}
	}
}

func TestDefaults(t *testing.T) {
	for name, f := range map[string]Filter{
		"zero":                {},
		"default":             {Default: Errno(unix.EPERM)},
		"default and allowed": {Default: Trap, Rules: []Rule{{Syscalls: []string{"read"}, Do: Allow}}},
		"all given":           {Default: Log, UnknownArch: Trace(7), X32: Allow},
		"one architecture":    {Arches: []Arch{ARM64}},
	} {
		m := newVM(t, assemble(t, f))
		for _, arch := range append([]Arch{0, 1, 0xffffffff}, allArches...) {
			for _, n := range []int32{0, 63, 1 << 29, X32Bit, X32Bit + 1, -1, -2, math.MinInt32} {
				d := Data{Nr: n, Arch: arch}
				if got, want := m.run(d), f.eval(d); got != want {
					t.Errorf("%s: %v %#x: %v, want %v", name, arch, uint32(n), got, want)
				}
			}
		}
	}
}

func TestAssembleErrors(t *testing.T) {
	rule := func(r Rule) Filter {
		return Filter{Arches: []Arch{AMD64, I386}, Rules: []Rule{{Syscalls: []string{"read"}, Do: Trap}, r}}
	}
	when := func(c Cond) Filter {
		return rule(Rule{Syscalls: []string{"read"}, When: []Cond{Arg(0).Equal(1), c}, Do: Trap})
	}
	for want, f := range map[string]Filter{
		`rule 1: no system call "conect"`:                                              rule(Rule{Syscalls: []string{"connect", "conect"}, Do: Trap}),
		`rule 1: no system call "socketcall" on [amd64]`:                               rule(Rule{Syscalls: []string{"socketcall"}, Arches: []Arch{AMD64}, Do: Trap}),
		`rule 1: it names no system call`:                                              rule(Rule{Do: Trap}),
		`rule 1: no action is given`:                                                   rule(Rule{Syscalls: []string{"read"}}),
		`rule 1: 0x12345678 is no action`:                                              rule(Rule{Syscalls: []string{"read"}, Do: 0x12345678}),
		`rule 1: the errno is above 4095`:                                              rule(Rule{Syscalls: []string{"read"}, Do: Errno(4096)}),
		`rule 1: architecture arm64 is not one of the filter's`:                        rule(Rule{Syscalls: []string{"read"}, Arches: []Arch{ARM64}, Do: Trap}),
		`rule 1: condition 1: argument 6: a system call has arguments`:                 when(Arg(6).Equal(0)),
		`rule 1: condition 1: argument -1: a system`:                                   when(Arg(-1).Equal(0)),
		`rule 1: condition 1: argument 2: no comparison`:                               when(Cond{Arg: 2}),
		`rule 1: condition 1: argument 3: no comparison`:                               when(Cond{Arg: 3, Op: 99}),
		`rule 1: condition 1: argument 0: the mask is empty`:                           when(Cond{Op: MaskedEqual}),
		`rule 1: condition 1: argument 1: the mask is empty`:                           when(Arg(1).Masked(0xf0).Masked(0xf).AtLeast(0)),
		`argument 0: arg0 & 0xf0 == 0x1f0 can only have one answer: bits 0x100 `:       when(Arg(0).Masked(0xf0).Equal(0x1f0)),
		`argument 0: arg0 & 0xffffffff >= 0x100000000 can only have one answer: bits `: when(Arg(0).Low32().AtLeast(1 << 32)),
		`no system call table for arch(0x12)`:                                          {Arches: []Arch{0x12}},
		`no architecture is given`:                                                     {Arches: []Arch{}},
		`architecture i386 is given twice`:                                             {Arches: []Arch{I386, AMD64, I386}},
		`every rule allows and no default`:                                             {Rules: []Rule{{Syscalls: []string{"read"}, Do: Allow}}},
		`default: 0x7 is no action`:                                                    {Default: 7},
		`unknown architecture: the errno`:                                              {UnknownArch: Errno(70000)},
		`x32: 0x80000001 is no`:                                                        {X32: 0x80000001},
	} {
		p, err := f.Assemble()
		if err == nil || !strings.Contains(err.Error(), want) || p != nil {
			t.Errorf("%v, %v; want %q", p, err, want)
		}
	}
	// A call that another architecture has is passed over.
	for _, name := range []string{"socketcall", "open", "arch_prctl"} {
		f := Filter{Arches: []Arch{ARM64}, Rules: []Rule{{Syscalls: []string{name}, Do: Trap}}}
		if len(assemble(t, f)) != len(assemble(t, Filter{Arches: []Arch{ARM64}})) {
			t.Errorf("%s on arm64 made a difference", name)
		}
	}
}

// longFilter has a rule of its own for each of many calls, of some instructions each.
func longFilter(calls, conds int, arches ...Arch) Filter {
	f := Filter{Arches: arches}
	for i, c := range arches[0].table().calls[:calls] {
		r := Rule{Syscalls: []string{c.name}, Do: Errno(unix.Errno(i + 1))}
		for j := range conds {
			r.When = append(r.When, Arg((i+j)%6).NotEqual(uint64(i)<<32|uint64(j)))
		}
		f.Rules = append(f.Rules, r)
	}
	return f
}

// longRule has one rule with so many conditions that the way out of it is far.
func longRule(conds int) Filter {
	r := Rule{Syscalls: []string{stoppedName}, Do: Errno(unix.EXDEV)}
	for i := range conds {
		r.When = append(r.When, Arg(i%5).NotEqual(uint64(i)<<32|1000))
	}
	return Filter{Rules: []Rule{r, {Syscalls: []string{stoppedName}, Do: Errno(unix.EDOM)}}}
}

func TestLongJumps(t *testing.T) {
	for name, f := range map[string]Filter{
		"calls":                longFilter(350, 0, AMD64),
		"calls and conditions": longFilter(300, 2, AMD64),
		"two architectures":    longFilter(320, 1, I386, AMD64),
		"three":                longFilter(240, 1, ARM64, AMD64, I386),
		"conditions":           longRule(600),
	} {
		p := assemble(t, f)
		jumps := 0
		for _, i := range p {
			if i.Op == opJump {
				jumps++
			}
		}
		if jumps == 0 || len(p) < 500 {
			t.Errorf("%s: %d instructions, %d long jumps: not a test", name, len(p), jumps)
		}
		m := newVM(t, p)
		for _, arch := range append([]Arch{7}, allArches...) {
			for n := int32(-2); n < 500; n++ {
				for _, d := range []Data{
					{Nr: n, Arch: arch},
					{Nr: n, Arch: arch, Args: [6]uint64{uint64(n-1) << 32, 1<<40 | 1000, 2<<32 | 1000, 1000, 4<<32 | 1000}},
					{Nr: n, Arch: arch, Args: [6]uint64{0: 599<<32 | 1000, 4: 599<<32 | 1000}},
				} {
					if got, want := m.run(d), f.eval(d); got != want {
						t.Fatalf("%s: %+v: %v, want %v", name, d, got, want)
					}
				}
			}
		}
	}
}

// TestJumpDistances moves a jump's target over the edge, one instruction at a time.
func TestJumpDistances(t *testing.T) {
	for between := 240; between < 270; between++ {
		for _, far := range []string{"yes", "no", "both", "always"} {
			var a assembly
			yes, no, near := a.newLabel(), a.newLabel(), a.newLabel()
			a.load(offNr)
			switch far {
			case "yes":
				a.jump(bpf.JumpEqual, 5, yes, near)
			case "no":
				a.jump(bpf.JumpEqual, 5, near, no)
			case "both":
				a.jump(bpf.JumpEqual, 5, yes, no)
			case "always":
				a.goTo(yes)
			}
			a.place(near)
			for range between {
				a.ret(3)
			}
			a.place(yes)
			a.ret(1)
			a.place(no)
			a.ret(2)
			insts, err := a.link()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := bpf.Assemble(insts)
			if err != nil {
				t.Fatal(err)
			}
			m := newVM(t, raw)
			got := fmt.Sprint(uint32(m.run(Data{Nr: 5})), uint32(m.run(Data{Nr: 6})))
			want := map[string]string{"yes": "1 3", "no": "3 2", "both": "1 2", "always": "1 1"}[far]
			if got != want {
				t.Errorf("%s, %d between: %s, want %s", far, between, got, want)
			}
		}
	}
}

func TestTooLong(t *testing.T) {
	// The length grows with the conditions: find the longest that fits, and look at both sides.
	n := 1
	for ; ; n++ {
		f := longRule(n)
		p, err := f.Assemble()
		if err != nil {
			if !errors.Is(err, ErrTooLong) {
				t.Fatal(err)
			}
			break
		}
		if len(p) > MaxInstructions {
			t.Fatalf("%d instructions", len(p))
		}
	}
	if p := assemble(t, longRule(n-1)); len(p) < MaxInstructions-8 {
		t.Errorf("%d conditions are %d instructions, and %d are too many", n-1, len(p), n)
	}
}

// TestNothingToAsk: rules that make no difference leave no instruction behind.
func TestNothingToAsk(t *testing.T) {
	when := []Cond{Arg(0).Equal(1)}
	for name, rules := range map[string][]Rule{
		"as by default":               {{Syscalls: []string{"read"}, When: when, Do: Allow}, {Syscalls: []string{"read"}, Do: Allow}},
		"as by default, on condition": {{Syscalls: []string{"read"}, When: when, Do: Allow}},
		"never reached":               {{Syscalls: []string{"read"}, Do: Allow}, {Syscalls: []string{"read"}, When: when, Do: Trap}},
	} {
		f := Filter{Arches: []Arch{AMD64}, Default: Allow, Rules: rules}
		if p, want := assemble(t, f), assemble(t, Filter{Arches: []Arch{AMD64}}); !slices.Equal(p, want) {
			t.Errorf("%s:\n%v", name, p)
		}
	}
}

// TestShort pins what a call costs that a small filter does not name.
func TestShort(t *testing.T) {
	f := Filter{Arches: []Arch{AMD64, I386}, Rules: []Rule{
		{Syscalls: []string{"connect"}, When: []Cond{Arg(2).Low32().AtLeast(16)}, Do: UserNotify},
		{Syscalls: []string{"io_uring_setup"}, Do: Errno(unix.ENOSYS)},
	}}
	p := assemble(t, f)
	steps := 0
	for i := 0; ; i++ { // read(2), by hand
		steps++
		switch in := p[i]; in.Op {
		case opJeqK:
			if (in.K == uint32(AMD64)) && steps == 2 {
				i += int(in.Jt)
			} else {
				i += int(in.Jf)
			}
			continue
		case opJsetK:
			i += int(in.Jf)
			continue
		case opLoadAbs:
			continue
		case opRetK:
			if Action(in.K) != Allow || steps > 7 {
				t.Errorf("%v after %d instructions, want allow after 7\n%v", Action(in.K), steps, p)
			}
			return
		}
		t.Fatalf("instruction %d is unexpected\n%v", i, p)
	}
}

// gen makes filters and data out of random bytes, with values that lie close to each other.
type gen struct{ *rand.Rand }

func pick[T any](g gen, of ...T) T { return of[g.IntN(len(of))] }

func (g gen) value() uint64 {
	half := func() uint64 {
		return pick(g, 0, 1, 2, 3, 16, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, uint64(g.Uint32()))
	}
	return half()<<32 | half()
}

var someCalls = []string{"connect", "socketcall", "open", "openat", "read", "write", "sendto", "sendmsg", "ioctl", "_llseek", "clone3", "renameat", "io_uring_setup", "close", "mmap2"}

func (g gen) filter() Filter {
	actions := []Action{Allow, Errno(unix.EPERM), Errno(0), Errno(maxErrno), UserNotify, KillThread, KillProcess, Trap, Log, Trace(9)}
	optional := func() Action { return pick(g, append(actions, 0, 0, 0)...) }
	f := Filter{X32: optional(), UnknownArch: optional(), Default: pick(g, actions...)}
	for _, i := range g.Perm(3)[:1+g.IntN(3)] {
		f.Arches = append(f.Arches, allArches[i])
	}
	for range g.IntN(pick(g, 3, 8, 40)) {
		r := Rule{Do: pick(g, actions...)}
		for range 1 + g.IntN(5) {
			r.Syscalls = append(r.Syscalls, g.call())
		}
		if g.IntN(4) == 0 {
			if a := pick(g, f.Arches...); !slices.ContainsFunc(r.Syscalls, func(s string) bool { _, ok := a.Syscall(s); return !ok }) {
				r.Arches = []Arch{a}
			}
		}
		for range g.IntN(4) {
			c := Cond{Arg: g.IntN(6), Op: Op(1 + g.IntN(7)), Value: g.value()}
			if c.Op == MaskedEqual || g.IntN(3) == 0 {
				if c.Mask = g.value(); c.Mask == 0 {
					c.Mask = 1
				}
				c.Value &= c.Mask
			}
			r.When = append(r.When, c)
		}
		f.Rules = append(f.Rules, r)
	}
	return f
}

func (g gen) call() string {
	if g.IntN(3) == 0 {
		calls := pick(g, allArches...).table().calls
		return calls[g.IntN(len(calls))].name
	}
	return pick(g, someCalls...)
}

func (g gen) data(f Filter) Data {
	d := Data{Arch: pick(g, allArches...), IP: g.Uint64()}
	if g.IntN(20) == 0 {
		d.Arch = Arch(g.Uint32())
	}
	n, _ := pick(g, allArches...).Syscall(g.call())
	if len(f.Rules) > 0 && g.IntN(5) > 0 {
		n, _ = d.Arch.Syscall(pick(g, pick(g, f.Rules...).Syscalls...))
	}
	d.Nr = int32(n)
	switch g.IntN(20) {
	case 0:
		d.Nr |= X32Bit
	case 1:
		d.Nr = pick(g, -1, -2, d.Nr|math.MinInt32, d.Nr+1, d.Nr-1, int32(g.Uint32()))
	}
	for i := range d.Args {
		d.Args[i] = g.value()
	}
	if len(f.Rules) > 0 {
		for _, c := range pick(g, f.Rules...).When {
			d.Args[c.Arg] = pick(g, c.Value, c.Value, c.Value+1, c.Value-1, c.Value|^c.mask(), c.Value^1<<32, c.Value^1<<63, c.Value&math.MaxUint32, c.Value>>32)
		}
	}
	if d.Arch == I386 {
		for i := range d.Args {
			d.Args[i] &= math.MaxUint32
		}
	}
	return d
}

func checkRandom(t *testing.T, seed1, seed2 uint64) {
	t.Helper()
	g := gen{rand.New(rand.NewPCG(seed1, seed2))}
	f := g.filter()
	p, err := f.Assemble()
	if err != nil {
		t.Fatalf("%v: %+v", err, f)
	}
	m := newVM(t, p)
	for range 100 {
		d := g.data(f)
		if got, want := m.run(d), f.eval(d); got != want {
			t.Fatalf("seeds %d, %d: %+v\n%+v: %v, want %v\n%v", seed1, seed2, f, d, got, want, p)
		}
	}
	if p.String() == "" {
		t.Fatal("no dump")
	}
}

func TestRandomFilters(t *testing.T) {
	seed := rand.Uint64()
	for i := range uint64(300) {
		checkRandom(t, seed, i)
	}
}

func FuzzAssemble(f *testing.F) {
	for i := range uint64(20) {
		f.Add(i, i*i)
	}
	f.Fuzz(checkRandom)
}

// FuzzDump feeds programs to the dump that no assembler made.
func FuzzDump(f *testing.F) {
	f.Add([]byte{0x15, 0, 255, 255, 1, 2, 3, 4, 5, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Program
		for ; len(b) >= 8; b = b[8:] {
			p = append(p, bpf.RawInstruction{Op: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:])})
		}
		if got := strings.Count(p.String(), "\n"); got != len(p) {
			t.Errorf("%d lines of %d instructions", got, len(p))
		}
	})
}
