// Package proxyproto writes headers of the PROXY protocol, version 2.
package proxyproto

import (
	"encoding/binary"
	"net/netip"
)

// proxyHeaderSize is the size of a PROXY protocol v2 header with IPv4 addresses.
const proxyHeaderSize = 16 + 12

// Header returns the PROXY protocol v2 header of a TCP connection from source to destination,
// both IPv4: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2.
func Header(source netip.Addr, port uint16, destination netip.AddrPort) (header [proxyHeaderSize]byte) {
	const (
		version2Proxy = 0x21
		tcpOverIPv4   = 0x11
	)
	copy(header[:], "\r\n\r\n\x00\r\nQUIT\n")
	header[12], header[13] = version2Proxy, tcpOverIPv4
	binary.BigEndian.PutUint16(header[14:], proxyHeaderSize-16)
	src, dst := source.As4(), destination.Addr().As4()
	copy(header[16:], src[:])
	copy(header[20:], dst[:])
	binary.BigEndian.PutUint16(header[24:], port)
	binary.BigEndian.PutUint16(header[26:], destination.Port())
	return header
}
