package peek

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// instruction is struct bpf_insn, linux/bpf.h.
type instruction struct {
	code     uint8
	dst, src uint8
	off      int16
	imm      int32
}

// Registers. r0 is the result of a call, r1 to r5 its arguments, r6 to r9 survive it, r10 is the
// frame.
const (
	r0 = iota
	r1
	r2
	r3
	r4
	_
	r6
	r7
	r8
	r9
	r10
)

// assembler puts a program together.
type assembler struct {
	code   []instruction
	labels map[string]int
	jumps  map[int]string // instruction -> label
}

func (a *assembler) emit(code uint8, dst, src uint8, off int16, imm int32) {
	a.code = append(a.code, instruction{code, dst, src, off, imm})
}

// Operations, as in instruction-set.rst: 64-bit unless said otherwise.
func (a *assembler) move(dst, src uint8)            { a.emit(0xbf, dst, src, 0, 0) }
func (a *assembler) moveImm(dst uint8, imm int32)   { a.emit(0xb7, dst, 0, 0, imm) }
func (a *assembler) add(dst, src uint8)             { a.emit(0x0f, dst, src, 0, 0) }
func (a *assembler) addImm(dst uint8, imm int32)    { a.emit(0x07, dst, 0, 0, imm) }
func (a *assembler) and(dst uint8, imm int32)       { a.emit(0x57, dst, 0, 0, imm) }
func (a *assembler) shiftLeft(dst uint8, n int32)   { a.emit(0x67, dst, 0, 0, n) }
func (a *assembler) shiftRight(dst uint8, n int32)  { a.emit(0x77, dst, 0, 0, n) }
func (a *assembler) shiftRightBy(dst, src uint8)    { a.emit(0x7f, dst, src, 0, 0) }
func (a *assembler) load(dst, src uint8, off int16) { a.emit(0x79, dst, src, off, 0) }
func (a *assembler) load32(dst, src uint8, off int16) {
	a.emit(0x61, dst, src, off, 0)
}
func (a *assembler) store(dst, src uint8, off int16) { a.emit(0x7b, dst, src, off, 0) }
func (a *assembler) call(helper int32)               { a.emit(0x85, 0, 0, 0, helper) }
func (a *assembler) callKernel(id uint32) {
	a.emit(0x85, 0, 2 /* BPF_PSEUDO_KFUNC_CALL */, 0, int32(id))
}
func (a *assembler) exit() { a.emit(0x95, 0, 0, 0, 0) }

// loadMap loads what helpers know a map by.
func (a *assembler) loadMap(dst uint8, fd int) {
	a.emit(0x18, dst, pseudoMapFD, 0, int32(fd))
	a.emit(0, 0, 0, 0, 0)
}

func (a *assembler) ifZero(dst uint8, label string)          { a.jump(0x15, dst, 0, 0, label) }
func (a *assembler) ifNotZero(dst uint8, label string)       { a.jump(0x55, dst, 0, 0, label) }
func (a *assembler) ifNotBelow(dst, src uint8, label string) { a.jump(0x3d, dst, src, 0, label) }
func (a *assembler) jump(code, dst, src uint8, imm int32, label string) {
	a.jumps[len(a.code)] = label
	a.emit(code, dst, src, 0, imm)
}

func (a *assembler) label(name string) { a.labels[name] = len(a.code) }

// bytes returns the program as the kernel takes it.
func (a *assembler) bytes() ([]byte, error) {
	for at, label := range a.jumps {
		to, ok := a.labels[label]
		if !ok {
			return nil, fmt.Errorf("no label %s", label)
		}
		a.code[at].off = int16(to - at - 1)
	}
	var out []byte
	for _, i := range a.code {
		out = append(out, i.code, i.src<<4|i.dst)
		out = binary.NativeEndian.AppendUint16(out, uint16(i.off))
		out = binary.NativeEndian.AppendUint32(out, uint32(i.imm))
	}
	return out, nil
}

