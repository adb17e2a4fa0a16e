package upconv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/birth"
)

// Exit statuses of upconv's own, as env(1), nohup(1) and timeout(1) use them.
const (
	ExitFailed   = 125 // upconv failed before the command ran
	ExitCannot   = 126 // the command was found and could not be executed
	ExitNotFound = 127 // the command was not found
	ExitSignal   = 128 // plus N: signal N ended the command
)

// Config says what to run and how.
type Config struct {
	Args    []string // the command and its arguments
	Rules   []Rule
	Via     Route  // of what no rule matches and is not local
	Netns   string // where the command starts: as OpenNamespace takes it; "" for where upconv was started
	Isolate bool   // start the command in a new namespace with only loopback

	Events    string // file to append events to; "-" for standard error; "" for none
	LogLevel  string // debug, info, warn or error; "" for warn
	LogFormat string // text or json; "" for text
}

// Error is a failure of upconv's own, with the exit status that it ends with.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failed(err error) error { return &Error{ExitFailed, err} }

// started keeps what this process was given at its start. See package birth.
var started = birth.Get()

// superviseArg is the first argument of the supervisor's process.
const superviseArg = "__supervise"

// IsSupervisor reports whether this process was started by Run to be the supervisor. If so,
// main must call SupervisorMain and nothing else.
func IsSupervisor() bool { return len(os.Args) > 3 && os.Args[1] == superviseArg }

// Run runs a command under upconv and returns the exit status it ended with: its own, or 128+N if
// signal N ended it. The error is an *Error where the command did not run.
//
// Three processes take part. This one stays in the place that the caller gave it, where the shell, the
// terminal and init expect the command: it passes signals, stops and the exit status on. Its child is
// the supervisor, this same executable. The supervisor's child is the command. So the supervisor is an
// ancestor of all targets (which is what Yama's ptrace_scope=1 asks for), goes on serving when this
// process is stopped by Ctrl-Z, and when the command has ended and others of its descendants live on.
//
// Run takes the process over: it closes inherited descriptors other than standard error and reaps
// every child. It must be called at most once.
func Run(cfg *Config) (status int, err error) {
	if len(cfg.Args) == 0 {
		return ExitFailed, failed(errors.New("no command given"))
	}
	path, err := lookPath(cfg.Args[0])
	if err != nil {
		return statusOf(err), err
	}
	if _, err := NewPolicy(cfg.Rules, cfg.Via); err != nil {
		return ExitFailed, failed(err)
	}

	inherited, err := inheritedFDs()
	if err != nil {
		return ExitFailed, failed(err)
	}
	control, err := startSupervisor(cfg, path)
	if err != nil {
		return ExitFailed, failed(fmt.Errorf("start the supervisor: %w", err))
	}
	// The command has these now. Held open here, a pipe would not end when the command closes it.
	abandon(inherited)
	return (&front{control: control, pid1: os.Getpid() == 1}).run()
}

// statusOf returns the exit status that an error of Run stands for.
func statusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return ExitFailed
}

// lookPath finds the file to execute as execvp(3) does.
func lookPath(name string) (string, error) {
	if name == "" {
		return "", &Error{ExitNotFound, errors.New(`"": command not found`)}
	}
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", cannotExecute(name, err)
		}
		return name, nil
	}
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = "/bin:/usr/bin" // execvp(3)
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		candidate := dir + "/" + name
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		if errors.Is(err, fs.ErrPermission) && denied == nil {
			denied = cannotExecute(candidate, err)
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &Error{ExitNotFound, fmt.Errorf("%s: command not found", name)}
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &fs.PathError{Op: "exec", Path: path, Err: unix.EISDIR}
	}
	// As the user that the kernel will check: the effective one.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "exec", Path: path, Err: err}
	}
	return nil
}

// cannotExecute is the error for a command that was found, or named with a slash, and cannot be run.
func cannotExecute(path string, err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return &Error{ExitNotFound, fmt.Errorf("%s: %w", path, err)}
	}
	return &Error{ExitCannot, fmt.Errorf("%s: cannot execute: %w", path, err)}
}

// inheritedFDs lists the descriptors above standard error that execve(2) would pass on.
func inheritedFDs() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("%w (is /proc mounted?)", err)
	}
	var fds []int
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// abandon closes the descriptors and puts /dev/null in the place of standard input and output.
func abandon(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
	nullify(0, 1)
}

// nullify puts /dev/null in the place of descriptors.
func nullify(fds ...int) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return
	}
	for _, fd := range fds {
		unix.Dup3(null, fd, 0)
	}
	unix.Close(null)
}

// rawEnviron returns the environment as it was given at exec, to the byte: os.Environ drops duplicates.
func rawEnviron() ([]string, error) {
	block, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return nil, err
	}
	block = bytes.TrimSuffix(block, []byte{0})
	if len(block) == 0 {
		return nil, nil
	}
	return strings.Split(string(block), "\x00"), nil
}

