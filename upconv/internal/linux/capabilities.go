package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// HasCapability reports whether this thread has a capability in effect.
func HasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// Capabilities are those of a thread.
type Capabilities [2]unix.CapUserData

// DropEffective takes a capability from the calling thread, until SetCapabilities gives it back
// what it had.
func DropEffective(capability uint) (before Capabilities, errno unix.Errno) {
	return LimitEffective(func(effective uint64) uint64 { return effective &^ (1 << capability) })
}

// LimitEffective changes which capabilities the calling thread has in effect. It returns what it
// had before.
func LimitEffective(limit func(uint64) uint64) (before Capabilities, errno unix.Errno) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno = unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&before)), 0)
	if errno != 0 {
		return before, errno
	}
	now := before
	effective := limit(uint64(before[1].Effective)<<32 | uint64(before[0].Effective))
	now[0].Effective, now[1].Effective = uint32(effective), uint32(effective>>32)
	return before, SetCapabilities(&now)
}

// SetCapabilities sets the capabilities of the calling thread.
func SetCapabilities(all *Capabilities) unix.Errno {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(all)), 0)
	return errno
}
