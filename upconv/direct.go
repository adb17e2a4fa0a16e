package upconv

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/netns"
)

// Exec replaces this process by the command, with nothing of upconv around it. It returns only on
// error, which is an *Error.
func Exec(args []string, name string) error {
	if len(args) == 0 {
		return failed(errors.New("no command given"))
	}
	files, denied, err := lookPath(args[0])
	if err != nil {
		return err
	}
	environ, err := rawEnviron()
	if err != nil {
		return failed(err)
	}
	runtime.LockOSThread()
	if name != "" {
		ns, err := netns.Open(name)
		if err != nil {
			return failed(err)
		}
		if err := ns.Enter(); err != nil {
			return failed(err)
		}
		ns.Close()
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if started.Ignored&(1<<(sig-1)) != 0 {
			signal.Ignore(sig)
		}
	}
	for fd := range 3 {
		if started.Closed&(1<<fd) != 0 {
			unix.Close(fd)
		}
	}
	blocked := started.Blocked
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&blocked)), 0, 8, 0, 0)
	for _, path := range files {
		err = syscall.Exec(path, args, environ) // gives RLIMIT_NOFILE back
		if err == unix.ENOEXEC {
			err = syscall.Exec("/bin/sh", append([]string{"/bin/sh", path}, args[1:]...), environ)
		}
		if errno, _ := err.(unix.Errno); errno == unix.EACCES {
			denied = true
		} else if !triesOn(errno) {
			return cannotExecute(path, &os.PathError{Op: "exec", Path: path, Err: err})
		}
	}
	if denied {
		err = unix.EACCES
	}
	return cannotExecute(files[0], &os.PathError{Op: "exec", Path: files[0], Err: err})
}

// triesOn reports whether execvp(3), after execve(2) has failed like this, tries the next file.
func triesOn(errno unix.Errno) bool {
	switch errno {
	case unix.EACCES, unix.ENOENT, unix.ESTALE, unix.ENOTDIR, unix.ENODEV, unix.ETIMEDOUT:
		return true
	}
	return false
}
