package datagram

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// What a send sends, as it is kept between reading it from the target and sending it.

// Parcel is one datagram that a program sends. All of it is copied from the target's memory once.
type Parcel struct {
	Name    []byte // the destination, as the program gave it; empty: none
	Payload []byte
	control []byte // as struct cmsghdr of this process
	TooLong bool   // longer than any datagram can be: the payload is left out
	result  uint64 // where the target wants to know how much of it was sent, as sendmmsg(2) does; 0: nowhere
	to      [linux.SizeofSockaddrIn6]byte
}

// outgoing is what a send sends. Its memory is reused.
type outgoing struct {
	flags    uint32
	Messages []Parcel // those that remain to be sent
	All      [MaxBatch]Parcel
	Sent     int // of sendmmsg(2): how many are

	run   int                 // how many of Messages go the same way
	fd    int                 // a copy of the target's socket, if there is one yet; else -1
	known bool                // that it is a datagram socket
	netns uint64              // what settledIn says of it
	as    *target.Credentials // who sends, where that is not upconv itself: to a Unix socket

	parts   [MaxBatch]parts
	headers [MaxBatch]mmsghdr
	locals  [MaxBatch]unix.Iovec
	Vectors []unix.RemoteIovec // what is read of the target's memory
	Payload []byte             // headers at first, then what is sent
	More    []byte             // names, vectors and control messages
	target.Gathering
}

// parts is how long the parts of a message are in the target's memory.
type parts struct {
	name, iovecs, control, payload int
	vectors                        []byte // its array of struct iovec
}

// mmsghdr is struct mmsghdr, sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

const (
	MaxBatch    = 64              // messages of sendmmsg(2) that are sent at a time
	MaxControl  = 1 << 16         // far more than net.core.optmem_max usually lets pass
	MaxLength   = 0xffff          // what fits into the length of a packet
	maxPayload4 = 0xffff - 20 - 8 // IPv6 would take more
	MaxTogether = 1 << 20         // of payload, read at once
)

// Begin empties o, for a call with these flags.
func (o *outgoing) Begin(flags uint32) {
	o.flags, o.Messages, o.Sent, o.fd, o.known, o.netns = flags, nil, 0, -1, false, 0
}

// Room returns n bytes of memory, which the next call of Room overwrites.
func (o *outgoing) Room(n int) []byte { return o.RoomFor(&o.Payload, n) }

// RoomFor returns n bytes of a buffer, which grows if need be. The next call for the same buffer
// overwrites them.
func (o *outgoing) RoomFor(buffer *[]byte, n int) []byte {
	if n > len(*buffer) {
		*buffer = make([]byte, max(n, 4096))
	}
	return (*buffer)[:n:n]
}

// many reports whether the call is sendmmsg(2).
func (o *outgoing) many() bool { return o.Messages[0].result != 0 }
