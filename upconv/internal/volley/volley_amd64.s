#include "textflag.h"

// func perform(fd uintptr, calls *Call, count, needed int) (made int)
TEXT ·perform(SB),NOSPLIT,$0-40
	MOVQ calls+8(FP), R12
	MOVQ needed+24(FP), R13
	XORQ BX, BX
next:
	CMPQ BX, count+16(FP)
	JGE  done
	MOVQ fd+0(FP), DI
	MOVQ 0(R12), AX
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
	MOVQ BX, made+32(FP)
	RET
