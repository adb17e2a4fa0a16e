#include "textflag.h"

// func cloneIdle() int
//
// The child has the caller's stack and does not touch it. It has no exit signal, so that nobody hears of its end.
TEXT ·cloneIdle(SB),NOSPLIT|NOFRAME,$0-8
	MOVQ $0x700, DI // CLONE_VM | CLONE_FS | CLONE_FILES
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $56, AX // clone
	SYSCALL
	TESTQ AX, AX
	JNZ  parent
	MOVL $1, DI // PR_SET_PDEATHSIG
	MOVL $9, SI // SIGKILL
	MOVL $157, AX // prctl
	SYSCALL
idle:
	MOVL $34, AX // pause
	SYSCALL
	JMP  idle
parent:
	MOVQ AX, ret+0(FP)
	RET
