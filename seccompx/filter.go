package seccompx

import "fmt"

// Filter is a seccomp filter in words: what is to happen with which system call. [Filter.Assemble]
// makes the program of it that the kernel runs.
//
// Every field may be left out: the zero Filter allows every call of the native architectures.
type Filter struct {
	// Arches are the architectures the rules are about, the busiest first; nil means
	// [NativeArches].
	Arches []Arch

	// Rules are tried in order, and the first that matches decides.
	Rules []Rule

	// Default is for calls that no rule matches, those included whose numbers nobody knows. Not
	// given it is [Allow], as suits a filter that picks out a few calls. A filter whose rules all
	// say Allow means it the other way round and would do nothing, so it must give one.
	Default Action

	// UnknownArch is for calls of an architecture that is not in Arches: not given,
	// Errno(ENOSYS). Allow has to be written down.
	UnknownArch Action

	// X32 is for calls of the x32 ABI, which come as [AMD64] with [X32Bit] set in the number. No
	// rule ever matches them. Not given it is Errno(ENOSYS), which is also what a kernel built
	// without x32 says. The number -1 is not one of them: it is what is left of a call that a
	// tracer has taken over, and is for Default like every number without a name.
	X32 Action
}

// Rule says what is to happen with some system calls under some conditions.
type Rule struct {
	// Syscalls are names as in man 2. A name counts in each architecture that has such a call
	// and is passed over in the others, so that one rule may name "open" (which arm64 has not)
	// or "socketcall" (which only i386 has). A name that is in no table at all is an error.
	Syscalls []string

	// Arches limits the rule to some of the filter's architectures, empty means all of them. Each
	// call must then exist in at least one of these.
	Arches []Arch

	// When are the conditions, all of which must hold; without any the rule matches every call
	// it names.
	When []Cond

	// Do is what happens then. It must be given.
	Do Action
}

// Op is a comparison of two unsigned 64-bit numbers.
type Op uint8

// The comparisons: argument Op Value. The zero Op is none.
const (
	Equal Op = iota + 1
	NotEqual
	Greater
	GreaterOrEqual
	Less
	LessOrEqual
	MaskedEqual // Equal, with a Mask that must be given
)

func (o Op) String() string {
	switch o {
	case Equal, MaskedEqual:
		return "=="
	case NotEqual:
		return "!="
	case Greater:
		return ">"
	case GreaterOrEqual:
		return ">="
	case Less:
		return "<"
	case LessOrEqual:
		return "<="
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Cond is a condition on one argument: (argument & Mask) Op Value, where a Mask of 0 is none.
// Rather than writing one out, call [Arg]: Arg(2).AtLeast(16).
//
// Arguments are compared as the kernel has them: unsigned 64-bit registers, for i386 calls the
// 32-bit ones with zeros above. For an argument that the kernel takes as an int or an unsigned int
// a 64-bit program may leave anything in the upper half, and a condition that looks there can be
// dodged by it: see [Operand.Low32].
type Cond struct {
	Arg   int // 0 to 5
	Op    Op
	Value uint64
	Mask  uint64
}

// String returns the condition as an expression, such as "arg2 & 0xffffffff >= 0x10".
func (c Cond) String() string {
	if c.Mask == 0 && c.Op != MaskedEqual {
		return fmt.Sprintf("arg%d %v %#x", c.Arg, c.Op, c.Value)
	}
	return fmt.Sprintf("arg%d & %#x %v %#x", c.Arg, c.Mask, c.Op, c.Value)
}

// Operand is an argument of a system call, or some bits of it, waiting to be compared.
type Operand struct {
	arg    int
	mask   uint64
	masked bool
}

// Arg returns argument n of a call, counted from 0.
func Arg(n int) Operand { return Operand{arg: n} }

// Masked returns the operand with all bits cleared that are not in mask.
func (o Operand) Masked(mask uint64) Operand {
	if o.masked {
		mask &= o.mask
	}
	return Operand{o.arg, mask, true}
}

// Low32 returns the lower 32 bits of the operand: right for int and unsigned int arguments, of
// which the kernel ignores the rest. It is compared as unsigned: an int of -1 is 0xffffffff.
func (o Operand) Low32() Operand { return o.Masked(0xffffffff) }

// Equal holds if the operand is v.
func (o Operand) Equal(v uint64) Cond {
	if o.masked {
		return o.cond(MaskedEqual, v)
	}
	return o.cond(Equal, v)
}

// NotEqual holds if the operand is not v.
func (o Operand) NotEqual(v uint64) Cond { return o.cond(NotEqual, v) }

// Above holds if the operand is greater than v.
func (o Operand) Above(v uint64) Cond { return o.cond(Greater, v) }

// AtLeast holds if the operand is v or greater.
func (o Operand) AtLeast(v uint64) Cond { return o.cond(GreaterOrEqual, v) }

// Below holds if the operand is less than v.
func (o Operand) Below(v uint64) Cond { return o.cond(Less, v) }

// AtMost holds if the operand is v or less.
func (o Operand) AtMost(v uint64) Cond { return o.cond(LessOrEqual, v) }

// HasAny holds if at least one of these bits is set.
func (o Operand) HasAny(bits uint64) Cond { return o.Masked(bits).NotEqual(0) }

// HasAll holds if all of these bits are set.
func (o Operand) HasAll(bits uint64) Cond { return o.Masked(bits).Equal(bits) }

func (o Operand) cond(op Op, v uint64) Cond {
	if o.masked && o.mask == 0 {
		op = MaskedEqual // the operator that does not take an empty mask for none: Assemble refuses it
	}
	return Cond{o.arg, op, v, o.mask}
}

// mask returns the bits that are compared.
func (c Cond) mask() uint64 {
	if c.Mask == 0 {
		return ^uint64(0)
	}
	return c.Mask
}

// check says what is wrong with the condition.
func (c Cond) check() error {
	if c.Arg < 0 || c.Arg > 5 {
		return fmt.Errorf("argument %d: a system call has arguments 0 to 5", c.Arg)
	}
	if c.Op < Equal || c.Op > MaskedEqual {
		return fmt.Errorf("argument %d: no comparison is given", c.Arg)
	}
	if c.Op == MaskedEqual && c.Mask == 0 {
		return fmt.Errorf("argument %d: the mask is empty", c.Arg)
	}
	if v := c.Value &^ c.mask(); v != 0 {
		return fmt.Errorf("argument %d: %v can only have one answer: bits %#x of the value are not in the mask", c.Arg, c, v)
	}
	return nil
}
