package target

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// registers are those of a thread, a 32-bit one too.
type registers struct{ unix.PtraceRegs }

// sizeofSyscall is how long the instruction that makes a call is: syscall, or int $0x80, to which
// the kernel returns a 32-bit thread also from sysenter.
const sizeofSyscall = 2

// rewind takes registers that a call has returned errno with to the beginning of that call, as the
// kernel does (arch_do_signal_or_restart in arch/x86/kernel/signal.c), unless it has done so
// already.
func (r *registers) rewind(errno int, _ uint64) {
	if int32(r.Rax) == int32(-errno) {
		r.Rax, r.Rip = r.Orig_rax, r.Rip-sizeofSyscall
	}
	r.Orig_rax = ^uint64(0) // there is no call any more that the kernel could begin anew
}

// call has rewound registers make another call.
func (r *registers) call(nr uint64, compat bool, args []uint64) {
	r.Rax = nr
	places := []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}
	if compat {
		places = []*uint64{&r.Rbx, &r.Rcx, &r.Rdx, &r.Rsi, &r.Rdi, &r.Rbp}
	}
	for i, arg := range args {
		*places[i] = arg
	}
}

// finish takes rewound registers behind the call, which has returned a result.
func (r *registers) finish(result int64) { r.Rax, r.Rip = uint64(result), r.Rip+sizeofSyscall }

// registers reads the general-purpose registers. PTRACE_GETREGSET, which unix.PtraceGetRegs makes,
// would give those of a 32-bit thread in another layout.
func (t *tracee) registers(regs *registers) unix.Errno {
	return t.request(unix.PTRACE_GETREGS, 0, uintptr(unsafe.Pointer(regs)))
}

func (t *tracee) setRegisters(regs *registers) unix.Errno {
	return t.request(unix.PTRACE_SETREGS, 0, uintptr(unsafe.Pointer(regs)))
}
