package upconv

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/doctor"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/internal/spawn"
	"github.com/upconv/upconv/upconv/internal/supervisor"
)

// launching is a command that is being started: what is needed until it is executed.
type launching struct {
	plan   *spawn.Plan
	report *spawn.Report
	unmap  func() // releases report
	place  *nsdial.Namespace
	pidfd  int // of the child; -1 before there is one

	// Pipes: the child tells how far it is, and is told to go on.
	ready, goOn [2]int
}

// close releases what only the launch needs. The pipes are closed by release; where the launch
// fails, they end with this process.
func (l *launching) close() {
	if l.unmap != nil {
		l.unmap()
	}
	if l.place != nil {
		l.place.Close()
	}
	if l.pidfd >= 0 {
		unix.Close(l.pidfd)
	}
}

// launch starts the command under the filter. It is executed when everything else is in place.
func (p *process) launch(events *os.File) (err error) {
	if p.plan.MissesDatagrams() {
		p.log.Warn("without CAP_SYS_ADMIN only TCP sockets are made in the egress at socket(2): what is sent through a datagram socket without connect(2) stays in the program's namespace")
	}
	l := &launching{pidfd: -1}
	defer l.close()
	if err := p.planFork(l); err != nil {
		return err
	}
	if p.command, err = l.plan.Fork(); err != nil {
		if l.plan.CloneFlags&unix.CLONE_NEWUSER != 0 {
			err = fmt.Errorf("--isolate: a new user namespace: %w", doctor.ExplainUserNamespace(err))
		}
		return failed(err)
	}
	defer func() {
		if err != nil { // nothing may be left running
			unix.Kill(p.command, unix.SIGKILL)
			unix.Wait4(p.command, nil, 0, nil)
		}
	}()
	if err := p.awaitFilter(l); err != nil {
		return failed(err)
	}
	if err := p.fillEnvironment(l); err != nil {
		return failed(err)
	}
	listener, err := p.takeListener(l.report)
	if err != nil {
		return failed(err)
	}
	origin, err := p.takeOrigin(l)
	if err != nil {
		return failed(err)
	}
	if err := p.startSession(listener, origin, events); err != nil {
		return failed(doctor.ExplainEntry(err))
	}
	if err := p.takeSignals(); err != nil {
		return failed(err)
	}
	if err := p.release(l); err != nil {
		return err
	}
	p.session.GetReady()
	openfile.Free.Keep(p.order.Reserved, p.order.Inherited)
	nullify(0, 1)
	return nil
}

// planFork gets ready all that the child needs: it cannot allocate.
func (p *process) planFork(l *launching) error {
	filter := p.plan.Filter()
	program, err := filter.Assemble()
	if err != nil {
		return failed(err)
	}
	environ, err := rawEnviron()
	if err != nil {
		return failed(err)
	}
	if l.report, l.unmap, err = spawn.NewReport(); err != nil {
		return failed(err)
	}
	l.report.Inet6, l.report.Partner, l.report.Partner6 = -1, -1, -1
	for _, ends := range []*[2]int{&l.ready, &l.goOn} {
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return failed(os.NewSyscallError("pipe2", err))
		}
	}
	l.plan = &spawn.Plan{
		Netns: -1, CloneFlags: unix.CLONE_FILES, Supervised: true, Parent: os.Getpid(),
		NoNewPrivs: !linux.HasCapability(unix.CAP_SYS_ADMIN),
		Filter:     &unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))},
		Flags:      seccompx.FlagNewListener | seccompx.FlagWaitKillableRecv,
		Ready:      l.ready[1], GoOn: l.goOn[0], Report: l.report,
	}
	l.plan.Inherit(&p.order.Birth)
	l.plan.Denied = p.order.Denied
	l.plan.Notifies = p.order.Service.Notify != ""
	l.plan.Blanks = spawn.Blanks(environ, p.order.Front, l.plan.Notifies)
	args := p.order.Config.Args
	if err := l.plan.Command(p.order.Files, args, environ); err != nil {
		return &Error{ExitCannot, fmt.Errorf("%s: cannot execute: %w", args[0], err)}
	}
	if err := p.planNamespace(l); err != nil {
		return failed(err)
	}
	return nil
}

