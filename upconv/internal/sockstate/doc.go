// Package sockstate is about what a program has done to a socket: what there is to know of one, and
// doing it again to another: options, addresses and ports, the owner. It makes no socket, and knows
// nothing of calls.
package sockstate
