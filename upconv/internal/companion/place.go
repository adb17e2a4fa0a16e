package companion

// Place is where a datagram socket is: a namespace, by its cookie, or that it is one of another
// family than the program's.
type Place uint64

// Places of sockets of other families.
const (
	OnInet6 Place = 1<<64 - 1 // net_gen_cookie counts, from 1
	OnUnix  Place = 1<<64 - 2
)
