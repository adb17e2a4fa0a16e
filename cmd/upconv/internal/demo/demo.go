// Package demo is the work behind `upconv demo`.
//
// Two layers of processes take part. [Run] is what the user started; it makes the user namespace,
// and waits until nobody is left in it. [Stage] is the same executable again, root inside: it makes
// the network namespaces, is the server in one of them, and starts the clients, some of them under
// a real `upconv run`. Namespaces are held by descriptors of that process alone. So they end with
// it, whatever ends it, and there is nothing to be removed.
package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv"
)

// The hidden subcommands of `upconv demo`, which it starts itself.
const (
	StageCommand = "stage"
	GetCommand   = "get"
	BenchCommand = "bench"
)

// exitStep is the exit status where a step of the demo failed.
const exitStep = 1

// self is this executable, also when its file was moved or replaced.
const self = "/proc/self/exe"

// patience is how long processes may take to go after the stage has ended.
const patience = 5 * time.Second

// errNotPermitted is why there is no stage.
type errNotPermitted struct{ cause error }

func (e *errNotPermitted) Unwrap() error { return e.cause }
func (e *errNotPermitted) Error() string {
	cause := e.cause
	if errno := unix.Errno(0); errors.As(cause, &errno) {
		cause = errno // the rest is about how it was tried
	}
	return fmt.Sprintf(`demo: make a user namespace and network namespaces in it: %v
This user may not do that here, and the demo needs it, to work without
privileges. Either one of these settings forbids it, which sysctl(8) shows:
    user.max_user_namespaces                      should not be 0
    user.max_net_namespaces                       should be 4 or more
    kernel.unprivileged_userns_clone              should be 1, where it exists
    kernel.apparmor_restrict_unprivileged_userns  should be 0, where it exists
or the rules of a container or sandbox do (seccomp, SELinux, AppArmor).
See upconv doctor for what works here. upconv run as root needs none of this.`, cause)
}

// notPermitted tells an error that means "not allowed here" from others.
func notPermitted(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EPERM, unix.EACCES, // forbidden, for this user or everybody
		unix.ENOSPC, unix.EUSERS, // as many as allowed there are, or none are allowed
		unix.EINVAL, unix.ENOSYS, // a kernel without them
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Run gives the demo and returns its exit status. An error is yet to be told; without one, what
// there was to say has been said. It reaps every child of this process, and may be called only
// once.
func Run(stdout, stderr *os.File) (status int, err error) {
	// Whatever the stage leaves behind when it is killed becomes this process's child, so that it
	// can be waited for: when this returns, nothing runs any more.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return exitStep, fmt.Errorf("demo: %w", os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err))
	}
	signals := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}

	// PDEATHSIG means the death of the thread that started the child. This one shall live as long
	// as the process.
	runtime.LockOSThread()
	stage := exec.Command(self, "demo", StageCommand)
	stage.Args[0] = "upconv"
	stage.Stdout, stage.Stderr = stdout, stderr
	stage.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	if err := stage.Start(); err != nil {
		if notPermitted(err) {
			return upconv.ExitFailed, &errNotPermitted{err}
		}
		return exitStep, fmt.Errorf("demo: start in a user namespace: %w", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- stage.Wait() }()

	var interrupted syscall.Signal
	select {
	case sig := <-signals:
		// Nobody is asked: the death of the stage ends its clients (PDEATHSIG) and closes the
		// namespaces.
		interrupted = sig.(syscall.Signal)
		stage.Process.Kill()
		err = <-waited
	case err = <-waited:
	}
	gone := endAll(patience)

	var killed syscall.Signal
	exit := new(exec.ExitError)
	if errors.As(err, &exit) {
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			killed = ws.Signal()
		}
	}
	switch {
	case interrupted != 0:
		die(interrupted)
	case killed == unix.SIGINT || killed == unix.SIGTERM || killed == unix.SIGHUP:
		die(killed) // a terminal sends it to both, and the stage was quicker
	case killed == unix.SIGPIPE:
		return upconv.ExitSignal + int(killed), nil // nobody reads on
	case killed != 0:
		return exitStep, fmt.Errorf("demo: its process was killed: %v", killed)
	case exit.ProcessState != nil:
		return exit.ExitCode(), nil
	case err != nil:
		return exitStep, fmt.Errorf("demo: %w", err)
	case !gone:
		return exitStep, errors.New("demo: some of its processes have not ended")
	}
	if err := farewell(stdout); err != nil {
		return exitStep, fmt.Errorf("demo: %w", err)
	}
	return 0, nil
}

// die ends this process by a signal, for the shell to see.
func die(sig syscall.Signal) {
	signal.Reset()
	unix.Kill(os.Getpid(), sig)
	select {} // until it arrives
}

// farewell is said when it is true.
func farewell(w io.Writer) error {
	s := newScreen(w)
	s.para("All of it happened just now, every step was checked, and nothing of it is left.")
	return s.err
}

// endAll kills what is left of the stage's descendants and waits for it, but no longer than the
// given time. A descendant whose parent has died becomes a child of this process.
func endAll(atMost time.Duration) bool {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == nil && pid == 0 { // some, and none has ended yet
				for _, child := range children() {
					unix.Kill(child, unix.SIGKILL) // it is nobody else: it would not be reused before it is waited for
				}
				_, err = unix.Wait4(-1, nil, 0, nil)
			}
			if err != nil && err != unix.EINTR {
				return // ECHILD
			}
		}
	}()
	select {
	case <-gone:
		return true
	case <-time.After(atMost):
		return false
	}
}

// children lists the children of this process.
func children() (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): pid (comm) state ppid; comm may contain anything.
		var state, ppid string
		fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &ppid)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && ppid == strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids
}