const probeReadKernel = 113 // BPF_FUNC_probe_read_kernel

// The program puts what it finds on its stack, and at its end all of it into the context: helpers
// cannot write there.
func slot(context int) int16 { return int16(context - ctxSize - 8) } // the last word is for follow

// clear zeroes the stack.
func (a *assembler) clear() {
	for at := 0; at < ctxSize; at += 8 {
		a.emit(0x7a, r10, 0, slot(at), 0)
	}
}

// give copies the stack to the context from a place on.
func (a *assembler) give(context uint8, from int) {
	for at := from; at < ctxSize; at += 8 {
		a.load(r1, r10, slot(at))
		a.store(context, r1, int16(at))
	}
}

// readTo reads size bytes at base+offset, a kernel address. What cannot be read is zero.
func (a *assembler) readTo(context int, size int, base uint8, offset uint32) {
	a.move(r3, base)
	a.addImm(r3, int32(offset))
	a.move(r1, r10)
	a.addImm(r1, int32(slot(context)))
	a.moveImm(r2, int32(size))
	a.call(probeReadKernel)
}

// follow reads the pointer at base+offset into a register, and jumps if there is none.
func (a *assembler) follow(dst, base uint8, offset uint32, none string) {
	a.move(r3, base) // which may be r1
	a.addImm(r3, int32(offset))
	a.move(r1, r10)
	a.addImm(r1, -8)
	a.moveImm(r2, 8)
	a.call(probeReadKernel)
	a.load(dst, r10, -8)
	a.ifZero(dst, none)
}

// Commands and types of bpf(2).
const (
	bpfMapCreate      = 0
	bpfMapUpdate      = 2
	bpfMapDelete      = 3
	bpfProgLoad       = 5
	bpfProgTestRun    = 10
	bpfRawTracepoint  = 17 // BPF_RAW_TRACEPOINT_OPEN
	bpfProgTypeRawTP  = 17 // BPF_PROG_TYPE_RAW_TRACEPOINT
	bpfProgTypeSyscal = 31
	bpfSleepable      = 1 << 4 // BPF_F_SLEEPABLE
)

// load has the kernel verify and compile a program.
func load(name string, kind, flags uint32, code []byte) (int, error) {
	// The helpers and functions it calls are for programs under the GPL only.
	license := []byte("Dual BSD/GPL\x00")
	var attr struct {
		progType, insnCount    uint32
		insns, license         uint64
		logLevel, logSize      uint32
		log                    uint64
		kernVersion, flags     uint32
		name                   [16]byte
		ifindex, attachType    uint32
		btfFD, infoSize        uint32
		info                   uint64
		infoCount, lineSize    uint32
		lineInfo               uint64
		lineCount, attachType2 uint32
		attachFD               uint32
		_                      uint32
	}
	attr.progType, attr.insnCount = kind, uint32(len(code)/8)
	attr.insns, attr.license, attr.flags = pointer(code), pointer(license), flags
	copy(attr.name[:], name)
	// The verifier gives up when a signal is pending, and the Go runtime sends its threads many.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err == nil {
		defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	}
	fd, errno := bpf(bpfProgLoad, &attr)
	if errno != 0 && errno != unix.EPERM {
		// Once more, for the reason.
		log := make([]byte, 64<<10)
		attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), pointer(log)
		if fd, errno = bpf(bpfProgLoad, &attr); errno != 0 {
			text, _, _ := strings.Cut(string(log), "\x00")
			lines := strings.Split(strings.TrimSpace(text), "\n")
			if len(lines) > 4 {
				lines = lines[len(lines)-4:]
			}
			return -1, fmt.Errorf("the kernel refuses the program: %w: %s", errno, strings.Join(lines, "; "))
		}
		runtime.KeepAlive(log)
	}
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, fmt.Errorf("bpf(2) BPF_PROG_LOAD: %w", errno)
	}
	return fd, nil
}
