// Package receive answers calls that would tell a program that its socket is of another address
// family: receiving with an address or with control messages, and asking for names and options.
//
// A call that waits for a datagram holds no thread: one goroutine waits for all of them.
package receive
