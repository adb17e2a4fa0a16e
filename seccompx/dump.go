package seccompx

import (
	"fmt"
	"strings"

	"golang.org/x/net/bpf"
)

// Classic BPF opcodes (linux/bpf_common.h), as far as seccomp takes them.
const (
	opLoadAbs = 0x20 // BPF_LD|BPF_W|BPF_ABS
	opAndK    = 0x54 // BPF_ALU|BPF_AND|BPF_K
	opJump    = 0x05 // BPF_JMP|BPF_JA
	opJeqK    = 0x15
	opJgtK    = 0x25
	opJgeK    = 0x35
	opJsetK   = 0x45
	opRetK    = 0x06
)

var jumpNames = map[uint16]string{opJeqK: "jeq", opJgtK: "jgt", opJgeK: "jge", opJsetK: "jset"}

// known is what is certain when an instruction is reached, whichever way it was.
type known struct {
	reached bool
	loaded  uint32 // offset in struct seccomp_data that is in the accumulator, or unknownLoad
	arch    Arch   // 0 if it may be several
}

const unknownLoad = ^uint32(0)

func (k known) merge(o known) known {
	switch {
	case !k.reached:
		return o
	case !o.reached:
		return k
	}
	if k.loaded != o.loaded {
		k.loaded = unknownLoad
	}
	if k.arch != o.arch {
		k.arch = 0
	}
	return k
}

// String returns the program for people to read: one line an instruction, numbered from 0, jumps to
// those numbers, and behind the semicolon what an offset, a number or an action means where that is
// certain.
func (p Program) String() string {
	state := make([]known, len(p)+1)
	state[0] = known{reached: true, loaded: unknownLoad}
	reach := func(at int, k known) {
		if at >= 0 && at < len(p) {
			state[at] = state[at].merge(k)
		}
	}
	var b strings.Builder
	for i, r := range p {
		k := state[i]
		text, comment := "", ""
		next := k
		switch r.Op {
		case opLoadAbs:
			text, comment = fmt.Sprintf("ld [%d]", r.K), offName(r.K)
			next.loaded = r.K
			reach(i+1, next)
		case opAndK:
			text = fmt.Sprintf("and #%#x", r.K)
			reach(i+1, next)
		case opRetK:
			text, comment = fmt.Sprintf("ret #%#x", r.K), retName(r.K)
		case opJump:
			to := i + 1 + int(r.K)
			text = fmt.Sprintf("ja %d", to)
			reach(to, next)
		case opJeqK, opJgtK, opJgeK, opJsetK:
			yes, no := i+1+int(r.Jt), i+1+int(r.Jf)
			text = fmt.Sprintf("%-4s #%-10s jt %-4d jf %d", jumpNames[r.Op], fmt.Sprintf("%#x", r.K), yes, no)
			comment = k.testName(r)
			taken := next
			if r.Op == opJeqK && k.loaded == offArch {
				taken.arch = Arch(r.K)
			}
			reach(yes, taken)
			reach(no, next)
		default: // not of our making
			text = fmt.Sprint(r.Disassemble())
			next.loaded = unknownLoad
			reach(i+1, next)
		}
		if comment == "" {
			fmt.Fprintf(&b, "%4d  %s\n", i, text)
		} else {
			fmt.Fprintf(&b, "%4d  %-36s ; %s\n", i, text, comment)
		}
	}
	return b.String()
}

func offName(off uint32) string {
	switch {
	case off == offNr:
		return "system call number"
	case off == offArch:
		return "architecture"
	case off == offIP:
		return "instruction pointer, low half"
	case off == offIP+4:
		return "instruction pointer, high half"
	case off >= offArgs && off < offArgs+6*8 && off%8 == 0:
		return fmt.Sprintf("argument %d, low half", (off-offArgs)/8)
	case off >= offArgs && off < offArgs+6*8 && off%8 == 4:
		return fmt.Sprintf("argument %d, high half", (off-offArgs)/8)
	}
	return ""
}

func retName(k uint32) string {
	if k == 0 { // SECCOMP_RET_KILL_THREAD as others write it
		return KillThread.String()
	}
	return Action(k).String()
}

func (k known) testName(r bpf.RawInstruction) string {
	switch {
	case k.loaded == offArch && r.Op == opJeqK:
		return Arch(r.K).String()
	case k.loaded == offNr && r.Op == opJsetK && r.K == X32Bit:
		return "x32"
	case k.loaded == offNr && r.Op == opJeqK && r.K == ^uint32(0):
		return "taken over by a tracer"
	case k.loaded == offNr && k.arch != 0 && r.Op != opJsetK:
		name, _ := k.arch.SyscallName(r.K)
		return name
	}
	return ""
}
