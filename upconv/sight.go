package upconv

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/peek"
)

// Where upconv has the privilege, it looks at a descriptor in the kernel itself, with one call for what otherwise takes
// twenty. Without it the same is found out by system calls, but for what none of them tells.

// sights is what is needed for looking.
type sights struct {
	peeker *peek.Peeker
	fresh4 [peek.MaxSignature]byte // of an AF_INET TCP socket of the origin that nobody has touched
	fresh6 [peek.MaxSignature]byte // of an AF_INET6 one
}

// opening is the program on its way to being loaded, which takes some milliseconds: meanwhile the command is got ready.
type opening chan opened

type opened struct {
	peeker *peek.Peeker
	err    error
}

func openPeeker() opening {
	o := make(opening, 1)
	go func() {
		peeker, err := peek.Open()
		o <- opened{peeker, err}
	}()
	return o
}

// learnSights gets ready to look.
func (s *Supervisor) learnSights(peeker *peek.Peeker) {
	all := &sights{peeker: peeker}
	for domain, fresh := range map[int]*[peek.MaxSignature]byte{unix.AF_INET: &all.fresh4, unix.AF_INET6: &all.fresh6} {
		var sight peek.Sight
		if fd, ok := s.origin.seed(domain); ok && peeker.Look(s.pid, fd, &sight) == 0 {
			*fresh = sight.Signature
		}
	}
	if all.fresh4 == [peek.MaxSignature]byte{} {
		peeker.Close()
		return
	}
	s.sights.Store(all)
}

// see looks at the target's descriptor. It reports whether it could.
func (w *worker) see(c *call) bool {
	all := w.s.sights.Load()
	w.sighted = all != nil && all.peeker.Look(c.tid, c.fd, &w.sight) == 0
	return w.sighted
}

// saw reports whether old is a copy of the file that was seen.
func (w *worker) saw(old int) bool {
	var sight peek.Sight
	return w.s.sights.Load().peeker.Look(w.s.pid, old, &sight) == 0 && sight.File == w.sight.File
}

// idle reports whether what was seen is a TCP or MPTCP socket that is not connected, connecting or listening. One whose
// connect(2) has failed while nobody waited is not: the next one fetches the error.
func (w *worker) idle(family int) bool {
	s := &w.sight
	if s.Mode&unix.S_IFMT != unix.S_IFSOCK || s.Family != family || s.Type != unix.SOCK_STREAM || s.State != tcpClose || !s.Unconnected {
		return false
	}
	return s.Protocol == unix.IPPROTO_TCP || s.Protocol == unix.IPPROTO_MPTCP
}

// untouched reports whether what was seen is a TCP socket of the origin in the state that socket(2) leaves one in, which
// is no other number's or process's.
func (w *worker) untouched(family int) bool {
	all, sight := w.s.sights.Load(), &w.sight
	fresh := &all.fresh4
	if family == unix.AF_INET6 {
		fresh = &all.fresh6
	}
	return sight.Mode == unix.S_IFSOCK|0o777 && sight.NetNS == w.s.origin.cookie && sight.Single && !sight.Owned &&
		sight.Flags&unix.O_ASYNC == 0 && !w.s.used.any.Load() && sight.Signature == *fresh
}

func checkSights() Check {
	c := Check{Name: "BPF", Found: "looks at sockets in the kernel (CAP_BPF, CAP_PERFMON, BTF, Linux 6.14)"}
	peeker, err := peek.Open()
	if err == nil {
		peeker.Close()
		c.OK = true
		return c
	}
	c.Found = err.Error()
	c.Cost = "each connect takes some microseconds longer, and a few rare things about a socket cannot be seen:\nsee docs/fidelity.md"
	return c
}
