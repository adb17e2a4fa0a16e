package target

import (
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// IsSocket reports whether the target's descriptor is the socket of an inode number.
func IsSocket(tid, fd int, ino uint64) bool { return IsLink(tid, fd, SocketLink(ino)) }

// IsLink reports whether the link of a descriptor in proc_pid_fd(5) says what want is.
func IsLink(tid, fd int, want string) bool {
	var link [64]byte
	return want != "" && string(readLink(tid, fd, link[:])) == want
}

// readLink reads the link of a descriptor in proc_pid_fd(5) into buf, as much as there is room for.
// Where there is no such descriptor, that is nothing.
func readLink(tid, fd int, buf []byte) []byte {
	var space [64]byte
	path := strconv.AppendInt(append(space[:0], "/proc/"...), int64(tid), 10)
	path = append(strconv.AppendInt(append(path, "/fd/"...), int64(fd), 10), 0)
	at := unix.AT_FDCWD
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return nil
	}
	return buf[:n]
}

// SocketLink is what the link of a socket's descriptor says.
func SocketLink(ino uint64) string { return "socket:[" + strconv.FormatUint(ino, 10) + "]" }

// SameRoot reports whether a thread, whose directory in /proc is given, has the root directory of
// this process.
func SameRoot(proc string) bool {
	var own, other unix.Stat_t
	mounts, errOwn := os.Readlink("/proc/self/ns/mnt")
	others, err := os.Readlink(proc + "ns/mnt")
	return errOwn == nil && err == nil && mounts == others && unix.Stat("/", &own) == nil && unix.Stat(proc+"root", &other) == nil &&
		own.Dev == other.Dev && own.Ino == other.Ino
}