// The messages between this process and the supervisor, as JSON over a stream socket.
type (
	// order is the first message to the supervisor.
	order struct {
		Config Config
		Path   string // of the command's file
		Birth  birth.Record
		Front  int // pid of the process that Run was called in
	}
	// passed tells the supervisor that this process was sent a signal.
	passed struct{ Signal int }
	// report is what the supervisor says. One field is set.
	report struct {
		Failed  string `json:",omitempty"` // with Status: the command did not run
		Status  int    `json:",omitempty"`
		Started bool   `json:",omitempty"`
		Stopped int    `json:",omitempty"` // the signal that stopped the command
		Ended   *ended `json:",omitempty"`
	}
	ended struct {
		Status int
		Last   bool // nobody is left under the filter: the supervisor ends too
	}
)

// supervisorBlocks is the signal mask of the supervisor: everything that can be sent to end, stop or tell
// the command something. They stay pending, which is how the supervisor tells signals to the whole
// process group, which the command has got too, from those to the front process alone.
func supervisorBlocks() (mask uint64) {
	for _, sig := range passedSignals() {
		mask |= 1 << (sig - 1)
	}
	return mask
}

// passedSignals are the signals that are passed on to the command. Missing are SIGKILL and SIGSTOP,
// which nobody can catch, SIGCHLD, faults that the kernel raises, and SIGURG and SIGPROF, which
// the Go runtime uses.
func passedSignals() []unix.Signal {
	list := []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM,
		unix.SIGSTKFLT, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGXFSZ,
		unix.SIGVTALRM, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	for sig := unix.Signal(35); sig <= 64; sig++ { // real-time; 32 to 34 belong to the threads libraries
		list = append(list, sig)
	}
	return list
}

// startSupervisor starts this executable again as the supervisor and gives it its order.
func startSupervisor(cfg *Config, path string) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	control := os.NewFile(uintptr(pair[0]), "supervisor")

	environ, err := rawEnviron()
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("%w (is /proc mounted?)", err)
	}
	shared, unmap, err := newForkReport()
	if err != nil {
		control.Close()
		return nil, err
	}
	defer unmap()
	plan := &forkPlan{netns: -1, keep: pair[1], blocked: supervisorBlocks(), report: shared}
	argv := append([]string{"upconv", superviseArg, strconv.Itoa(pair[1])}, cfg.Args...)
	if err := plan.command("/proc/self/exe", argv, environ); err != nil {
		control.Close()
		return nil, err
	}
	if _, err := plan.fork(); err != nil {
		control.Close()
		return nil, err
	}
	plain := *cfg
	plain.Args = nil // went along as arguments, which have no limit but the kernel's
	if err := json.NewEncoder(control).Encode(order{plain, path, started, os.Getpid()}); err != nil {
		control.Close()
		return nil, err
	}
	return control, nil
}

// front is the process that Run was called in, once the supervisor runs.
type front struct {
	control *os.File
	pid1    bool
}

// run passes signals on and stops when the command stops, until the command ends.
func (f *front) run() (status int, err error) {
	// Every signal is taken, also those that were ignored at the start: whether the command ignores
	// them is its own affair.
	signals := make(chan os.Signal, 64)
	for _, sig := range passedSignals() {
		signal.Notify(signals, sig)
	}
	go f.pass(signals)
	go reapAll()

	messages := json.NewDecoder(f.control)
	running := false
	for {
		var m report
		if err := messages.Decode(&m); err != nil {
			if running {
				return ExitSignal + int(unix.SIGKILL), errors.New("the supervisor died, and the command was killed with it")
			}
			return ExitFailed, failed(fmt.Errorf("the supervisor died before the command ran: %w", err))
		}
		switch {
		case m.Failed != "":
			return m.Status, &Error{m.Status, errors.New(m.Failed)}
		case m.Started:
			running = true
		case m.Stopped != 0:
			stopSelf(unix.Signal(m.Stopped), signals)
		case m.Ended != nil:
			if m.Ended.Last {
				// Nothing is left of the command: then nothing of upconv shall be when this returns.
				f.control.SetReadDeadline(time.Now().Add(2 * time.Second))
				io.Copy(io.Discard, f.control)
			}
			return m.Ended.Status, nil
		}
	}
}

// pass tells the supervisor of every signal.
func (f *front) pass(signals <-chan os.Signal) {
	messages := json.NewEncoder(f.control)
	for sig := range signals {
		if messages.Encode(passed{int(sig.(syscall.Signal))}) != nil {
			return
		}
	}
}

// reapAll takes the exit statuses of all children: the supervisor and, in the first process of a
// container, every orphan.
func reapAll() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return // ECHILD: the supervisor was the last
		}
	}
}

// stopSelf stops this process by the signal that stopped the command, so that the shell sees of its job
// what it would have seen, and returns when it is continued.
func stopSelf(sig unix.Signal, signals chan<- os.Signal) {
	if sig != unix.SIGSTOP {
		signal.Reset(sig)
		defer signal.Notify(signals, sig)
	}
	unix.Kill(os.Getpid(), sig)
}