// planNamespace has the child make or enter the network namespace that the user wants it in.
func (p *process) planNamespace(l *launching) (err error) {
	cfg, plan := &p.order.Config, l.plan
	switch {
	case cfg.Isolate:
		plan.Loopback = true
		plan.CloneFlags |= unix.CLONE_NEWNET
		if !linux.HasCapability(unix.CAP_SYS_ADMIN) {
			plan.Partners = true
			uid, gid := os.Geteuid(), os.Getegid()
			plan.CloneFlags |= unix.CLONE_NEWUSER
			plan.UIDMap = fmt.Appendf(nil, "%d %d 1\n", uid, uid)
			plan.GIDMap = fmt.Appendf(nil, "%d %d 1\n", gid, gid)
		}
	case cfg.Netns != "":
		if l.place, err = netns.Open(cfg.Netns); err != nil {
			return err
		}
		here, err := nsdial.OpenCurrent()
		if err != nil {
			return err
		}
		defer here.Close()
		if !l.place.Is(here) {
			plan.Netns = l.place.FD()
		}
	}
	return nil
}

// awaitFilter waits until the child is under the filter and has made its sockets.
func (p *process) awaitFilter(l *launching) error {
	// The child shares this process's descriptors until it goes on, so a pipe cannot tell of its
	// death.
	pidfd, err := unix.PidfdOpen(p.command, 0)
	if err != nil {
		if missing := doctor.Requirements(); missing != nil {
			return missing
		}
		return os.NewSyscallError("pidfd_open", err)
	}
	l.pidfd = pidfd
	if !await(l.ready[0], l.pidfd) {
		return explain(l.report, l.plan)
	}
	return nil
}

// fillEnvironment writes the variables of the command's environment that name its process, or the
// socket that it tells systemd on.
func (p *process) fillEnvironment(l *launching) (err error) {
	notify := ""
	if l.plan.Notifies {
		if p.relay, err = p.newRelay(int(l.report.Notify)); err != nil {
			return err
		}
		notify = p.relay.address
	}
	l.plan.FillBlanks(p.command, notify)
	return nil
}

// takeListener takes the listener that the child has made.
func (p *process) takeListener(r *spawn.Report) (*seccompx.Listener, error) {
	listener, err := seccompx.NewListener(int(r.Listener))
	if err != nil {
		return nil, err
	}
	// Everything else that the kernel must be able to do, tried on what is there.
	if missing := p.lacking(listener); missing != nil {
		return nil, missing
	}
	if err := listener.SetSyncWakeUp(); err != nil {
		p.log.Debug("each stopped call takes some microseconds longer", "error", err)
	}
	return listener, nil
}

// takeOrigin takes the sockets that the child has made in its network namespace.
func (p *process) takeOrigin(l *launching) (*netns.Origin, error) {
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.command), &stat); err != nil {
		return nil, fmt.Errorf("the command's network namespace: %w", err)
	}
	r := l.report
	origin, err := netns.NewOrigin(netns.OriginSockets{
		Inet: int(r.Inet), Inet6: int(r.Inet6), Netlink: int(r.Netlink), Partner: int(r.Partner), Partner6: int(r.Partner6),
	}, stat.Ino)
	if err != nil {
		return nil, err
	}
	origin.Closed = l.plan.Partners
	if p.plan.EntersOrigin() {
		if err := origin.Open(p.command); err != nil {
			return nil, err
		}
	}
	return origin, nil
}

