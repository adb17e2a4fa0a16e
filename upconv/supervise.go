package upconv

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/openfile"
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
	runtime.GOMAXPROCS(firstWorkers)
	nameThreads(supervisorName)
	control := os.NewFile(uintptr(fd), "front")
	p := &process{control: control, controlFD: fd, say: gob.NewEncoder(control), hear: gob.NewDecoder(control)}
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

	node    *node
	plan    *plan
	session *session
	command int    // its pid
	relay   *relay // nil where the command has nothing to tell systemd

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
	log, err := NewLogger(cfg.LogLevel, cfg.LogFormat)
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
	if p.node, err = newNode(log); err != nil {
		return failed(err)
	}
	if p.plan, err = newPlan(decided, mappings, cfg.UDP, cfg.SwapAt); err != nil {
		return failed(err)
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

// launch starts the command under the filter. It is executed when everything else is in place.
func (p *process) launch(events *os.File) (err error) {
	cfg := &p.order.Config
	if p.plan.missesDatagrams() {
		p.node.log.Warn("without CAP_SYS_ADMIN only TCP sockets are made in the egress at socket(2): what is sent through a datagram socket without connect(2) stays in the program's namespace")
	}
	filter := filter(p.plan.needs)
	program, err := filter.Assemble()
	if err != nil {
		return failed(err)
	}
	environ, err := rawEnviron()
	if err != nil {
		return failed(err)
	}
	shared, unmap, err := newForkReport()
	if err != nil {
		return failed(err)
	}
	defer unmap()
	shared.inet6, shared.partner, shared.partner6 = -1, -1, -1

	var ready, goOn [2]int
	for _, ends := range []*[2]int{&ready, &goOn} {
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return failed(os.NewSyscallError("pipe2", err))
		}
	}
	privileged := linux.HasCapability(unix.CAP_SYS_ADMIN)
	plan := &forkPlan{
		netns: -1, cloneFlags: unix.CLONE_FILES, supervised: true, parent: os.Getpid(),
		noNewPrivs: !privileged,
		filter:     &unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))},
		flags:      seccompx.FlagNewListener | seccompx.FlagWaitKillableRecv,
		ready:      ready[1], goOn: goOn[0], report: shared,
	}
	plan.inherit(&p.order.Birth)
	plan.denied = p.order.Denied
	plan.notifies = p.order.Service.Notify != ""
	plan.blanks = blanks(environ, p.order.Front, plan.notifies)
	if err := plan.command(p.order.Files, cfg.Args, environ); err != nil {
		return &Error{ExitCannot, fmt.Errorf("%s: cannot execute: %w", cfg.Args[0], err)}
	}
	switch {
	case cfg.Isolate:
		plan.loopback = true
		plan.cloneFlags |= unix.CLONE_NEWNET
		if !privileged {
			plan.partners = true
			uid, gid := os.Geteuid(), os.Getegid()
			plan.cloneFlags |= unix.CLONE_NEWUSER
			plan.uidMap = fmt.Appendf(nil, "%d %d 1\n", uid, uid)
			plan.gidMap = fmt.Appendf(nil, "%d %d 1\n", gid, gid)
		}
	case cfg.Netns != "":
		ns, err := netns.Open(cfg.Netns)
		if err != nil {
			return failed(err)
		}
		defer ns.Close()
		if here, err := nsdial.OpenCurrent(); err != nil {
			return failed(err)
		} else {
			if !ns.Is(here) {
				plan.netns = ns.FD()
			}
			here.Close()
		}
	}

	if p.command, err = plan.fork(); err != nil {
		if plan.cloneFlags&unix.CLONE_NEWUSER != 0 {
			err = fmt.Errorf("--isolate: a new user namespace: %w", explainUserNamespace(err))
		}
		return failed(err)
	}
	defer func() {
		if err != nil { // nothing may be left running
			unix.Kill(p.command, unix.SIGKILL)
			unix.Wait4(p.command, nil, 0, nil)
		}
	}()

	// The child shares this process's descriptors until it goes on, so a pipe cannot tell of its
	// death.
	pidfd, err := unix.PidfdOpen(p.command, 0)
	if err != nil {
		if missing := Requirements(); missing != nil {
			return failed(missing)
		}
		return failed(os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(pidfd)
	if !await(ready[0], pidfd) {
		return failed(explain(shared, plan))
	}
	notify := ""
	if plan.notifies {
		if p.relay, err = p.newRelay(int(shared.notify)); err != nil {
			return failed(err)
		}
		notify = p.relay.address
	}
	plan.fillBlanks(p.command, notify)
	listener, err := seccompx.NewListener(int(shared.listener))
	if err != nil {
		return failed(err)
	}
	// Everything else that the kernel must be able to do, tried on what is there.
	if missing := p.lacking(listener); missing != nil {
		return failed(missing)
	}
	if err := listener.SetSyncWakeUp(); err != nil {
		p.node.log.Debug("each stopped call takes some microseconds longer", "error", err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.command), &stat); err != nil {
		return failed(fmt.Errorf("the command's network namespace: %w", err))
	}
	origin, err := netns.NewOrigin(netns.OriginSockets{
		Inet: int(shared.inet), Inet6: int(shared.inet6), Netlink: int(shared.netlink), Partner: int(shared.partner), Partner6: int(shared.partner6),
	}, stat.Ino)
	if err != nil {
		return failed(err)
	}
	origin.Closed = cfg.Isolate && !privileged
	if p.plan.needs.crosses() || p.plan.needs.atSocket() {
		if err := origin.Open(p.command); err != nil {
			return failed(err)
		}
	}
	with := sessionParts{listener: listener, origin: origin, discover: origin.Discoverer(cfg.Netns, p.command)}
	if events != nil {
		with.events = event.NewLog(events, stat.Ino, func(err error) { p.node.log.Warn("events are lost", "error", err) })
	}
	s := p.node.newSession(p.plan, with)
	p.session = s
	s.noteInherited(p.order.Inherited)
	go func() {
		if err := s.wait(); err != nil {
			p.node.log.Error("the supervisor cannot go on", "error", err)
			os.Exit(ExitFailed) // without it the command is killed
		}
	}()
	if err := s.start(); err != nil {
		return failed(explainEntry(err))
	}

	// From here on signals are for the command, also while it is being executed.
	p.say.Encode(report{Started: true})
	p.hangups = make(chan struct{}, 1)
	go p.reloads()
	heard := make(chan struct{})
	go p.listen(heard)
	<-heard
	// Nor does the supervisor die with the front process any more: listen ends the command, and its
	// descendants are served.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return failed(os.NewSyscallError("prctl PR_SET_PDEATHSIG", err))
	}

	// Go. The second byte says that the child has descriptors of its own; after it, its end of the
	// pipe closes when the command is executed.
	unix.Write(goOn[1], []byte{0})
	alive := await(ready[0], pidfd)
	unix.Close(ready[1])
	unix.Close(goOn[0])
	unix.Close(goOn[1])
	if alive {
		await(ready[0], pidfd)
	}
	unix.Close(ready[0])
	if shared.errno != 0 && shared.step == stepExec {
		path := p.order.Files[0]
		return cannotExecute(path, &os.PathError{Op: "exec", Path: path, Err: unix.Errno(shared.errno)})
	}
	if shared.errno != 0 {
		return failed(explain(shared, plan))
	}
	if s.needs.sees {
		time.AfterFunc(settleSights, s.openSights)
	}
	openfile.Free.Keep(p.order.Reserved, p.order.Inherited)
	nullify(0, 1)
	return nil
}

