package target

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// registers are those of a thread.
type registers struct{ unix.PtraceRegsArm64 }

const (
	sizeofSyscall  = 4 // svc
	syscallNumber  = 8 // the register that has it
	generalPurpose = 1 // NT_PRSTATUS, elf.h
)

// rewind takes registers that a call with this first argument has returned errno with to the
// beginning of that call, unless the kernel has done so already, as it does before the thread
// stops: do_signal in arch/arm64/kernel/signal.c.
func (r *registers) rewind(errno int, first uint64) {
	if int64(r.Regs[0]) == int64(-errno) {
		r.Regs[0], r.Pc = first, r.Pc-sizeofSyscall
	}
}

// call has rewound registers Make another call.
func (r *registers) call(nr uint64, _ bool, args []uint64) {
	r.Regs[syscallNumber] = nr
	copy(r.Regs[:], args)
}

// finish takes rewound registers behind the call, which has returned a result.
func (r *registers) finish(result int64) { r.Regs[0], r.Pc = uint64(result), r.Pc+sizeofSyscall }

// registers reads the general-purpose registers.
func (t *tracee) registers(regs *registers) unix.Errno {
	return t.registerSet(unix.PTRACE_GETREGSET, regs)
}

func (t *tracee) setRegisters(regs *registers) unix.Errno {
	return t.registerSet(unix.PTRACE_SETREGSET, regs)
}

func (t *tracee) registerSet(request int, regs *registers) unix.Errno {
	vector := unix.Iovec{Base: (*byte)(unsafe.Pointer(regs)), Len: uint64(unsafe.Sizeof(*regs))}
	return t.request(request, generalPurpose, uintptr(unsafe.Pointer(&vector)))
}
