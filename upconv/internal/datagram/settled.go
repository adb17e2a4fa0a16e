package datagram

import "github.com/upconv/upconv/upconv/internal/linux"

// Datagram sockets that are known to stay where they are, for programs that send many datagrams.

// settledSockets are, by their cookies, AF_INET and AF_INET6 datagram sockets of an egress that is
// not the origin, and AF_INET ones of the origin if that is no egress, with the namespaces they are
// in: nothing of that ever changes, and SO_COOKIE alone tells the rest. It may forget.
type settledSockets [64]struct{ cookie, netns uint64 }

// settledIn returns the namespace of the socket fd, if that is known to be a datagram socket that
// stays there; else 0.
func (w *Worker) settledIn(fd int) (netns uint64) {
	cookie := linux.CookieOf(fd)
	known := &w.known[cookie%uint64(len(w.known))]
	if cookie == 0 || known.cookie != cookie || !w.settles(known.netns) {
		return 0
	}
	return known.netns
}

// settles reports whether sockets of a namespace are noted in settledSockets.
func (w *Worker) settles(netns uint64) bool {
	return (netns == w.s.Origin.Cookie) != w.s.IsEgress(netns)
}

// noteSettled notes a datagram socket that is in an egress, or an AF_INET one in the origin.
func (w *Worker) noteSettled(fd int, netns uint64) {
	if w.settles(netns) {
		cookie := linux.CookieOf(fd)
		known := &w.known[cookie%uint64(len(w.known))]
		known.cookie, known.netns = cookie, netns
	}
}
