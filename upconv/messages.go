package upconv

import "github.com/upconv/upconv/upconv/internal/birth"

// The messages between the front process and the supervisor, as gob over a stream socket. (Not as
// JSON: paths are bytes, and need not be UTF-8.)
type (
	// order is the first message to the supervisor.
	order struct {
		Config Config
		Files  []string // to execute, the first that can be
		Denied bool     // if none can be, the error is EACCES
		Birth  birth.Record
		Front  int // pid of the process that Run was called in
		// Inherited are the descriptors above standard error that the command is to be given;
		// numbers below Reserved that are not among them are kept free.
		Inherited []int
		Reserved  int
		Service   service
		// Speaker is the number of the socket at whose other end the front process has a speaker; only
		// if there is a Service.Notify.
		Speaker int
	}
	// passed tells the supervisor that the front process was sent a signal, or that it has been
	// continued from a stop; neither says that it has heard Started.
	passed struct {
		Signal  int
		Resumed bool
	}
	// report is what the supervisor says. One field is set.
	report struct {
		Failed  string // with Status: the command did not run
		Status  int
		Started bool
		Stopped int // the signal that stopped the command
		Ended   bool
		Signal  int  // with Ended: the signal that ended the command, or 0
		Last    bool // with Ended: nobody is left under the filter, and the supervisor ends too
	}
)
