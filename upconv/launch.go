package upconv

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/event"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/openfile"
)

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
