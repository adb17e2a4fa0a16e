// Package siit translates what a program that has opened an AF_INET socket sends with its data, and
// is given with it, for the AF_INET6 socket that it has instead, and back: control messages, errors
// and ICMP echo messages, as in RFC 7915 (stateless IP/ICMP translation). It makes no system call.
package siit
