package upconv

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/target"
)

// The first argument of i386's socketcall(2), which says what call it is: linux/net.h.
const (
	sysSocket      = 1
	sysBind        = 2
	sysConnect     = 3
	sysListen      = 4
	sysGetsockname = 6
	sysGetpeername = 7
	sysRecv        = 10
	sysSendto      = 11
	sysRecvfrom    = 12
	sysSetsockopt  = 14
	sysGetsockopt  = 15
	sysSendmsg     = 16
	sysRecvmsg     = 17
	sysRecvmmsg    = 19
	sysSendmmsg    = 20
)

// socketcalls are those of them that the filter stops, and how many arguments each has.
var socketcalls = [sysSendmmsg + 1]struct {
	name   string
	args   int
	handle handler
}{
	sysSocket:      {"socket", 3, (*worker).socketCall},
	sysBind:        {"bind", 3, (*worker).bind},
	sysConnect:     {"connect", 3, (*worker).connectCall},
	sysListen:      {"listen", 2, (*worker).listen},
	sysGetsockname: {"getsockname", 3, (*worker).getsockname},
	sysGetpeername: {"getpeername", 3, (*worker).getpeername},
	sysSendto:      {"sendto", 6, (*worker).sendto},
	sysRecvfrom:    {"recvfrom", 6, (*worker).recvfrom},
	sysSetsockopt:  {"setsockopt", 5, (*worker).setsockopt},
	sysGetsockopt:  {"getsockopt", 5, (*worker).getsockopt},
	sysSendmsg:     {"sendmsg", 3, (*worker).sendmsg},
	sysRecvmsg:     {"recvmsg", 3, (*worker).recvmsg},
	sysRecvmmsg:    {"recvmmsg", 5, (*worker).recvmmsg},
	sysSendmmsg:    {"sendmmsg", 4, (*worker).sendmmsg},
}

// socketcallRules stop some of them, whatever their arguments: those are in memory, which a filter
// cannot see.
func socketcallRules(which ...uint64) (rules []seccompx.Rule) {
	for _, call := range which {
		rules = append(rules, notify("socketcall", low(0).Equal(call)))
	}
	return rules
}

// socketcall handles a stopped socketcall(2).
func (w *worker) socketcall(c *call) outcome {
	what := uint32(c.args[0])
	if what >= uint32(len(socketcalls)) || socketcalls[what].handle == nil {
		return carryOn
	}
	of := &socketcalls[what]
	var raw [24]byte
	if target.ReadMemory(c.tid, uint64(uint32(c.args[1])), raw[:4*of.args]) != 0 {
		if what == sysSetsockopt {
			w.s.used.setAll()
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
