package upconv

import (
	"encoding/gob"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/doctor"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/internal/supervisor"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// SupervisorMain is the life of the supervisor's process. It does not return. It must be called by
// the main goroutine, which an init function of the program must have locked to the main thread.
func SupervisorMain() {
	// The command dies with the thread that cloned it, and this process with the front one as long
	// as its main thread says so (PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		fmt.Fprintln(os.Stderr, "upconv: the supervisor is not in its main thread: call runtime.LockOSThread in an init function")
		os.Exit(ExitFailed)
	}
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fmt.Fprintf(os.Stderr, "upconv: %s is not for use by hand\n", superviseArg)
		os.Exit(ExitFailed)
	}
	unix.CloseOnExec(fd)
	runtime.GOMAXPROCS(supervisor.FirstWorkers)
	nameThreads(supervisorName)
	control := os.NewFile(uintptr(fd), "front")
	p := &process{control: control, controlFD: fd, say: gob.NewEncoder(control), hear: gob.NewDecoder(control), deserted: make(chan struct{})}
	if err = p.hear.Decode(&p.order); err == nil {
		if p.order.Speaker > 0 {
			unix.CloseOnExec(p.order.Speaker)
		}
		openfile.Free.Adopt(p.order.Reserved, p.order.Inherited)
		p.order.Config.Args = os.Args[3:]
		err = p.start()
	}
	if err != nil {
		if p.canary != nil {
			p.canary.close()
		}
		p.relay.remove()
		p.say.Encode(report{Failed: err.Error(), Status: statusOf(err)})
		os.Exit(ExitFailed)
	}
	p.wait()
}

// process is the supervisor's process.
type process struct {
	order     order
	control   *os.File
	controlFD int // its number
	say       *gob.Encoder
	hear      *gob.Decoder

	log      *slog.Logger
	node     *supervisor.Node
	plan     *supervisor.Plan
	session  *supervisor.Session
	events   *event.Log // nil: nobody wants them
	listener *seccompx.Listener
	deserted chan struct{} // closed when nobody is left under the filter
	command  int           // its pid
	relay    *relay        // nil where the command has nothing to tell systemd

	mu     sync.Mutex
	reaped bool // the command's pid means nothing any more
	canary *canary
	group  []groupSignal // signals to the group that the front process has not told of yet

	hangups chan struct{} // says that the policy file is to be read again

	passed [32]time.Time // when the command was last passed each signal; for sentToAll

	groupStopped   time.Time // when the group was last sent a stop signal
	commandStopped atomic.Bool
	stops          atomic.Int32 // of the command that the front process has been told of and has not been continued from
	rousing        sync.Mutex
	swallow        atomic.Int32 // SIGCONTs to the front process that are this process's own
}

// start gets everything ready, starts the command, and returns when it has been executed.
func (p *process) start() error {
	cfg := &p.order.Config
	var err error
	p.log, err = NewLogger(cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return failed(err)
	}
	decided := policy.Compile(cfg.Rules, cfg.Via) // Run has checked the rules
	// This process is in the caller's process group, and is not what signals to that mean. It was
	// started with all of them blocked; these are the ones that the Go runtime does not leave
	// blocked.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM, unix.SIGSTKFLT)
	if p.canary, err = startCanary(signalMask(passedSignals())); err != nil {
		return failed(err)
	}
	mappings, err := nat64.NewMappings(cfg.Mappings)
	if err != nil {
		return failed(err)
	}
	if p.node, err = supervisor.NewNode(p.log); err != nil {
		return failed(err)
	}
	if p.plan, err = supervisor.NewPlan(decided, mappings, cfg.UDP, cfg.SwapAt); err != nil {
		return failed(doctor.ExplainEntry(err))
	}
	var events *os.File
	switch cfg.Events {
	case "":
	case "-":
		events = os.Stderr
	default:
		if events, err = openEvents(cfg.Events); err != nil {
			return failed(fmt.Errorf("events: %w", err))
		}
	}
	if needsAncestry() {
		// Yama lets upconv look into its descendants only; orphans must stay that.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return failed(os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err))
		}
	}
	return p.launch(events)
}

// openEvents opens the file that events are appended to. A FIFO needs no reader to be opened.
func openEvents(path string) (*os.File, error) {
	flags := os.O_WRONLY
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		flags = os.O_RDWR
	}
	return os.OpenFile(path, flags|os.O_APPEND|os.O_CREATE, 0o666)
}

// wait serves until the command ends, says so, and goes on until nobody is left under the filter.
func (p *process) wait() {
	status, sig := p.reap()
	p.relay.end()
	p.events.Flush(5 * time.Second)

	// The kernel is asked, not the workers: on a busy machine those may take their time. What it
	// does not know within lastGasp is that descendants live on, for which the caller does not
	// wait.
	listener := []unix.PollFd{{Fd: int32(p.listener.FD())}}
	for deadline := time.Now().Add(lastGasp); ; {
		_, err := unix.Poll(listener, int(max(0, time.Until(deadline)).Milliseconds()))
		if err != unix.EINTR {
			break
		}
	}
	last := listener[0].Revents != 0 // POLLHUP: seccomp_unotify(2)
	if last {
		select {
		case <-p.deserted:
		case <-time.After(time.Second): // the caller does not wait for a busy one either
			last = false
		}
	}
	p.canary.close()
	if last {
		p.relay.remove()
	}
	p.say.Encode(report{Ended: true, Status: status, Signal: sig, Last: last})
	if !last {
		p.detach()
		go reapAll(func(int) {})
		<-p.deserted
		p.relay.remove()
		p.events.Flush(5 * time.Second)
	}
	os.Exit(0)
}

// lastGasp is how long the kernel may take to tell that the command was the last under the filter.
const lastGasp = 20 * time.Millisecond

// detach leaves the caller's session and lets go of its standard error, unless events go there.
func (p *process) detach() {
	unix.Setsid()
	if p.order.Config.Events != "-" {
		nullify(2)
	}
}

// needsAncestry reports whether upconv may look only into its own descendants: Yama's ptrace_scope
// is 1 or more and there is no CAP_SYS_PTRACE.
func needsAncestry() bool {
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	return err == nil && len(scope) > 0 && scope[0] != '0' && !linux.HasCapability(unix.CAP_SYS_PTRACE)
}
