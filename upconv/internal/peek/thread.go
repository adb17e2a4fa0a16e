package peek

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Thread is what a thread is to do that no file in /proc tells all of.
type Thread struct {
	Began       uint64 // when it did: with its tid this names it
	Ending      bool   // it runs no program any more
	Interrupted bool   // it has a signal of its own to take, is to stop with its process, for its tracer, or for a freezer
	Certain     bool   // Interrupted is all: else it may be for a signal of Shared, or for a freezer of cgroup version 1
	Shared      uint64 // signals that wait for any thread of its process, and that this one does not block: bit N-1 for signal N
	Threads     int    // how many its process has
	OwnTable    bool   // no other thread has the same table of descriptors
	// What the thread and its process are called in the initial pid namespace, as [Teller.Watch]
	// takes it.
	ID, Process int
}

// Layout of the context.
const (
	threadFound   = ctxFile
	threadJob     = ctxRefs
	threadPending = ctxEpoll
	threadBlocked = ctxOwner
	threadShared  = ctxCookie
	threadCount   = ctxCloexec
	threadFlags   = ctxFlags
	threadBegan   = ctxUID
	threadTable   = ctxTable
	threadID      = ctxWord
	threadProcess = ctxMax
	threadWanted  = ctxIno
)

// jobInterrupts are the bits of task_struct.jobctl that a thread leaves a call for
// (linux/sched/jobctl.h, the same since Linux 5.2): JOBCTL_STOP_PENDING, JOBCTL_TRAP_STOP,
// JOBCTL_TRAP_NOTIFY, JOBCTL_TRAP_FREEZE.
const jobInterrupts = 1<<17 | 1<<19 | 1<<20 | 1<<23

// threadFlagsPath is the member of task_struct with the flags that include TIF_SIGPENDING.
const threadFlagsPath = "thread_info.flags"

const exiting = 4 // PF_EXITING, linux/sched.h

// threadProgram writes the program that looks at a thread.
func threadProgram(t *types) ([]byte, error) {
	w := beginProgram(t)
	a := w.assembler
	a.moveImm(r1, 1)
	a.store(r10, r1, slot(threadFound))
	a.readTo(threadJob, 8, r7, w.at("task_struct", "jobctl"))
	a.readTo(threadPending, 8, r7, w.at("task_struct", "pending.signal"))
	a.readTo(threadBlocked, 8, r7, w.at("task_struct", "blocked"))
	a.readTo(threadFlags, 4, r7, w.at("task_struct", "flags"))
	a.readTo(threadBegan, 8, r7, w.at("task_struct", "start_boottime"))
	if t.has("task_struct", threadFlagsPath) {
		a.readTo(threadWanted, 8, r7, w.at("task_struct", threadFlagsPath))
	}
	a.readTo(threadID, 4, r7, w.at("task_struct", "pid"))
	a.readTo(threadProcess, 4, r7, w.at("task_struct", "tgid"))
	a.follow(r8, r7, w.at("task_struct", "files"), "done")
	a.readTo(threadTable, 4, r8, w.at("files_struct", "count"))
	a.follow(r8, r7, w.at("task_struct", "signal"), "done")
	a.readTo(threadShared, 8, r8, w.at("signal_struct", "shared_pending.signal"))
	a.readTo(threadCount, 4, r8, w.at("signal_struct", "nr_threads"))
	return w.end()
}

// LookAtThread looks at a thread of this process's pid namespace. It returns ESRCH where there is
// none.
func (p *Peeker) LookAtThread(tid int, thread *Thread) unix.Errno {
	var ctx [ctxSize]byte
	order := binary.NativeEndian
	order.PutUint32(ctx[ctxTID:], uint32(tid))
	if errno := testRun(p.threads, ctx[:]); errno != 0 {
		return errno
	}
	if order.Uint64(ctx[threadFound:]) == 0 {
		return unix.ESRCH
	}
	thread.Began = order.Uint64(ctx[threadBegan:])
	thread.Ending = order.Uint32(ctx[threadFlags:])&exiting != 0
	unblocked := ^order.Uint64(ctx[threadBlocked:])
	own := order.Uint64(ctx[threadPending:])&unblocked != 0
	wanted := p.wanted.Load()
	thread.Certain = wanted != 0
	if thread.Certain {
		thread.Interrupted = order.Uint64(ctx[threadWanted:])&wanted != 0
	} else {
		thread.Interrupted = own || order.Uint64(ctx[threadJob:])&jobInterrupts != 0
	}
	thread.Shared = order.Uint64(ctx[threadShared:]) & unblocked
	thread.ID, thread.Process = int(order.Uint32(ctx[threadID:])), int(order.Uint32(ctx[threadProcess:]))
	thread.Threads = int(order.Uint32(ctx[threadCount:]))
	thread.OwnTable = order.Uint32(ctx[threadTable:]) == 1
	return 0
}

// testRun runs a program with a context.
func testRun(fd int, ctx []byte) unix.Errno {
	var attr struct {
		progFD, retval             uint32
		sizeIn, sizeOut            uint32
		dataIn, dataOut            uint64
		repeat, duration           uint32
		ctxSizeIn, ctxSizeOut      uint32
		ctxIn, ctxOut              uint64
		flags, cpu, batchSize, pad uint32
	}
	attr.progFD, attr.ctxSizeIn, attr.ctxIn = uint32(fd), uint32(len(ctx)), uint64(uintptr(unsafe.Pointer(&ctx[0])))
	_, errno := bpf(bpfProgTestRun, &attr)
	return errno
}
