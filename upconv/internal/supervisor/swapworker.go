package supervisor

import (
	"time"

	"github.com/upconv/upconv/upconv/internal/companion"
	"github.com/upconv/upconv/upconv/internal/crossing"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
)

// Worker is a worker as far as swaps go.
type swapWorker struct {
	crossing.Worker
	s         *swapSession
	lastLook  *lastLook // nil: not needed yet
	info      setInfo
	sets      []setCopy // of the target's that its socket is in
	witnesses int       // an epoll set of its own, see witness; -1: none

	tagged time.Duration // when it was last looked whether there are many net_cls cgroups; 0: never
	tags   bool          // there are
}

// Session is a session as far as swaps go.
type swapSession struct {
	crossing.Session
	epolls     epolls
	companions companion.Set
	moving     movingSockets
	asked      portSet // those that a program has ever asked bind(2) for
}

func (w *swapWorker) Init(s *swapSession, home *netns.Egress) {
	w.s, w.witnesses = s, -1
	w.Worker.Init(&s.Session, home)
}

// Enter takes the thread to where workers live, and makes what it needs there.
func (w *swapWorker) Enter() error {
	if err := w.Worker.Enter(); err != nil {
		return err
	}
	w.newWitnesses()
	return nil
}

func (w *swapWorker) Close() {
	w.Worker.Close()
	w.info.close()
	if w.witnesses >= 0 {
		linux.Close(w.witnesses)
	}
}
