package upconv

import "golang.org/x/sys/unix"

// restartsWait reports whether a call waits for several descriptors and is begun anew after an interruption: signal(7).
func restartsWait(nr int) bool {
	switch nr {
	case unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_SELECT, unix.SYS_PSELECT6:
		return true
	}
	return false
}
