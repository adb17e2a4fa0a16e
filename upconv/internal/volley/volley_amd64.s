#include "textflag.h"

// func perform0(calls *Call, count, needed int) (made int)
TEXT ·perform0(SB),NOSPLIT,$0-32
	MOVQ calls+0(FP), R12
	MOVQ needed+16(FP), R13
	XORQ BX, BX
next:
	CMPQ BX, count+8(FP)
	JGE  done
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	SYSCALL
	MOVQ AX, 56(R12)
	CMPQ BX, R13
	JGE  made
	CMPQ AX, $-4095
	JCC  done // unsigned: an errno
made:
	ADDQ $64, R12
	INCQ BX
	JMP  next
done:
	MOVQ BX, made+24(FP)
	RET
