#include "textflag.h"

// entry runs before the Go runtime: there is no stack guard, no g, no TLS. It may only use
// registers, the package's own variables and system calls, and must leave the stack as the kernel
// laid it out (argc, argv, envp, auxv), since the runtime reads it from there.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	// for sig := 1..64: rt_sigaction(sig, NULL, &handlers[sig*4], 8)
	MOVD $1, R19
sigs:
	MOVD R19, R0
	MOVD $0, R1
	MOVD $·handlers(SB), R2
	LSL  $5, R19, R3
	ADD  R3, R2, R2
	MOVD $8, R3
	MOVD $134, R8
	SVC
	ADD  $1, R19
	CMP  $64, R19
	BLE  sigs

	// rt_sigaction(SIGPIPE, &dfl, NULL, 8)
	MOVD $13, R0
	MOVD $·dfl(SB), R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $134, R8
	SVC

	// rt_sigprocmask(SIG_BLOCK, &realtime, &blocked, 8)
	MOVD $0, R0
	MOVD $·realtime(SB), R1
	MOVD $·blocked(SB), R2
	MOVD $8, R3
	MOVD $135, R8
	SVC

	// prlimit64(0, RLIMIT_NOFILE, NULL, &nofile)
	MOVD $0, R0
	MOVD $7, R1
	MOVD $0, R2
	MOVD $·nofile(SB), R3
	MOVD $261, R8
	SVC

	// for fd := 0..2: stdflags[fd] = fcntl(fd, F_GETFD)
	MOVD $0, R19
fds:
	MOVD R19, R0
	MOVD $1, R1
	MOVD $0, R2
	MOVD $25, R8
	SVC
	MOVD $·stdflags(SB), R2
	LSL  $3, R19, R3
	ADD  R3, R2, R2
	MOVD R0, (R2)
	ADD  $1, R19
	CMP  $3, R19
	BLT  fds

	MOVD $1, R0
	MOVD R0, ·entered(SB)
	B    _rt0_arm64_linux(SB)
