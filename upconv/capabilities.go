package upconv

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hasCapability reports whether this thread has a capability in effect.
func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// capabilities are those of a thread.
type capabilities [2]unix.CapUserData

// dropEffective takes a capability from the calling thread, until setCapabilities gives it back
// what it had.
func dropEffective(capability uint) (before capabilities, errno unix.Errno) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno = unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&before)), 0)
	if errno != 0 {
		return before, errno
	}
	now := before
	now[capability/32].Effective &^= 1 << (capability % 32)
	return before, setCapabilities(&now)
}

// setCapabilities sets the capabilities of the calling thread.
func setCapabilities(all *capabilities) unix.Errno {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(all)), 0)
	return errno
}
