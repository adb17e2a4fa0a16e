package target

import "golang.org/x/sys/unix"

// RaiseLimit does something while the target's RLIMIT_NOFILE is high enough for a number that it
// uses: a program may lower the limit below descriptors that it has, which stay good, but a new one
// cannot take their place.
func RaiseLimit(tid, number int, do func()) bool {
	var limit unix.Rlimit
	if unix.Prlimit(tid, unix.RLIMIT_NOFILE, nil, &limit) != nil || limit.Cur > uint64(number) {
		return false
	}
	raised := limit
	raised.Cur = uint64(number) + 1
	raised.Max = max(raised.Max, raised.Cur)
	if unix.Prlimit(tid, unix.RLIMIT_NOFILE, &raised, nil) != nil {
		return false
	}
	do()
	unix.Prlimit(tid, unix.RLIMIT_NOFILE, &limit, nil)
	return true
}
