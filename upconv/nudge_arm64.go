package upconv

import "golang.org/x/sys/unix"

// restartsWait reports whether a call waits for several descriptors and is begun anew after an interruption: signal(7).
func restartsWait(nr int) bool { return nr == unix.SYS_PPOLL || nr == unix.SYS_PSELECT6 }
