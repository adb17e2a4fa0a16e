#include "textflag.h"

// func perform0(calls *Call, count, needed int) (made int)
TEXT ·perform0(SB),NOSPLIT,$0-32
	MOVD calls+0(FP), R10
	MOVD count+8(FP), R11
	MOVD needed+16(FP), R12
	MOVD $0, R13
next:
	CMP  R11, R13
	BGE  done
	MOVD 0(R10), R8
	MOVD 8(R10), R0
	MOVD 16(R10), R1
	MOVD 24(R10), R2
	MOVD 32(R10), R3
	MOVD 40(R10), R4
	MOVD 48(R10), R5
	SVC
	MOVD R0, 56(R10)
	CMP  R12, R13
	BGE  made
	CMN  $4095, R0
	BCS  done // unsigned: an errno
made:
	ADD  $64, R10
	ADD  $1, R13
	B    next
done:
	MOVD R13, made+24(FP)
	RET
