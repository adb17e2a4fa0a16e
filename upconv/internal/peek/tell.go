package peek

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Teller is told of signals by the kernel. Its program is attached to the tracepoint
// signal:signal_generate and changes nothing but its own maps. It costs each signal of the machine
// a look into a table, as long as the Teller is open. Its methods may be called at the same time.
type Teller struct {
	watched int // the map: what is watched
	program int
	link    int // keeps the program attached
	ring    *ring
}

// A Key stands for a thread or a process that is watched: signals are for either.
type Key uint32

// ThreadKey and ProcessKey return the keys of a thread.
func (t *Thread) ThreadKey() Key  { return Key(t.ID << 1) }
func (t *Thread) ProcessKey() Key { return Key(t.Process<<1 | forProcess) }

// forProcess is the bit of a Key that a process has.
const forProcess = 1

// maxWatched is how many threads and processes can be watched.
const maxWatched = 1 << 13

// tasks is what is needed of the kernel's types.
type tasks struct {
	id, process, flags uint32 // offsets in struct task_struct
	err                error  // not nil: they are not known
}

func tasksOf(t *types) (k tasks) {
	w := writer{types: t}
	k.id, k.process, k.flags = w.at("task_struct", "pid"), w.at("task_struct", "tgid"), w.at("task_struct", threadFlagsPath)
	k.err = w.failed
	return k
}

// Tell begins to be told. It takes a millisecond. From then on LookAtThread is certain, as a rule.
func (p *Peeker) Tell() (t *Teller, err error) {
	if p.tasks.err != nil {
		return nil, p.tasks.err
	}
	t = &Teller{watched: -1, program: -1, link: -1}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if t.watched, err = newMap(mapHash, 4, 8, maxWatched, noPrealloc); err != nil {
		return t, err
	}
	if t.ring, err = newRing(); err != nil {
		return t, err
	}
	code, err := t.code(&p.tasks)
	if err != nil {
		return t, err
	}
	if t.program, err = load("upconv_tell", bpfProgTypeRawTP, 0, code); err != nil {
		return t, err
	}
	tracepoint := []byte("signal_generate\x00")
	var attr struct {
		name      uint64
		progFD, _ uint32
		cookie    uint64
	}
	attr.name, attr.progFD = pointer(tracepoint), uint32(t.program)
	link, errno := bpf(bpfRawTracepoint, &attr)
	runtime.KeepAlive(tracepoint)
	if errno != 0 {
		return t, fmt.Errorf("bpf(2) BPF_RAW_TRACEPOINT_OPEN: %w", errno)
	}
	t.link = link
	wanted, err := t.learn(p)
	if err == nil {
		p.wanted.Store(wanted)
	}
	return t, err
}

// Arguments of the tracepoint, in the program's context, and values of the last one:
// trace/events/signal.h.
const (
	signalTask   = 2 * 8
	signalGroup  = 3 * 8
	signalResult = 4 * 8

	signalIgnored  = 1 // TRACE_SIGNAL_IGNORED
	signalOverflow = 3 // TRACE_SIGNAL_OVERFLOW_FAIL; 2 is TRACE_SIGNAL_ALREADY_PENDING
)

// Helpers: linux/bpf.h.
const (
	mapLookup   = 1   // BPF_FUNC_map_lookup_elem
	ringOutput  = 130 // BPF_FUNC_ringbuf_output
	ringWakeup  = 2   // BPF_RB_FORCE_WAKEUP
	pseudoMapFD = 1   // BPF_PSEUDO_MAP_FD
)

// code writes the program. What is watched is told of once. The stack has the key, and above it the
// record.
func (t *Teller) code(k *tasks) ([]byte, error) {
	const key, record = -24, -16
	a := &assembler{labels: map[string]int{}, jumps: map[int]string{}}
	read := func(at int16, size int32, offset uint32) { // of the task
		a.move(r1, r10)
		a.addImm(r1, int32(at))
		a.moveImm(r2, size)
		a.move(r3, r6)
		a.addImm(r3, int32(offset))
		a.call(probeReadKernel)
	}
	a.load32(r2, r1, signalResult)
	a.jump(0x15, r2, 0, signalIgnored, "end")
	a.jump(0x15, r2, 0, signalIgnored+1, "end")
	a.jump(0x15, r2, 0, signalOverflow, "end")
	a.load(r6, r1, signalTask)
	a.load32(r7, r1, signalGroup)
	a.emit(0x7a, r10, 0, key, 0)
	a.ifZero(r7, "thread")
	a.moveImm(r7, forProcess)
	read(key, 4, k.process)
	a.jump(0x05, 0, 0, 0, "known")
	a.label("thread")
	read(key, 4, k.id)
	a.label("known")
	a.load(r8, r10, key)
	a.shiftLeft(r8, 1)
	a.add(r8, r7)
	a.store(r10, r8, key)
	a.loadMap(r1, t.watched)
	a.move(r2, r10)
	a.addImm(r2, key)
	a.call(mapLookup)
	a.ifZero(r0, "end")
	a.load(r1, r0, 0)
	a.ifNotZero(r1, "end") // it has been told of
	a.moveImm(r1, 1)
	a.store(r0, r1, 0)
	a.store(r10, r8, record)
	read(record+8, 8, k.flags)
	a.loadMap(r1, t.ring.fd)
	a.move(r2, r10)
	a.addImm(r2, record)
	a.moveImm(r3, recordSize-recordHeader)
	a.moveImm(r4, ringWakeup)
	a.call(ringOutput)
	a.label("end")
	a.moveImm(r0, 0)
	a.exit()
	return a.bytes()
}

