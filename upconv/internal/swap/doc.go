// Package swap puts an equivalent socket under a program's descriptor, in steps that whoever moves
// a stream or a datagram socket goes through: the new one is made, with all that the program has
// done to the old one; the places of that in epoll sets are found; it is looked at for the last
// time; the new one is installed; its places are made again; and copies and waiting threads get the
// new one.
package swap