// startSession has the listener's calls be answered from now on. events is nil if nobody wants
// them.
func (p *process) startSession(listener *seccompx.Listener, origin *netns.Origin, events *os.File) error {
	with := supervisor.Parts{Listener: listener, Origin: origin, Discover: origin.Discoverer(p.order.Config.Netns, p.command)}
	if events != nil {
		p.events = event.NewLog(events, origin.Inode, func(err error) { p.log.Warn("events are lost", "error", err) })
	}
	with.Events = p.events
	s := p.node.NewSession(p.plan, with)
	p.listener = listener
	p.session = s
	s.NoteInherited(p.order.Inherited)
	go func() {
		err := s.Wait()
		if err != nil {
			p.log.Error("the supervisor cannot go on", "error", err)
			os.Exit(ExitFailed) // without it the command is killed
		}
		close(p.deserted)
	}()
	if err := s.Start(); err != nil {
		return err
	}
	haveThreads(supervisorThreads)
	return nil
}

// takeSignals tells the front process that signals are for the command from here on, also while it
// is being executed, and returns when that is so.
func (p *process) takeSignals() error {
	p.say.Encode(report{Started: true})
	p.hangups = make(chan struct{}, 1)
	go p.reloads()
	heard := make(chan struct{})
	go p.listen(heard)
	<-heard
	// Nor does the supervisor die with the front process any more: listen ends the command, and its
	// descendants are served.
	return os.NewSyscallError("prctl PR_SET_PDEATHSIG", unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0))
}

// release lets the child go, and returns when it has been executed.
func (p *process) release(l *launching) error {
	// The second byte says that the child has descriptors of its own; after it, its end of the pipe
	// closes when the command is executed.
	unix.Write(l.goOn[1], []byte{0})
	alive := await(l.ready[0], l.pidfd)
	unix.Close(l.ready[1])
	unix.Close(l.goOn[0])
	unix.Close(l.goOn[1])
	if alive {
		await(l.ready[0], l.pidfd)
	}
	unix.Close(l.ready[0])
	switch {
	case l.report.Errno == 0:
		return nil
	case l.report.Step == spawn.StepExec:
		path := p.order.Files[0]
		return cannotExecute(path, &os.PathError{Op: "exec", Path: path, Err: unix.Errno(l.report.Errno)})
	}
	return failed(explain(l.report, l.plan))
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
func explain(r *spawn.Report, plan *spawn.Plan) error {
	if r.Errno == 0 {
		return errors.New("the command's process was killed before it could start")
	}
	err := r.StepError(plan)
	switch {
	case r.Step == spawn.StepFilter && (errors.Is(err, seccompx.ErrNotSupported) || errors.Is(err, unix.EPERM)):
		// Which feature is it?
		if missing := doctor.Requirements(); missing != nil {
			return missing
		}
	case r.Step == spawn.StepNetns && linux.HasCapability(unix.CAP_SYS_ADMIN):
		return doctor.ExplainEntry(err)
	case r.Step == spawn.StepNetns && doctor.IsRefusal(err):
		return fmt.Errorf("%w (needs CAP_SYS_ADMIN: run upconv as root, or use --isolate)", err)
	}
	return spawn.RefusedStep(r.Step, err)
}

// fetchOwn tries pidfd_getfd(2) with a descriptor of this process.
func fetchOwn(fd int) error {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	copied, err := unix.PidfdGetfd(self, fd, 0)
	if err == nil {
		unix.Close(copied)
	}
	return err
}

// lacking returns an error that names what this kernel, or a filter around upconv, does not let
// upconv do.
func (p *process) lacking(listener *seccompx.Listener) error {
	_, err := listener.AddFD(0, seccompx.AddFD{Source: 2})
	fetched := fetchOwn(p.controlFD)
	memory := seccompx.ReadMemory.Probe() == nil && seccompx.WriteMemory.Probe() == nil
	if errors.Is(err, seccompx.ErrTargetGone) && fetched == nil && memory {
		return nil // there is no notification 0
	}
	if missing := doctor.Requirements(); missing != nil {
		return missing
	}
	if fetched != nil {
		return fmt.Errorf("pidfd_getfd(2), which upconv needs: %w", fetched)
	}
	return fmt.Errorf("SECCOMP_IOCTL_NOTIF_ADDFD, which upconv needs: %w", err)
}
