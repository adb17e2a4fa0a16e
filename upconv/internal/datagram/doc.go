// Package datagram brings datagram sockets to where they send, and sends: it reads what the program
// sends, decides which datagrams go together, moves the socket, makes the call, and writes down
// what became of it.
package datagram
