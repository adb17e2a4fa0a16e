package supervisor

// place is where a datagram socket is: a namespace, by its cookie, or that it is one of another
// family than the program's.
type place uint64

const (
	onInet6 place = 1<<64 - 1 // net_gen_cookie counts, from 1
	onUnix  place = 1<<64 - 2
)
