package seccompx

import (
	"errors"
	"fmt"
	"syscall"
)

// What callers decide on. Every error of this package that is one of them satisfies errors.Is, and
// where a system call failed it also satisfies errors.Is with its errno.
var (
	// ErrListenerExists: a thread can have one listener in all the filters it runs under (EBUSY).
	ErrListenerExists = errors.New("another seccomp listener is already in place in this filter chain " +
		"(a nested supervisor, or a container runtime with a listener of its own?)")

	// ErrNotPrivileged: a filter was installed without CAP_SYS_ADMIN and without no_new_privs
	// (EACCES).
	ErrNotPrivileged = errors.New("installing a filter needs CAP_SYS_ADMIN in the user namespace, or no_new_privs to be set")

	// ErrNotSupported: the kernel lacks something. See [UnsupportedError] for what.
	ErrNotSupported = errors.New("not supported by this kernel")

	// ErrInvalidProgram: the kernel does not take the program as a filter (EINVAL).
	ErrInvalidProgram = errors.New("the kernel refuses the filter program, or the thread is in strict mode")

	// ErrGone: no thread is left under the filter, so nothing can ever be received again.
	ErrGone = errors.New("no thread is left under the seccomp filter")

	// ErrTargetGone: the notification is over. The target was killed, or took a signal, or had
	// its answer already.
	ErrTargetGone = errors.New("the target no longer waits for an answer to this notification")
)

// sysError is a system call's failure: what was being done, the errno, and what it means.
type sysError struct {
	op      string
	errno   syscall.Errno
	meaning error // may be nil
}

func (e *sysError) Error() string {
	if e.meaning == nil {
		return fmt.Sprintf("%s: %v", e.op, e.errno)
	}
	return fmt.Sprintf("%s: %v", e.op, e.meaning)
}

func (e *sysError) Unwrap() []error {
	if e.meaning == nil {
		return []error{e.errno}
	}
	return []error{e.meaning, e.errno}
}
