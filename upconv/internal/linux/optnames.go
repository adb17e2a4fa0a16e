package linux

// SoPeerName and others of SOL_SOCKET that golang.org/x/sys/unix does not name:
// asm-generic/socket.h.
const (
	SoPeerName  = 28
	SoPeerPidfd = 77
)
