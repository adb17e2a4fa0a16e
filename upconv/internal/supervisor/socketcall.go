package supervisor

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/target"
)

// socketcall handles a stopped socketcall(2).
func (w *callsWorker) socketcall(c *call) outcome {
	what := uint32(c.args[0])
	if what >= uint32(len(rowsOfSocketcall)) || rowsOfSocketcall[what] == nil {
		return carryOn
	}
	of := rowsOfSocketcall[what]
	w.s.used.Others.Store(true) // by this call it may have made anything
	var raw [24]byte
	if target.ReadMemory(c.tid, uint64(uint32(c.args[1])), raw[:4*of.args]) != 0 {
		if what == linux.SocketcallSetsockopt {
			w.s.used.SetAll()
		}
		if w.s.needs.atSocket() || w.s.needs.netns {
			return answer(unix.EFAULT) // for they could be read the next time
		}
		return carryOn // the kernel will say EFAULT
	}
	for i := range of.args {
		c.args[i] = uint64(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	c.indirect = true
	c.name, c.fd = of.name, int(int32(c.args[0]))
	return of.handle(w, c)
}
