package upconv

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/birth"
	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
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
	Args     []string // the command and its arguments
	Rules    []policy.Rule
	Via      policy.Route    // of what no rule matches and is not local
	Mappings []nat64.Mapping // for destinations whose route is nat64
	File     string          // the policy file that the Rules with its name in From, and the Mappings, are from; "" for none
	Netns    string          // where the command starts: a name of ip-netns(8), an absolute path or policy.Host; "" for where upconv was started
	Isolate  bool            // start the command in a new namespace with only loopback

	UDP    policy.UDPMode // which calls on datagram sockets follow the policy
	SwapAt policy.SwapAt  // when sockets are replaced
	// UDPFixed and SwapAtFixed say that the two do not come from File. Otherwise a File that is
	// read again must say the same of them as before: the filter that the command runs under is
	// made for it.
	UDPFixed, SwapAtFixed bool

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
// Three processes take part. This one stays in the place that the caller gave it, where the shell,
// the terminal and init expect the command: it passes signals, stops and the exit status on. Its
// child is the supervisor, this same executable. The supervisor's child is the command. So the
// supervisor is an ancestor of all targets (which is what Yama's ptrace_scope=1 asks for), goes on
// serving when this process is stopped by Ctrl-Z, and when the command has ended and others of its
// descendants live on.
//
// Run takes the process over: it closes inherited descriptors other than standard error and reaps
// every child. It must be called at most once.
func Run(cfg *Config) (status int, err error) {
	if len(cfg.Args) == 0 {
		return ExitFailed, failed(errors.New("no command given"))
	}
	files, denied, err := lookPath(cfg.Args[0])
	if err != nil {
		return statusOf(err), err
	}
	err = policy.CheckRules(cfg.Rules)
	if err == nil && cfg.SwapAt == policy.SwapAtSocket {
		err = policy.Compile(cfg.Rules, cfg.Via).CheckSwapAt(cfg.SwapAt)
	}
	if err != nil {
		return ExitFailed, failed(err)
	}

	runtime.GOMAXPROCS(1) // this process hardly ever has anything to do
	if err := checkTasks(); err != nil {
		return ExitFailed, failed(err)
	}
	inherited, err := inheritedFDs()
	if err != nil {
		return ExitFailed, failed(err)
	}
	// The supervisor dies with the thread that cloned it, as long as it has not started the
	// command.
	runtime.LockOSThread()
	f := &front{signals: make(chan os.Signal, 64)}
	if err := f.startSupervisor(cfg, files, denied, inherited); err != nil {
		return ExitFailed, failed(fmt.Errorf("start the supervisor: %w", err))
	}
	// The command has these now. Held open here, a pipe would not end when the command closes it.
	abandon(inherited)
	haveThreads(frontThreads)
	return f.run()
}

// statusOf returns the exit status that an error of Run stands for.
func statusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return ExitFailed
}

// lookPath lists the files that execvp(3) would try to execute, leaving out those that cannot be.
// denied is true where one of those left out exists: then failure is EACCES, not ENOENT.
func lookPath(name string) (files []string, denied bool, err error) {
	if name == "" {
		return nil, false, &Error{ExitNotFound, errors.New(`"": command not found`)}
	}
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return nil, false, cannotExecute(name, err)
		}
		return []string{name}, false, nil
	}
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = "/bin:/usr/bin" // execvp(3)
	}
	var first error
	for _, dir := range strings.Split(path, ":") {
		candidate := name // an empty entry is the current directory
		if dir != "" {
			candidate = dir + "/" + name
		}
		err := executable(candidate)
		switch {
		case err == nil:
			files = append(files, candidate)
		case errors.Is(err, fs.ErrPermission):
			denied = true
			if first == nil {
				first = cannotExecute(candidate, err)
			}
		}
	}
	switch {
	case len(files) > 0:
		return files, denied, nil
	case denied:
		return nil, true, first
	}
	return nil, false, &Error{ExitNotFound, fmt.Errorf("%s: command not found", name)}
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &fs.PathError{Op: "exec", Path: path, Err: errIsDirectory}
	}
	// As the user that the kernel will check: the effective one.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "exec", Path: path, Err: err}
	}
	return nil
}

// errIsDirectory is what execve(2) calls EACCES.
var errIsDirectory = fmt.Errorf("is a directory: %w", unix.EACCES)

// cannotExecute is the error for a command that was found, or named with a slash, and cannot be
// run.
func cannotExecute(path string, err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{ExitNotFound, fmt.Errorf("%s: %w", path, err)}
	}
	return &Error{ExitCannot, fmt.Errorf("%s: cannot execute: %w", path, err)}
}

