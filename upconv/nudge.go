package upconv

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// nudge has the threads of the target's process that wait in a call on a descriptor begin that call anew, when another socket
// has taken its place: they would wait for the old one for ever. A tracer's interruption (ptrace(2), PTRACE_INTERRUPT) makes
// the kernel restart calls as if nothing had been, for those that it restarts without a signal handler: of the calls that
// wait for one descriptor these are all but those with SO_RCVTIMEO, which are left alone, and of those that wait for
// several poll(2) and select(2). Threads in epoll_wait(2) need none: their registrations move along.
//
// Where that is not permitted, or somebody else traces them, they wait on.
//
// others are the descriptors that were the old socket, too, and replacement is a copy of the new one.
func (w *worker) nudge(c *call, others []int, replacement int) {
	numbers := append(others, c.fd)
	timed := timeoutOf(replacement, unix.SO_RCVTIMEO) != 0
	dir, err := os.Open("/proc/" + strconv.Itoa(c.tid) + "/task") // all of its process's
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	held := w.s.receivers.holds() // those follow
	var tids []int
	for _, name := range names {
		tid, err := strconv.Atoi(name)
		if err != nil || tid == c.tid || held[tid] || !waitsFor(tid, numbers, timed) {
			continue
		}
		tids = append(tids, tid)
	}
	if len(tids) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		free := true
		for _, tid := range tids {
			if waitsFor(tid, numbers, timed) {
				free = w.s.interrupt(tid) && free
			}
		}
		if free { // else the kernel lets go of them with the end of this thread
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

// waitsFor reports whether a thread is in a call, one that can be begun anew, that is about one of some descriptors or about several.
// timed is whether receiving from them ends after a time.
func waitsFor(tid int, fds []int, timed bool) bool {
	// "NR ARG0 ... ARG5 SP PC", in hexadecimal but for the first, or "running": proc_pid_syscall(5).
	text, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/syscall")
	if err != nil {
		return false
	}
	var values [9]uint64
	fields := bytes.Fields(text)
	if len(fields) != len(values) {
		return false
	}
	for i, field := range fields {
		if values[i], err = strconv.ParseUint(string(field), 0, 64); err != nil {
			return false // not in any call: -1
		}
	}
	call, first := waitingCall(values), values[1]
	switch call {
	case "socketcall":
		var raw [4]byte
		switch first {
		case sysRecv, sysRecvfrom, sysRecvmsg, sysRecvmmsg:
			if readMemory(tid, values[2], raw[:]) != 0 {
				return false
			}
			first = uint64(binary.NativeEndian.Uint32(raw[:]))
		default:
			return false
		}
	case "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "read", "readv":
	case "poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64":
		return true
	case "restart_syscall": // a poll(2) that has been interrupted before, among others
		return true
	default:
		return false
	}
	return !timed && slices.Contains(fds, int(int32(first)))
}

// waitingCall returns the name of the call that a thread waits in, given the numbers of its proc_pid_syscall(5). That does not say of
// which architecture it is; but a 32-bit program has its stack and its code where their addresses are that short.
func waitingCall(values [9]uint64) string {
	arches := seccompx.NativeArches()
	arch := arches[0]
	if sp, pc := values[7], values[8]; len(arches) > 1 && sp < 1<<32 && pc < 1<<32 {
		arch = arches[1]
	}
	name, _ := arch.SyscallName(uint32(values[0]))
	return name
}

// maxStopping is how long to wait until a thread has stopped, at most. One that has begun a call meanwhile that upconv handles does
// not stop before that is answered, and the answer may be waiting for the caller.
const maxStopping = 20 * time.Millisecond

// interrupt makes a thread begin its call anew. It returns false if the thread is still traced, by the caller's thread, which must end soon.
func (s *Supervisor) interrupt(tid int) bool {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, 0, 0, 0); errno != 0 {
		return true
	}
	unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(tid), 0, 0, 0, 0)
	// It stops within microseconds, on its way out of the call. Until then it cannot be let go.
	for deadline := time.Now().Add(maxStopping); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, 0, 0, 0); errno == 0 {
			return true
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(tid)); err != nil {
			return true
		}
		s.receivers.restart(tid) // should its call have been stopped meanwhile, and wait
	}
	return false
}
