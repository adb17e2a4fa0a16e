package target

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadMemory fills buf from the target's memory at addr. The errno is EFAULT where not all of it
// could be read, ESRCH where the thread is gone, EPERM where upconv may not look into it.
func ReadMemory(tid int, addr uint64, buf []byte) unix.Errno {
	local := unix.Iovec{Base: &buf[0]}
	local.SetLen(len(buf))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(buf)}
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(tid),
		uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if errno == 0 && int(n) != len(buf) {
		errno = unix.EFAULT
	}
	return errno
}

// WriteMemory fills the target's memory at addr with data.
func WriteMemory(tid int, addr uint64, data []byte) unix.Errno {
	local := unix.Iovec{Base: &data[0]}
	local.SetLen(len(data))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(data)}
	n, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(tid),
		uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if errno == 0 && int(n) != len(data) {
		errno = unix.EFAULT
	}
	return errno
}

// ReadVectors fills buf from the target's memory, of which vectors are the parts. n is how much
// could be read.
func ReadVectors(tid int, buf []byte, vectors []unix.RemoteIovec) (n int, errno unix.Errno) {
	if len(buf) == 0 || len(vectors) == 0 {
		return 0, 0
	}
	local := unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}
	got, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), 0
}

// WriteVectors writes data, and rest behind it, to places in a thread's memory. It returns how many
// bytes it could write, 0 for any error.
func WriteVectors(tid int, data, rest []byte, to []unix.RemoteIovec) (n int) {
	var local [2]unix.Iovec
	count := 0
	for _, part := range [2][]byte{data, rest} {
		if len(part) > 0 {
			local[count].Base = &part[0]
			local[count].SetLen(len(part))
			count++
		}
	}
	wrote, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(tid), uintptr(unsafe.Pointer(&local)), uintptr(count),
		uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)), 0)
	if errno != 0 {
		return 0
	}
	return int(wrote)
}