// inheritedFDs lists the descriptors above standard error that execve(2) would pass on.
func inheritedFDs() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, unix.EMFILE) {
		return nil, err
	} else if err != nil {
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

// rawEnviron returns the environment as it was given at exec, to the byte: os.Environ drops
// duplicates.
func rawEnviron() ([]string, error) {
	block, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return nil, err
	}
	if len(block) == 0 {
		return nil, nil
	}
	return strings.Split(string(bytes.TrimSuffix(block, []byte{0})), "\x00"), nil
}

// The messages between this process and the supervisor, as gob over a stream socket. (Not as JSON:
// paths are bytes, and need not be UTF-8.)
type (
	// order is the first message to the supervisor.
	order struct {
		Config Config
		Files  []string // to execute, the first that can be
		Denied bool     // if none can be, the error is EACCES
		Birth  birth.Record
		Front  int // pid of the process that Run was called in
		// Inherited are the descriptors above standard error that the command is to be given;
		// numbers below Reserved that are not among them are kept free.
		Inherited []int
		Reserved  int
		Service   service
		Speaker   int // the number of the socket that the front process has a speaker at the other end of; if there is a Service.Notify
	}
	// passed tells the supervisor that this process was sent a signal, or that it has been
	// continued from a stop; neither says that it has heard Started.
	passed struct {
		Signal  int
		Resumed bool
	}
	// report is what the supervisor says. One field is set.
	report struct {
		Failed  string // with Status: the command did not run
		Status  int
		Started bool
		Stopped int // the signal that stopped the command
		Ended   bool
		Signal  int  // with Ended: the signal that ended the command, or 0
		Last    bool // with Ended: nobody is left under the filter, and the supervisor ends too
	}
)

// passedSignals are the signals that are passed on to the command. Missing are SIGKILL and SIGSTOP,
// which nobody can catch, SIGCHLD, faults that the kernel raises (SIGABRT is none: watchdogs send
// it), and SIGURG and SIGPROF, which the Go runtime uses.
func passedSignals() []unix.Signal {
	list := []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM,
		unix.SIGSTKFLT, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGXFSZ,
		unix.SIGVTALRM, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if birth.RealTime&(1<<(sig-1)) != 0 {
			list = append(list, sig)
		}
	}
	return list
}

