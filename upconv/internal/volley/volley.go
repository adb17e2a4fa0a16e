// Package volley makes several system calls in a row, without going back to Go in between.
//
// From Go a call passes through functions on several pages of code, and comes back to others; here
// all calls share one. In a virtual machine that saved a quarter of a short call such as
// getsockopt(2).
package volley

import (
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
)

// Call is one system call.
type Call struct {
	Number uintptr
	// Args are its arguments. One that is an address must be of memory that stays where it is as
	// long as the Call is in use: within a heap object that somebody holds.
	Args   [6]uintptr
	result uintptr
}

// Errno returns what was wrong with a call that Make has made, 0 if nothing.
func (c *Call) Errno() unix.Errno {
	if !fails(c.result) {
		return 0
	}
	return unix.Errno(-c.result)
}

// fails reports whether a result is an errno: the last 4095 numbers are.
func fails(result uintptr) bool { return result > ^uintptr(4095) }

// Result returns what a call that Make has made returned, and did not fail.
func (c *Call) Result() int { return int(c.result) }

// Make makes the calls. It stops behind one of the first few, needed, that fails, and reports
// whether those did not.
func Make(calls []Call, needed int) (ok bool) {
	return perform(&calls[0], len(calls), needed) == len(calls)
}

// perform is Make. It returns how many calls were made without one that is needed failing. The Go
// scheduler is told, as of every system call: a program may hold a lock that the kernel needs for
// one.
//
//go:norace
//go:nosplit
func perform(calls *Call, count, needed int) (made int) {
	entersyscall()
	made = perform0(calls, count, needed)
	exitsyscall()
	return made
}

// perform0 is in assembly.
//
//go:noescape
func perform0(calls *Call, count, needed int) (made int)

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()
