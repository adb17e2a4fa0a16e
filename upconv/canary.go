package upconv

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/spawn"
)

// canary is a process that sits in the caller's process group, does nothing, and remembers which
// signals it was sent. It is how upconv tells a signal to the whole group, from a terminal or from
// kill(2) with a negative pid, which the command has had from the same sender, from a signal to the
// front process alone, which must be passed on.
//
// The supervisor cannot be its own canary: the Go runtime keeps some signals from being blocked,
// and somebody may send a signal to every process called upconv.
type canary struct {
	pid int
	say *os.File
}

// askSignal has the canary say what it has seen. It is the last one that the kernel hands out of
// several that wait, so that all others have been seen by then.
const askSignal = 64

// canaryName is what ps(1) shows. It does not have "upconv" in it, for pkill(1) and pidof(1).
const canaryName = "canary"

// startCanary clones this process. The child shares nothing with it but what it was given, runs no
// Go but a loop of raw system calls, and is killed with this thread. Nothing may be compiled into
// it that calls the runtime, which has no stack to grow there: neither the race detector's marks
// nor its checks of pointers.
//
//go:noinline
//go:norace
//go:nocheckptr
func startCanary(signals uint64) (*canary, error) {
	var say [2]int
	if err := unix.Pipe2(say[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	var (
		r1      uintptr
		errno   syscall.Errno
		parent  = os.Getpid()
		all     = ^uint64(0)
		mask    = signals
		seen    [64]byte // by signal, from 1
		info    unix.Siginfo
		name    = [16]byte{}
		argvLen = -1
		sender  = (*int32)(unsafe.Pointer(uintptr(unsafe.Pointer(&info)) + 16)) // si_pid
		i       int
	)
	copy(name[:15], canaryName)
	argvAt := unsafe.Pointer(unsafe.StringData(os.Args[0])) // where the kernel put all of them, one after the other
	for _, arg := range os.Args {
		argvLen += len(arg) + 1
	}

	syscall.ForkLock.Lock()
	spawn.RuntimeBeforeFork()
	r1, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || r1 != 0 {
		spawn.RuntimeAfterFork()
		syscall.ForkLock.Unlock()
		unix.Close(say[1])
		if errno != 0 {
			unix.Close(say[0])
			return nil, os.NewSyscallError("clone", errno)
		}
		return &canary{int(r1), os.NewFile(uintptr(say[0]), "canary")}, nil
	}

	// The child. It has a copy of all memory.
	spawn.RuntimeAfterForkInChild()
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	if r1, _, _ = syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); int(r1) != parent {
		goto exit
	}
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0)
	for i = 0; i < argvLen; i++ { // this is what /proc/PID/cmdline shows
		if i < len(name) {
			*(*byte)(unsafe.Add(argvAt, i)) = name[i]
		} else {
			*(*byte)(unsafe.Add(argvAt, i)) = 0
		}
	}
	syscall.RawSyscall(unix.SYS_DUP3, uintptr(say[1]), 0, 0)
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 1, ^uintptr(0)>>33, 0)
	for {
		// At once, not when asked: the kernel takes SIGCONT away again from a process that is sent
		// a stop signal, and the other way round.
		r1, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&mask)), uintptr(unsafe.Pointer(&info)), 0, 8, 0, 0)
		if errno != 0 || r1 == 0 || r1 > 64 {
			continue // EINTR: stopped and continued
		}
		if int(*sender) != parent {
			if seen[r1-1] < 255 {
				seen[r1-1]++
			}
		} else if r1 == askSignal {
			syscall.RawSyscall(unix.SYS_WRITE, 0, uintptr(unsafe.Pointer(&seen)), 64)
			for i = range seen {
				seen[i] = 0
			}
		}
	}
exit:
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// heard returns how many times the process group was sent each signal since the last time: [0] is
// signal 1. After an error nothing is known of the group any more.
func (c *canary) heard() (seen [64]byte, err error) {
	if err := unix.Kill(c.pid, askSignal); err != nil {
		return seen, err
	}
	n, err := c.say.Read(seen[:])
	if err == nil && n != len(seen) {
		err = errors.New("canary: short answer")
	}
	return seen, err
}

// wake has a canary go on that was stopped along with the group. (Only then: SIGCONT takes away the
// stop signals that wait to be seen.)
func (c *canary) wake() { unix.Kill(c.pid, unix.SIGCONT) }

// close ends the process and reaps it.
func (c *canary) close() {
	unix.Kill(c.pid, unix.SIGKILL)
	unix.Wait4(c.pid, nil, 0, nil)
	c.say.Close()
}
