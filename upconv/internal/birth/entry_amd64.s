#include "textflag.h"

// entry runs before the Go runtime: there is no stack guard, no g, no TLS. It may only use
// registers, the package's own variables and system calls, and must leave the stack as the kernel
// laid it out (argc, argv, envp, auxv), since the runtime reads it from there.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	// for sig := 1..64: rt_sigaction(sig, NULL, &handlers[sig*4], 8)
	MOVQ $1, R12
sigs:
	MOVQ R12, DI
	XORL SI, SI
	LEAQ ·handlers(SB), DX
	MOVQ R12, CX
	SHLQ $5, CX
	ADDQ CX, DX
	MOVQ $8, R10
	MOVL $13, AX
	SYSCALL
	INCQ R12
	CMPQ R12, $64
	JLE  sigs

	// rt_sigaction(SIGPIPE, &dfl, NULL, 8)
	MOVQ $13, DI
	LEAQ ·dfl(SB), SI
	XORL DX, DX
	MOVQ $8, R10
	MOVL $13, AX
	SYSCALL

	// rt_sigprocmask(SIG_BLOCK, &realtime, &blocked, 8)
	XORL DI, DI
	LEAQ ·realtime(SB), SI
	LEAQ ·blocked(SB), DX
	MOVQ $8, R10
	MOVL $14, AX
	SYSCALL

	// prlimit64(0, RLIMIT_NOFILE, NULL, &nofile)
	XORL DI, DI
	MOVQ $7, SI
	XORL DX, DX
	LEAQ ·nofile(SB), R10
	MOVL $302, AX
	SYSCALL

	// for fd := 0..2: stdflags[fd] = fcntl(fd, F_GETFD)
	XORL R12, R12
fds:
	MOVQ R12, DI
	MOVQ $1, SI
	XORL DX, DX
	MOVL $72, AX
	SYSCALL
	LEAQ ·stdflags(SB), DX
	MOVQ AX, (DX)(R12*8)
	INCQ R12
	CMPQ R12, $3
	JLT  fds

	MOVQ $1, ·entered(SB)
	XORL DX, DX // rtld_fini of the System V ABI: none
	JMP  _rt0_amd64_linux(SB)
