// Package crossing is about sockets of other address families that stand for those of a program: an
// AF_INET6 socket on the way through a NAT64, or a Unix socket. It says what they are connected to,
// makes them, gives them their passports, and tells which address is meant by theirs.
package crossing
