package siit

import "encoding/binary"

// Types of echo messages: RFC 792, RFC 4443 section 4.
const (
	icmpEchoReply    = 0
	icmpEcho         = 8
	ICMPExtEcho      = 42 // RFC 8335: it has no counterpart in RFC 7915
	icmp6EchoRequest = 128
	icmp6EchoReply   = 129
	SizeofICMPHeader = 8 // of an echo message, without data
)

// ICMP6To4 makes an ICMPv6 echo message, as an ICMPv6 datagram socket gives it, an ICMP one: RFC
// 7915 section 5.2. It is done in place. The checksum, which is not about addresses any more, is
// that of all of message. Other messages stay as they are, and the result is false.
func ICMP6To4(message []byte) bool {
	if len(message) < SizeofICMPHeader {
		return false
	}
	switch message[0] {
	case icmp6EchoRequest:
		message[0] = icmpEcho
	case icmp6EchoReply:
		message[0] = icmpEchoReply
	default:
		return false
	}
	message[2], message[3] = 0, 0
	binary.BigEndian.PutUint16(message[2:], Checksum(message))
	return true
}

// ICMP4To6 is the reverse, for an ICMPv6 datagram socket to send: RFC 7915 section 4.2. The
// checksum is left to the kernel, which knows the addresses.
func ICMP4To6(message []byte) bool {
	if len(message) < SizeofICMPHeader {
		return false
	}
	switch message[0] {
	case icmpEcho:
		message[0] = icmp6EchoRequest
	case icmpEchoReply:
		message[0] = icmp6EchoReply
	default:
		return false
	}
	message[2], message[3] = 0, 0
	return true
}

// Checksum is that of RFC 1071.
func Checksum(b []byte) uint16 {
	var sum uint64
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
