package calls

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/internal/target"
)

// socketcall handles a stopped socketcall(2).
func (w *Worker) socketcall(c *session.Call) session.Outcome {
	what := uint32(c.Args[0])
	if what >= uint32(len(rowsOfSocketcall)) || rowsOfSocketcall[what] == nil {
		return session.CarryOn
	}
	of := rowsOfSocketcall[what]
	w.s.Used.Others.Store(true) // by this call it may have made anything
	var raw [24]byte
	if target.ReadMemory(c.TID, uint64(uint32(c.Args[1])), raw[:4*of.args]) != 0 {
		if what == linux.SocketcallSetsockopt {
			w.s.Used.SetAll()
		}
		if w.s.Needs.AtSocket() || w.s.Needs.Netns {
			return session.Answer(unix.EFAULT) // for they could be read the next time
		}
		return session.CarryOn // the kernel will say EFAULT
	}
	for i := range of.args {
		c.Args[i] = uint64(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	c.Indirect = true
	c.Name, c.FD = of.name, int(int32(c.Args[0]))
	return of.handle(w, c)
}