// await reads one byte from a pipe. It reports false where there is none: the pipe has ended, or
// its writer, whose pidfd is given, has.
func await(pipe, pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return false
		}
		if fds[0].Revents&unix.POLLIN != 0 {
			n, err := unix.Read(pipe, make([]byte, 1))
			return n == 1 && err == nil
		}
		if fds[0].Revents|fds[1].Revents != 0 {
			return false
		}
	}
}

// explain says why a child did not get as far as it should have.
func explain(r *forkReport, plan *forkPlan) error {
	if r.errno == 0 {
		return errors.New("the command's process was killed before it could start")
	}
	err := r.stepError(plan)
	switch {
	case r.step == stepFilter && (errors.Is(err, seccompx.ErrNotSupported) || errors.Is(err, unix.EPERM)):
		// Which feature is it?
		if missing := Requirements(); missing != nil {
			return missing
		}
	case r.step == stepNetns && linux.HasCapability(unix.CAP_SYS_ADMIN):
		return explainEntry(err)
	case r.step == stepNetns && isRefusal(err):
		return fmt.Errorf("%w (needs CAP_SYS_ADMIN: run upconv as root, or use --isolate)", err)
	}
	return refusedStep(r.step, err)
}

// lacking returns an error that names what this kernel, or a filter around upconv, does not let
// upconv do.
func (p *process) lacking(listener *seccompx.Listener) error {
	_, err := listener.AddFD(0, seccompx.AddFD{Source: 2})
	fd, errno := p.node.targets.Getfd(os.Getpid(), p.controlFD)
	if errno == 0 {
		linux.Close(fd)
	}
	memory := seccompx.ReadMemory.Probe() == nil && seccompx.WriteMemory.Probe() == nil
	if errors.Is(err, seccompx.ErrTargetGone) && errno == 0 && memory {
		return nil // there is no notification 0
	}
	if missing := Requirements(); missing != nil {
		return missing
	}
	if errno != 0 {
		return fmt.Errorf("pidfd_getfd(2), which upconv needs: %w", errno)
	}
	return fmt.Errorf("SECCOMP_IOCTL_NOTIF_ADDFD, which upconv needs: %w", err)
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
	s := p.session
	status, sig := p.reap()
	p.relay.end()
	s.events.Flush(5 * time.Second)

	// The kernel is asked, not the workers: on a busy machine those may take their time. What it
	// does not know within lastGasp is that descendants live on, for which the caller does not
	// wait.
	listener := []unix.PollFd{{Fd: int32(s.listener.FD())}}
	for deadline := time.Now().Add(lastGasp); ; {
		_, err := unix.Poll(listener, int(max(0, time.Until(deadline)).Milliseconds()))
		if err != unix.EINTR {
			break
		}
	}
	last := listener[0].Revents != 0 // POLLHUP: seccomp_unotify(2)
	gone := make(chan struct{})
	go func() { s.all.Wait(); close(gone) }()
	if last {
		select {
		case <-gone:
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
		<-gone
		p.relay.remove()
		s.events.Flush(5 * time.Second)
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

// reap waits for the command and returns its exit status, and the signal that ended it or 0. It
// tells the front process when the command stops.
func (p *process) reap() (status, sig int) {
	for {
		var info siginfo
		// WNOWAIT: as long as the command is not reaped, its pid cannot become another process's.
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED|unix.WNOWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return ExitFailed, 0 // ECHILD: cannot be, the command is a child
		}
		if int(info.pid) == p.canary.pid && info.code == cldStopped {
			consume(p.canary.pid, unix.WSTOPPED)
			p.node.held.LookNow() // the command is to stop as well
			p.canary.wake()
			continue
		}
		if int(info.pid) != p.command { // an orphan; or a thread, as below
			consume(int(info.pid), unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED)
			continue
		}
		switch info.code {
		case cldTrapped: // which this process is about to let go again, see nudge
			consume(p.command, unix.WSTOPPED)
		case cldStopped:
			consume(p.command, unix.WSTOPPED)
			p.absorb()
			p.commandStopped.Store(true)
			p.stops.Add(1)
			p.say.Encode(report{Stopped: int(info.status)})
		case cldContinued:
			consume(p.command, unix.WCONTINUED)
			p.absorb()
			p.commandStopped.Store(false)
			go p.rouse() // it may have been the command alone that somebody has continued
		default:
			p.mu.Lock()
			p.reaped = true
			unix.Wait4(p.command, nil, 0, nil)
			p.mu.Unlock()
			p.commandStopped.Store(false)
			p.rouse() // it has died from being stopped
			if info.code == cldExited {
				return int(info.status), 0
			}
			return ExitSignal + int(info.status), int(info.status)
		}
	}
}

// rouse continues the front process if it has stopped, or is about to, because the command had,
// which is not stopped any more.
func (p *process) rouse() {
	p.rousing.Lock()
	defer p.rousing.Unlock()
	for p.stops.Load() > 0 && !p.commandStopped.Load() {
		if isStopped(p.order.Front) {
			p.swallow.Add(1)
			unix.Kill(p.order.Front, unix.SIGCONT)
		}
		time.Sleep(rousePause)
	}
}

// rousePause is how long the front process may take to stop.
const rousePause = 5 * time.Millisecond

// consume takes what waitid(2) has told of a child with WNOWAIT, if it is one of options and still
// so. wait4(2) would take its death too, should it have been continued and have died since.
func consume(pid, options int) {
	unix.Waitid(unix.P_PID, pid, nil, options|unix.WNOHANG, nil)
}

// siginfo is siginfo_t of a child, sigaction(2), on 64-bit Linux.
type siginfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

// si_code of SIGCHLD, sigaction(2).
const (
	cldExited = 1 + iota
	cldKilled
	cldDumped
	cldTrapped
	cldStopped
	cldContinued
)

// listen passes signals to the command. If the front process dies, so does the command.
//
// heard is closed when the front process has taken notice that signals are for the command, or is
// dead.
func (p *process) listen(heard chan<- struct{}) {
	var once sync.Once
	defer once.Do(func() { close(heard) })
	for {
		var m passed
		if err := p.hear.Decode(&m); err != nil {
			p.stops.Store(0)
			p.kill(unix.SIGKILL)
			return
		}
		if m.Resumed {
			p.stops.Add(-1)
			continue
		}
		if m.Signal == 0 {
			once.Do(func() { close(heard) })
			continue
		}
		p.node.held.LookNow() // the command has it too, or will
		sig := unix.Signal(m.Signal)
		if sig == unix.SIGCONT && p.swallowed() {
			continue
		}
		if p.sentToAll(sig) {
			continue
		}
		if sig == unix.SIGHUP && p.order.Config.File != "" {
			select {
			case p.hangups <- struct{}{}:
			default: // one is to be taken up yet
			}
			continue
		}
		p.kill(sig)
	}
}

// swallowed reports whether a SIGCONT that the front process tells of may be this process's own.
func (p *process) swallowed() bool {
	for n := p.swallow.Load(); n > 0; n = p.swallow.Load() {
		if p.swallow.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// kill sends the command a signal unless it has been reaped.
func (p *process) kill(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		unix.Kill(p.command, sig)
	}
}

// groupSignal is a signal that the process group was sent.
type groupSignal struct {
	sig  unix.Signal
	seen time.Time
}

// groupMemory is how long a signal to the group is taken for the twin of one to the front process.
const groupMemory = time.Second

// absorb asks the canary what the group was sent.
func (p *process) absorb() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	seen, err := p.canary.heard()
	if err != nil {
		return
	}
	for i, n := range seen {
		sig := unix.Signal(i + 1)
		for range n {
			p.group = append(p.group, groupSignal{sig, now})
		}
		if n > 0 && stopsGroup(sig) {
			p.groupStopped = now
		}
	}
}

// toTheGroup reports whether a signal that the front process got went to the whole process group,
// as from a terminal or from kill(2) with a negative pid. The kernel sends to the youngest process
// of a group first, so the canary has had it before the front process, and the command has had it
// too.
func (p *process) toTheGroup(sig unix.Signal) bool {
	p.absorb()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	found := false
	kept := p.group[:0]
	for _, g := range p.group {
		if !found && g.sig == sig {
			found = true
		} else if now.Sub(g.seen) < groupMemory {
			kept = append(kept, g)
		}
	}
	p.group = kept
	if stopsGroup(sig) && p.commandStopped.Load() {
		found = true // a terminal may send several, of which the canary sees one
	}
	if sig == unix.SIGCONT && now.Sub(p.groupStopped) < stopMemory {
		found = true // from before the stop, which has taken it away from the canary
	}
	return found
}

// isStopped reports whether a process is stopped by a signal: proc_pid_stat(5).
func isStopped(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(rest, []byte("T"))
}

// stopMemory is how long after a stop signal to the group a SIGCONT is taken for one from before
// it.
const stopMemory = 100 * time.Millisecond

// stopsGroup reports whether a signal is one that a terminal driver sends to stop a process group.
func stopsGroup(sig unix.Signal) bool {
	return sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU
}

// signalMask has bit N-1 set for each signal N.
func signalMask(signals []unix.Signal) (mask uint64) {
	for _, sig := range signals {
		mask |= 1 << (sig - 1)
	}
	return mask
}

// sigset turns a mask, bit N-1 for signal N, into what signalfd(2) takes.
func sigset(mask uint64) *unix.Sigset_t {
	return &unix.Sigset_t{Val: [16]uint64{mask}}
}

// NewLogger returns the logger of upconv's own messages, on standard error. level is debug, info,
// warn or error, "" for warn; format is text or json, "" for text.
func NewLogger(level, format string) (*slog.Logger, error) {
	var min slog.Level
	switch level {
	case "":
		min = slog.LevelWarn
	case "debug", "info", "warn", "error":
		min.UnmarshalText([]byte(level))
	default:
		return nil, fmt.Errorf("log level %q: not one of debug, info, warn, error", level)
	}
	options := &slog.HandlerOptions{Level: min}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("log format %q: not one of text, json", format)
}

// needsAncestry reports whether upconv may look only into its own descendants: Yama's ptrace_scope
// is 1 or more and there is no CAP_SYS_PTRACE.
func needsAncestry() bool {
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	return err == nil && len(scope) > 0 && scope[0] != '0' && !linux.HasCapability(unix.CAP_SYS_PTRACE)
}
