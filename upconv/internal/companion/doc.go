// Package companion keeps datagram sockets whose places others have taken.
//
// A program may send to the origin and to an egress, or along several routes, through one and the
// same datagram socket. Under its descriptor is then always the socket of where it has sent last;
// the other one, its companion, is kept by upconv, with its port and what has come for it, and is
// put back when the program sends there again. What comes for it meanwhile is handed on to the one
// in use, as a packet on the loopback of its namespace with the address of who has really sent it;
// that takes CAP_NET_RAW there, and without it waits.
//
// This is state that is not in the kernel: should it be lost, so are the replies to what was sent
// the other way.
package companion
