package calls

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/session"
)

// everyArch is the architectures that a filter is made for.
var everyArch = []seccompx.Arch{seccompx.AMD64, seccompx.I386, seccompx.ARM64}

// everyNeeds returns every combination of needs, whether a policy can have it or not.
func everyNeeds(t *testing.T) []session.Needs {
	t.Helper()
	const count = unsafe.Sizeof(session.Needs{})
	if fields := reflect.TypeFor[session.Needs](); fields.NumField() != int(count) {
		t.Fatal("not every field of needs is a bool")
	}
	all := make([]session.Needs, 1<<count)
	for i := range all {
		for field := range count {
			(*[count]bool)(unsafe.Pointer(&all[i]))[field] = i>>field&1 != 0
		}
	}
	return all
}

// A machine runs the program of a filter. That of the bpf package loads big-endian words, the
// kernel those of the machine.
type machine struct{ *bpf.VM }

func newMachine(t testing.TB, p seccompx.Program) *machine {
	t.Helper()
	instructions, ok := bpf.Disassemble(p)
	if !ok {
		t.Fatal("cannot disassemble")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{vm}
}

// machineOf is a machine for a filter of all architectures.
func machineOf(t testing.TB, f seccompx.Filter) *machine {
	t.Helper()
	f.Arches = everyArch
	program, err := f.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	return newMachine(t, program)
}

// decide runs the program on a struct seccomp_data.
func (m *machine) decide(t testing.TB, arch seccompx.Arch, nr uint32, args [6]uint64) seccompx.Action {
	t.Helper()
	var data [64]byte
	put := func(at int, v uint32) {
		data[at], data[at+1], data[at+2], data[at+3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
	}
	put(0, nr)
	put(4, uint32(arch))
	for i, arg := range args {
		put(16+8*i, uint32(arg))
		put(20+8*i, uint32(arg>>32))
	}
	got, err := m.Run(data[:])
	if err != nil {
		t.Fatal(err)
	}
	return seccompx.Action(uint32(got))
}

// values are what is tried of each argument of a call; of one that no filter looks at, 0.
type values [6][]uint64

// dirt is an upper half of an argument. The kernel takes an int from the lower one.
const dirt = 0xdeadbeef_00000000

// add adds values of an argument, each of them with and without dirt.
func (v *values) add(arg int, some ...uint64) {
	for _, value := range some {
		v[arg] = append(v[arg], value, value|dirt)
	}
}

// lengths are those of socket addresses that mean something to the kernel, and their neighbours.
var lengths = []uint64{0, 1, 2, 15, 16, 24, 28, 127, 128, 129}

// addAround adds what lies on each side of every border that a condition draws.
func (v *values) addAround(c seccompx.Cond) {
	v.add(c.Arg, lengths...)
	v.add(c.Arg, c.Value-1, c.Value, c.Value+1, 1<<31, 1<<32-1, 1<<32, 1<<63)
	if c.Op == seccompx.NotEqual && bits.OnesCount64(c.Mask) < 32 { // flags
		for bit := range 32 {
			v.add(c.Arg, 1<<bit, 1<<bit|c.Mask)
		}
	}
}

// each calls do with every combination of the values.
func (v *values) each(do func(args [6]uint64)) {
	var args [6]uint64
	var from func(arg int)
	from = func(arg int) {
		switch {
		case arg == len(args):
			do(args)
		case len(v[arg]) == 0:
			from(arg + 1)
		default:
			for _, args[arg] = range v[arg] {
				from(arg + 1)
			}
		}
	}
	from(0)
}

// valuesOf returns for each call that some filter has a rule for the arguments that the filters can
// tell apart.
func valuesOf(filters []seccompx.Filter) map[string]*values {
	byCall, known := map[string]*values{}, map[string]map[seccompx.Cond]bool{}
	for _, f := range filters {
		for _, rule := range f.Rules {
			for _, call := range rule.Syscalls {
				if byCall[call] == nil {
					byCall[call], known[call] = &values{}, map[seccompx.Cond]bool{}
				}
				for _, c := range rule.When {
					if !known[call][c] {
						known[call][c] = true
						byCall[call].addAround(c)
					}
				}
			}
		}
	}
	for call, v := range byCall {
		if call == "setsockopt" || call == "getsockopt" {
			for option := range uint64(130) {
				v.add(2, option)
			}
		}
		for i := range v {
			slices.Sort(v[i])
			v[i] = slices.Compact(v[i])
		}
	}
	return byCall
}

// A trial is a call that filters decide about.
type trial struct {
	needs session.Needs
	arch  seccompx.Arch
	call  string
	args  [6]uint64
}

func (t trial) String() string {
	return fmt.Sprintf("%+v: %v %s%#x", t.needs, t.arch, t.call, t.args)
}

// eachDecision has filters decide, for every combination of needs, about every call that any of
// them has rules for, with all arguments that they can tell apart. check is told what they say.
// What the same rules have decided already is left out.
func eachDecision(t *testing.T, check func(call trial, got seccompx.Action)) {
	t.Helper()
	combinations := everyNeeds(t)
	var filters []seccompx.Filter
	for _, n := range combinations {
		filters = append(filters, Filter(n))
	}
	tried, decided := valuesOf(filters), map[string]bool{}
	for i, n := range combinations {
		rules := rulesByCall(filters[i])
		var m *machine
		for call, values := range tried {
			key := call + ": " + rules[call]
			if decided[key] {
				continue
			}
			decided[key] = true
			if m == nil {
				m = machineOf(t, filters[i])
			}
			decideAll(t, m, trial{needs: n, call: call}, values, check)
		}
	}
}

// decideAll has a filter decide about a call in all architectures, with all combinations of values.
func decideAll(t *testing.T, m *machine, of trial, tried *values, check func(trial, seccompx.Action)) {
	t.Helper()
	for _, of.arch = range everyArch {
		nr, ok := of.arch.Syscall(of.call)
		if !ok {
			continue
		}
		tried.each(func(args [6]uint64) {
			of.args = args
			check(of, m.decide(t, of.arch, nr, args))
		})
	}
}

// rulesByCall returns what a filter says of each call, in a form that can be compared.
func rulesByCall(f seccompx.Filter) map[string]string {
	byCall := map[string][]byte{}
	for _, rule := range f.Rules {
		for _, call := range rule.Syscalls {
			text := byCall[call]
			for _, c := range rule.When {
				text = append(text, byte(c.Arg), byte(c.Op))
				text = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(text, c.Value), c.Mask)
			}
			byCall[call] = binary.BigEndian.AppendUint32(append(text, ':'), uint32(rule.Do))
		}
	}
	texts := map[string]string{}
	for call, text := range byCall {
		texts[call] = string(text)
	}
	return texts
}

// TestStoppedIsHandled holds that whatever a filter stops, for whatever needs, somebody handles,
// and that nothing is handled that no filter stops.
func TestStoppedIsHandled(t *testing.T) {
	stopped, bySocketcall := map[string]trial{}, map[uint32]trial{}
	eachDecision(t, func(call trial, got seccompx.Action) {
		if got != seccompx.UserNotify {
			return
		}
		stopped[call.call] = call
		if call.call == "socketcall" {
			bySocketcall[uint32(call.args[0])] = call
		}
	})
	for i := range calls {
		row := &calls[i]
		example, stops := stopped[row.name]
		switch {
		case stops && row.handle == nil:
			t.Errorf("nobody handles %v", example)
		case !stops && row.handle != nil:
			t.Errorf("%s is handled, and never stopped", row.name)
		}
		if _, stops := bySocketcall[uint32(row.socketcall)]; !stops && row.socketcall != 0 {
			t.Errorf("%s is never stopped if socketcall(2) makes it", row.name)
		}
	}
	for number, example := range bySocketcall {
		if number >= uint32(len(rowsOfSocketcall)) || rowsOfSocketcall[number] == nil {
			t.Errorf("nobody handles %v", example)
		}
	}
}
