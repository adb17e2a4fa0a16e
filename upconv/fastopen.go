package upconv

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// sendto handles a stopped sendto(2) with MSG_FASTOPEN (RFC 7413): on a TCP socket that is not connected it
// is a connect(2) to its address and a send.
func (w *worker) sendto(c *call) outcome {
	return w.fastOpen(c, "sendto", uint32(c.args[3]), c.args[4], uint32(c.args[5]))
}

// sendmsg handles sendmsg(2) and sendmmsg(2) with MSG_FASTOPEN. Of several messages the first connects.
func (w *worker) sendmsg(c *call) outcome {
	// struct msghdr and struct mmsghdr begin with a pointer to the address and its length.
	var header [12]byte
	if c.compat {
		if readMemory(c.tid, uint64(uint32(c.args[1])), header[:8]) != 0 {
			return carryOn
		}
		return w.fastOpen(c, "sendmsg", w.sendFlags(c), uint64(binary.LittleEndian.Uint32(header[0:])), binary.LittleEndian.Uint32(header[4:]))
	}
	if readMemory(c.tid, c.args[1], header[:]) != 0 {
		return carryOn
	}
	return w.fastOpen(c, "sendmsg", w.sendFlags(c), binary.NativeEndian.Uint64(header[0:]), binary.NativeEndian.Uint32(header[8:]))
}

// sendFlags returns the flags of sendmsg(2) or of sendmmsg(2), whichever has MSG_FASTOPEN among them:
// that is what the call was stopped for.
func (w *worker) sendFlags(c *call) uint32 {
	if flags := uint32(c.args[2]); flags&unix.MSG_FASTOPEN != 0 {
		return flags
	}
	return uint32(c.args[3])
}

// fastOpen connects for a send that would, without data in the SYN. That is what the kernel does too where it has
// no cookie for the destination yet: a socket that does not block is told EINPROGRESS and sends again later; on one
// that does, the target's own call waits for the connection and then sends.
func (w *worker) fastOpen(c *call, name string, flags uint32, addr uint64, addrLen uint32) outcome {
	if addr == 0 || addrLen < sizeofSockaddrIn || addrLen > sizeofSockaddrStorage {
		return carryOn
	}
	c.name, c.addr, c.addrLen = name, addr, addrLen
	c.fastOpen, c.dontWait = true, flags&unix.MSG_DONTWAIT != 0
	return w.connect(c)
}
