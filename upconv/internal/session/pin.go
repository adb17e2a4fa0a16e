package session

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// Pin keeps this thread on the processor that it is on, until the target has its answer. While a
// descriptor is installed the kernel would move it to an idle processor, away from the target that
// it is in the middle of a conversation with; waking up there costs more than all the rest. A
// thread that connects again and again mostly stays where it is, and so may this one.
func (w *Worker) Pin(tid uint32) {
	if !w.MayPin || w.onOwnCPU {
		return
	}
	if w.pinned && w.pinnedFor == tid && w.pinnedYet > 0 {
		w.pinnedYet--
		return
	}
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return
	}
	var here unix.CPUSet
	here.Set(int(cpu))
	if linux.SetAffinity(&here) == 0 {
		w.pinned, w.pinnedYet = true, 0
		if w.pinnedFor == tid {
			w.pinnedYet = stayPinned
		}
		w.pinnedFor = tid
	}
}

// unpin lets this thread go where it wants, unless it is likely to be held again at once.
func (w *Worker) unpin() {
	if w.pinned && w.pinnedYet == 0 {
		linux.SetAffinity(&w.CPUs)
		w.pinned = false
	}
}

// KeepToOwnCPU has this thread stay on its own processor, or run where it likes. The kernel wakes a
// waiting worker on the processor of the target's thread, which is best when there is one. Of
// several it wakes all there, to compete with each other and with the target; so then each has its
// own.
func (w *Worker) KeepToOwnCPU(on bool) {
	if on == w.onOwnCPU || !w.MayPin {
		return
	}
	if on {
		linux.SetAffinity(&w.OwnCPU)
	} else {
		linux.SetAffinity(&w.CPUs)
	}
	w.onOwnCPU, w.pinned = on, false
}

// stayPinned is for how many swaps of one thread in a row the processor is not looked up again.
const stayPinned = 32
