package upconv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/doctor"
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
	// File is the policy file that the Rules with its name in From, and the Mappings, are from; ""
	// for none.
	File string
	// Netns is where the command starts: a name of ip-netns(8), an absolute path or policy.Host; ""
	// for where upconv was started.
	Netns   string
	Isolate bool // start the command in a new namespace with only loopback

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
	if err := doctor.CheckTasks(); err != nil {
		return ExitFailed, failed(err)
	}
	inherited, err := openfile.Inherited()
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
