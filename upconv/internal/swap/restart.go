package swap

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// RestartWaiters has the threads that wait in a call on a descriptor of the target's begin that
// call anew, when another socket has taken its place: they would wait for the old one for ever. Of
// the calls that wait for one descriptor the kernel begins all anew but those with SO_RCVTIMEO,
// which are left alone, and of those that wait for several poll(2) and select(2). Threads in
// epoll_wait(2) need none: their registrations move along.
//
// others are the descriptors that were the old socket, too, and replacement is a copy of the new
// one. It reports whether none goes on waiting for the old one.
func (w *Worker) RestartWaiters(c *session.Call, others []int, replacement int) bool {
	numbers := append(others, c.FD)
	timed := linux.TimeoutOf(replacement, unix.SO_RCVTIMEO) != 0
	held := w.s.Held.Threads() // those follow
	var waiting, late []int
	threads := target.ThreadsOf(c.TID)
	for _, pid := range w.tableSharers(c, len(threads), replacement) {
		threads = append(threads, target.ThreadsOf(pid)...)
	}
	for _, tid := range threads {
		if tid == c.TID || held[tid] {
			continue
		}
		switch waits, running := waitsFor(tid, numbers, timed); {
		case waits:
			waiting = append(waiting, tid)
		case running && w.s.goingOn.has(tid):
			late = append(late, tid)
		}
	}
	for deadline := session.Clock() + goAwaited; len(late) > 0 && session.Clock() < deadline; {
		time.Sleep(20 * time.Microsecond)
		late = slices.DeleteFunc(late, func(tid int) bool {
			waits, running := waitsFor(tid, numbers, timed)
			if waits {
				waiting = append(waiting, tid)
			}
			return !running
		})
	}
	return len(waiting) == 0 || w.s.Held.RestartThreads(waiting)
}

// goingOn remembers which threads have lately been told to go on with a call that receives. Such a
// thread may not be in the kernel's wait yet when another socket takes the place of the one that it
// receives from, and then waits on that, past upconv. It may forget.
type goingOn [256]atomic.Uint64 // the thread, and when, in milliseconds

const (
	// goTakes is how long a thread may take from being told to go on to the kernel's wait, on a busy
	// machine.
	goTakes = 100 * time.Millisecond
	// goAwaited is for how long those are waited for that may be on their way: a thread may be long
	// done, and have something else to do.
	goAwaited = 30 * time.Millisecond
)

// note is for a thread whose call has been taken up at a time, by session.Clock.
func (g *goingOn) note(tid int, at time.Duration) {
	g[tid%len(g)].Store(uint64(tid)<<32 | uint64(uint32(at/time.Millisecond)))
}

// has reports whether a thread may not be in its wait yet.
func (g *goingOn) has(tid int) bool {
	noted, now := g[tid%len(g)].Load(), uint32(session.Clock()/time.Millisecond)
	return noted>>32 == uint64(tid) && now-uint32(noted) <= uint32(goTakes/time.Millisecond)
}

// NoteReceives is for a call that receives, before it is looked at whether upconv has to.
func (w *Worker) NoteReceives(c *session.Call) { w.s.goingOn.note(c.TID, w.Taken) }

// waitsFor reports whether a thread is in a call, one that can be begun anew, that is about one of
// some descriptors or about several. timed is whether receiving from them ends after a time. If
// not, running is whether it may be on its way into such a call.
func waitsFor(tid int, fds []int, timed bool) (waits, running bool) {
	// "NR ARG0 ... ARG5 SP PC", in hexadecimal but for the first, or "running":
	// proc_pid_syscall(5).
	text, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/syscall")
	if err != nil {
		return false, false
	}
	if bytes.HasPrefix(text, []byte("running")) {
		return false, true
	}
	var values [9]uint64
	fields := bytes.Fields(text)
	if len(fields) != len(values) {
		return false, false
	}
	for i, field := range fields {
		if values[i], err = strconv.ParseUint(string(field), 0, 64); err != nil {
			return false, false // not in any call: -1
		}
	}
	call, first := waitingCall(tid, values), values[1]
	switch call {
	case "socketcall":
		var raw [4]byte
		switch first {
		case linux.SocketcallRecv, linux.SocketcallRecvfrom, linux.SocketcallRecvmsg, linux.SocketcallRecvmmsg:
			if target.ReadMemory(tid, values[2], raw[:]) != 0 {
				return false, false
			}
			first = uint64(binary.NativeEndian.Uint32(raw[:]))
		default:
			return false, false
		}
	case "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "read", "readv":
	case "poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64":
		return true, false
	case "restart_syscall": // a poll(2) that has been interrupted before, among others
		return true, false
	default:
		return false, false
	}
	return !timed && slices.Contains(fds, int(int32(first))), false
}

// waitingCall returns the name of the call that a thread waits in, given the numbers of its
// proc_pid_syscall(5). That does not say of which architecture it is. But a 32-bit program has its
// stack and its code where their addresses are that short.
func waitingCall(tid int, values [9]uint64) string {
	arches := seccompx.NativeArches()
	arch := arches[0]
	if sp, pc := values[7], values[8]; len(arches) > 1 && sp < 1<<32 && pc < 1<<32 && is32Bit(tid) {
		arch = arches[1]
	}
	name, _ := arch.SyscallName(uint32(values[0]))
	return name
}

// is32Bit reports whether a thread's program is: elf(5), EI_CLASS.
func is32Bit(tid int) bool {
	file, err := os.Open("/proc/" + strconv.Itoa(tid) + "/exe")
	if err != nil {
		return false
	}
	defer file.Close()
	var ident [5]byte
	_, err = file.Read(ident[:])
	return err == nil && ident[4] == 1 // ELFCLASS32
}
