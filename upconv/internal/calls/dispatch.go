package calls

import (
	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/session"
)

// callNumbers is more than the number of any call in the table, in any architecture.
const callNumbers = 512

// The rows of the table by the numbers that the kernel knows the calls by: for each of
// seccompx.NativeArches, and in socketcall(2).
var (
	rowsByNumber     [2][callNumbers]*callRow
	rowsOfSocketcall [linux.SocketcallSendmmsg + 1]*callRow
)

func init() {
	for i := range calls {
		row := &calls[i]
		row.anew = func(d session.Decider, c *session.Call) session.Outcome { return row.handle(workerOf(d), c) }
		for of, arch := range seccompx.NativeArches() {
			if nr, ok := arch.Syscall(row.name); ok && row.handle != nil {
				rowsByNumber[of][nr] = row
			}
		}
		if row.socketcall != 0 {
			rowsOfSocketcall[row.socketcall] = row
		}
	}
}

// rowFor returns the row of a call by its number in an architecture; nil if nobody handles it.
func rowFor(arch seccompx.Arch, nr int32) *callRow {
	of := 0
	switch arch {
	case seccompx.NativeArch():
	case seccompx.I386:
		of = 1
	default:
		return nil
	}
	if uint32(nr) >= callNumbers {
		return nil
	}
	return rowsByNumber[of][nr]
}

// Handle decides what becomes of a notification.
func (w *Worker) Handle(n *seccompx.Notification) session.Outcome {
	if n.PID == 0 {
		return session.CarryOn // a thread outside our pid namespace: cannot be named, cannot be served
	}
	c := &w.Call
	// The kernel takes int arguments from the low half of the register, so the high half is
	// dropped.
	*c = session.Call{ID: n.ID, TID: int(n.PID), Args: n.Data.Args, FD: int(int32(n.Data.Args[0])), Layout: linux.Layout{Compat: n.Data.Arch == seccompx.I386}}
	row := rowFor(n.Data.Arch, n.Data.Nr)
	if row == nil {
		return session.CarryOn
	}
	c.Name, c.Decide = row.name, row.anew
	return row.handle(w, c)
}
