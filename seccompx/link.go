package seccompx

import (
	"fmt"
	"math"

	"golang.org/x/net/bpf"
)

// assembly is a program whose jumps still go to labels. Classic BPF only jumps forward, and a
// conditional jump no further than 255 instructions: link finds the distances, and sends what is
// further away over an unconditional jump (32 bits) behind the conditional one.
type assembly struct {
	code   []inst
	labels []int // label -> index into code of the instruction behind it
}

type label int

type inst struct {
	plain      bpf.Instruction // nil for the two below
	test       bpf.JumpTest
	val        uint32
	yes, no    label
	farY, farN bool // needs an unconditional jump
	always     bool // unconditional, to yes
}

func (a *assembly) newLabel() label {
	a.labels = append(a.labels, -1)
	return label(len(a.labels) - 1)
}

func (a *assembly) place(l label) { a.labels[l] = len(a.code) }

func (a *assembly) plain(i bpf.Instruction) { a.code = append(a.code, inst{plain: i}) }

func (a *assembly) load(off uint32) { a.plain(bpf.LoadAbsolute{Off: off, Size: 4}) }

func (a *assembly) and(mask uint32) {
	if mask != math.MaxUint32 {
		a.plain(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
	}
}

func (a *assembly) ret(do Action) { a.plain(bpf.RetConstant{Val: uint32(do)}) }

func (a *assembly) jump(test bpf.JumpTest, val uint32, yes, no label) {
	a.code = append(a.code, inst{test: test, val: val, yes: yes, no: no})
}

func (a *assembly) goTo(l label) { a.code = append(a.code, inst{always: true, yes: l}) }

func (i *inst) size() int {
	n := 1
	if i.farY {
		n++
	}
	if i.farN {
		n++
	}
	return n
}

// link returns the instructions. Making one jump longer moves others out of reach, never back into
// it, so it lays the program out anew until nothing has to be changed.
func (a *assembly) link() ([]bpf.Instruction, error) {
	pos := make([]int, len(a.code)+1)
	for again := true; again; {
		again = false
		for i := range a.code {
			pos[i+1] = pos[i] + a.code[i].size()
		}
		for i := range a.code {
			c := &a.code[i]
			if c.plain != nil || c.always {
				continue
			}
			from := pos[i] + 1
			if !c.farY && pos[a.labels[c.yes]]-from > math.MaxUint8 {
				c.farY, again = true, true
			}
			if !c.farN && pos[a.labels[c.no]]-from > math.MaxUint8 {
				c.farN, again = true, true
			}
		}
	}
	total := pos[len(a.code)]
	if total > MaxInstructions {
		return nil, fmt.Errorf("%w: %d instructions, at most %d", ErrTooLong, total, MaxInstructions)
	}

	out := make([]bpf.Instruction, 0, total)
	skip := func(l label) int { return pos[a.labels[l]] - len(out) - 1 } // from the next to be put out
	for i := range a.code {
		c := &a.code[i]
		switch {
		case c.plain != nil:
			out = append(out, c.plain)
			continue
		case c.always:
			out = append(out, bpf.Jump{Skip: uint32(skip(c.yes))})
			continue
		}
		j := bpf.JumpIf{Cond: c.test, Val: c.val}
		if !c.farY {
			j.SkipTrue = uint8(skip(c.yes))
		}
		if !c.farN {
			j.SkipFalse = uint8(skip(c.no))
		} else if c.farY {
			j.SkipFalse = 1 // behind the jump to yes
		}
		out = append(out, j)
		if c.farY {
			out = append(out, bpf.Jump{Skip: uint32(skip(c.yes))})
		}
		if c.farN {
			out = append(out, bpf.Jump{Skip: uint32(skip(c.no))})
		}
	}
	return out, nil
}