// learn sends the caller's thread signals: it returns an error unless they are told of, and the
// flag that a thread has when it is to leave its call for a signal, TIF_SIGPENDING. Its number is
// another one for each architecture and some kernels. 0 stands for not known.
func (t *Teller) learn(p *Peeker) (flag uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var self Thread
	if errno := p.LookAtThread(unix.Gettid(), &self); errno != 0 {
		return 0, errno
	}
	key := self.ThreadKey()
	defer t.Forget(key)
	send := func() (uint64, error) {
		if errno := t.Watch(key); errno != 0 {
			return 0, fmt.Errorf("bpf(2) BPF_MAP_UPDATE_ELEM: %w", errno)
		}
		// The Go runtime has a handler for it that does nothing.
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG); err != nil {
			return 0, err
		}
		told, _ := t.ring.drain(nil)
		if len(told) != 1 || told[0].Key != key {
			return 0, errors.New("the attached BPF program does not tell of a signal")
		}
		return told[0].flags, nil
	}
	var blocked, before unix.Sigset_t
	blocked.Val[0] = 1 << (unix.SIGURG - 1)
	with, without := ^uint64(0), uint64(0)
	for range 3 { // there are other flags, which come and go
		flags, err := send()
		if err != nil {
			return 0, err
		}
		with &= flags
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &before); err != nil {
			return 0, err
		}
		flags, err = send()
		unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
		if err != nil {
			return 0, err
		}
		without |= flags
	}
	if flag = with &^ without; bits.OnesCount64(flag) != 1 {
		return 0, nil
	}
	return flag, nil
}

// Watch has Wait tell of a signal for what the key stands for, once. It is begun anew by Watch.
func (t *Teller) Watch(key Key) unix.Errno {
	var told uint64
	attr := mapElement{mapFD: uint32(t.watched), key: uint64(uintptr(unsafe.Pointer(&key))), value: uint64(uintptr(unsafe.Pointer(&told)))}
	_, errno := bpf(bpfMapUpdate, &attr)
	runtime.KeepAlive(&key)
	runtime.KeepAlive(&told)
	return errno
}

// Forget ends what Watch has begun.
func (t *Teller) Forget(key Key) {
	attr := mapElement{mapFD: uint32(t.watched), key: uint64(uintptr(unsafe.Pointer(&key)))}
	bpf(bpfMapDelete, &attr)
	runtime.KeepAlive(&key)
}

// Wait appends what there is to tell, as soon as there is something. lost is whether that may not
// be all. It holds no thread. After Close there is an error.
func (t *Teller) Wait(told []Told) (all []Told, lost bool, err error) { return t.ring.wait(told) }

// Close detaches the program. It may be called again.
func (t *Teller) Close() {
	for _, fd := range []*int{&t.link, &t.program, &t.watched} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
	if t.ring != nil {
		t.ring.close()
	}
}

// mapElement is what bpf(2) takes for BPF_MAP_UPDATE_ELEM and BPF_MAP_DELETE_ELEM.
type mapElement struct {
	mapFD, _      uint32
	key, value, _ uint64
}

// Kinds of maps and their flags: linux/bpf.h.
const (
	mapHash    = 1
	mapRing    = 27
	noPrealloc = 1 // BPF_F_NO_PREALLOC
)

func newMap(kind, keySize, valueSize, entries, flags uint32) (int, error) {
	attr := [5]uint32{kind, keySize, valueSize, entries, flags}
	fd, errno := bpf(bpfMapCreate, &attr)
	if errno != 0 {
		return -1, fmt.Errorf("bpf(2) BPF_MAP_CREATE: %w", errno)
	}
	return fd, nil
}
