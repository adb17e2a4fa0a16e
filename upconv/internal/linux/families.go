package linux

// Address families whose sockets take IPv4 addresses, but that golang.org/x/sys/unix or this file
// has no more to do with: linux/socket.h.
const (
	AFRDS = 21
	AFSMC = 43
)
