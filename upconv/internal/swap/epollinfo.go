package swap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// What proc_pid_fdinfo(5) says of an epoll set.

// setInfo is proc_pid_fdinfo(5) of a set, open: of whatever has the number now.
type setInfo struct{ tid, epfd, file int }

// close closes it, if it is open.
func (i *setInfo) close() {
	if i.tid != 0 {
		linux.Close(i.file)
		i.tid = 0
	}
}

// readFdinfo reads what proc_pid_fdinfo(5) says of a set, which may be long, into a buffer of the
// worker's. If it is, the file stays open: the kernel, which has it begin anew with twice the
// memory until all fits, keeps that for the next time.
func (w *Worker) readFdinfo(tid, epfd int) (text []byte, errno unix.Errno) {
	if w.info.tid == tid && w.info.epfd == epfd {
		if text, errno = w.readInfo(); errno == 0 {
			return text, 0
		}
	}
	w.info.close()
	file, errno := target.OpenFdinfo(tid, epfd, w.Scratch[:])
	if w.s.Targets.MakeRoom(errno) {
		file, errno = target.OpenFdinfo(tid, epfd, w.Scratch[:])
	}
	if errno != 0 {
		return nil, errno
	}
	w.info = setInfo{tid, epfd, file}
	if text, errno = w.readInfo(); errno != 0 || len(text) < longText {
		w.info.close()
	}
	return text, errno
}

// readInfo reads the file of w.info into w.Long.
func (w *Worker) readInfo() (text []byte, errno unix.Errno) {
	if w.Long == nil {
		w.Long = make([]byte, 4096)
	}
	length := 0
	for {
		if length == len(w.Long) {
			w.Long = append(w.Long, make([]byte, len(w.Long))...)
		}
		rest := w.Long[length:]
		n, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(w.info.file), uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)), uintptr(length), 0, 0)
		if errno != 0 {
			return nil, errno
		}
		if n == 0 {
			break
		}
		length += int(n)
	}
	text = w.Long[:length]
	if len(w.Long) > 1<<20 {
		w.Long = nil // a set like that is rare
	}
	return text, 0
}