// startSupervisor starts this executable again as the supervisor and gives it its order.
func (f *front) startSupervisor(cfg *Config, files []string, denied bool, inherited []int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	reserve, err := openfile.ReserveLimit(limit.Cur, inherited)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	f.control = os.NewFile(uintptr(pair[0]), "supervisor")
	f.say = gob.NewEncoder(f.control)

	environ, err := rawEnviron()
	if err != nil {
		return fmt.Errorf("%w (is /proc mounted?)", err)
	}
	f.service = readService(environ, os.Getpid())
	notices, err := f.startSpeaker()
	if err != nil {
		return err
	}
	if notices >= 0 {
		defer unix.Close(notices)
	}
	shared, _, err := newForkReport() // and kept
	if err != nil {
		return err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	// The child moves its end there, out of the way of all numbers that are somebody's: what the
	// command inherits is put there for it, and the child needs null to the last. Here, where
	// threads share the descriptor table, growing that would take the kernel some milliseconds.
	taken := append(slices.Clone(inherited), null, pair[1], notices)
	control := openfile.UnusedNumber(reserve, taken)
	plan := &forkPlan{
		netns: -1, keep: []kept{{pair[1], control}}, null: null, reserve: reserve, parent: os.Getpid(),
		blocked: signalMask(passedSignals()), report: shared,
	}
	speaker := 0
	if notices >= 0 {
		speaker = openfile.UnusedNumber(control+1, taken)
		plan.keep = append(plan.keep, kept{notices, speaker})
	}
	argv := append([]string{"upconv", superviseArg, strconv.Itoa(control)}, cfg.Args...)
	if err := plan.command([]string{"/proc/self/exe"}, argv, environ); err != nil {
		return err
	}
	f.born, f.plan = shared, plan
	if f.supervisor, err = plan.fork(); err != nil {
		return err
	}
	f.catch() // before the command can run; and while the supervisor gets started
	plain := *cfg
	plain.Args = nil // went along as arguments, which have no limit but the kernel's
	return f.say.Encode(order{plain, files, denied, started, os.Getpid(), inherited, reserve, f.service, speaker})
}

// front is the process that Run was called in.
type front struct {
	control    *os.File
	say        *gob.Encoder
	supervisor int // its pid
	plan       *forkPlan
	born       *forkReport // how the supervisor got on before it was executed
	signals    chan os.Signal
	service    service
	speaker    *speaker // nil where service.Notify is ""

	mu      sync.Mutex
	running bool // the command has been executed
}

// run passes signals on and stops when the command stops, until the command ends.
func (f *front) run() (status int, err error) {
	go f.pass()
	reaped := make(chan struct{})
	go reapAll(func(pid int) {
		if pid == f.supervisor {
			close(reaped)
		}
	})

	messages := gob.NewDecoder(f.control)
	for {
		var m report
		if err := messages.Decode(&m); err != nil {
			if f.running {
				return ExitSignal + int(unix.SIGKILL), errors.New("the supervisor died, and the command was killed with it")
			}
			if f.born.errno != 0 {
				return ExitFailed, failed(fmt.Errorf("start the supervisor: %w", refusedStep(f.born.step, f.born.stepError(f.plan))))
			}
			return ExitFailed, failed(errors.New("the supervisor died before the command ran"))
		}
		switch {
		case m.Failed != "":
			return m.Status, &Error{m.Status, errors.New(m.Failed)}
		case m.Started:
			f.mu.Lock()
			f.running = true
			f.mu.Unlock()
			f.say.Encode(passed{}) // the command is not executed before the supervisor has this
		case m.Stopped != 0:
			time.Sleep(settled) // what else was sent to the group is to be told of first
			stopSelf(unix.Signal(m.Stopped))
			f.say.Encode(passed{Resumed: true})
		case m.Ended:
			f.speaker.end()
			if m.Last {
				// Nothing is left of the command: then nothing of upconv shall be when this
				// returns.
				select {
				case <-reaped:
				case <-time.After(2 * time.Second):
				}
			}
			if f.service.Managed && m.Signal != 0 {
				endBySignal(unix.Signal(m.Signal)) // systemd tells a service that a signal has ended by that
			}
			return m.Status, nil
		}
	}
}

// settled is how long signals may take from the kernel through os/signal to the supervisor.
const settled = 25 * time.Millisecond

// catch has every signal sent to f.signals, also those that were ignored or blocked at the start:
// whether the command ignores or blocks them is its own affair.
func (f *front) catch() {
	var fd int
	err := errors.ErrUnsupported
	if started.Exact { // real-time signals are blocked in all threads
		fd, err = unix.Signalfd(-1, sigset(birth.RealTime), unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	}
	for _, sig := range passedSignals() {
		if err != nil || birth.RealTime&(1<<(sig-1)) == 0 {
			signal.Notify(f.signals, sig)
		}
	}
	if err != nil {
		return
	}
	queued := os.NewFile(uintptr(fd), "signals") // waits in the runtime's poller, without a thread
	go func() {
		for {
			info, err := readSignal(queued)
			if err != nil {
				return
			}
			f.signals <- syscall.Signal(info.Signo)
		}
	}()
}

// readSignal reads one signal from a signalfd(2).
func readSignal(queued *os.File) (info unix.SignalfdSiginfo, err error) {
	_, err = queued.Read(unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
	return info, err
}

// pass tells the supervisor of every signal. As long as the command has not been executed, one that
// asks to end ends everything.
func (f *front) pass() {
	for s := range f.signals {
		sig := s.(syscall.Signal)
		f.mu.Lock()
		running := f.running
		f.mu.Unlock()
		switch sig {
		case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM:
			if !running {
				unix.Kill(f.supervisor, unix.SIGKILL)
				os.Exit(ExitSignal + int(sig))
			}
		case unix.SIGCONT:
			unix.Kill(f.supervisor, sig) // it may have been stopped too
		}
		if f.say.Encode(passed{Signal: int(sig)}) != nil {
			return
		}
	}
}

// reapAll takes the exit statuses of all children, and tells of each, until there is none: the
// front process's supervisor, the supervisor's last descendants and, in the first process of a
// container, every orphan.
func reapAll(ended func(pid int)) {
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err == nil {
			ended(pid)
		} else if err != unix.EINTR {
			return // ECHILD
		}
	}
}

// stopSelf stops this process by the signal that stopped the command, so that the shell sees of its
// job what it would have seen, and returns when it is continued.
func stopSelf(sig unix.Signal) {
	// The Go runtime's handler would not stop, and os/signal gives no way past it.
	var stop, handler kernelSigaction // SIG_DFL
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if sig != unix.SIGSTOP {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&stop)), uintptr(unsafe.Pointer(&handler)), 8, 0, 0)
		defer unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&handler)), 0, 8, 0, 0)
	}
	// To this very thread: it is stopped before the call returns, and the handler is not back too
	// soon.
	unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
}
