package upconv

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/birth"
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
		p.node.LookNow() // the command has it too, or will
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

// kill sends the command a signal unless it has been reaped.
func (p *process) kill(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		unix.Kill(p.command, sig)
	}
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
