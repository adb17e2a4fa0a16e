package upconv

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/internal/spawn"
)

// front is the process that Run was called in.
type front struct {
	control    *os.File
	say        *gob.Encoder
	supervisor int // its pid
	plan       *spawn.Plan
	born       *spawn.Report // how the supervisor got on before it was executed
	signals    chan os.Signal
	service    service
	speaker    *speaker // nil where service.Notify is ""

	mu      sync.Mutex
	running bool // the command has been executed
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
	shared, _, err := spawn.NewReport() // and kept
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
	plan := &spawn.Plan{
		Netns: -1, Keep: []spawn.Kept{{FD: pair[1], At: control}}, Null: null, Reserve: reserve, Parent: os.Getpid(),
		Blocked: signalMask(passedSignals()), Report: shared,
	}
	speaker := 0
	if notices >= 0 {
		speaker = openfile.UnusedNumber(control+1, taken)
		plan.Keep = append(plan.Keep, spawn.Kept{FD: notices, At: speaker})
	}
	argv := append([]string{"upconv", superviseArg, strconv.Itoa(control)}, cfg.Args...)
	if err := plan.Command([]string{"/proc/self/exe"}, argv, environ); err != nil {
		return err
	}
	f.born, f.plan = shared, plan
	if f.supervisor, err = plan.Fork(); err != nil {
		return err
	}
	f.catch() // before the command can run; and while the supervisor gets started
	plain := *cfg
	plain.Args = nil // went along as arguments, which have no limit but the kernel's
	return f.say.Encode(order{plain, files, denied, started, os.Getpid(), inherited, reserve, f.service, speaker})
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
			if f.born.Errno != 0 {
				return ExitFailed, failed(fmt.Errorf("start the supervisor: %w", spawn.RefusedStep(f.born.Step, f.born.StepError(f.plan))))
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
