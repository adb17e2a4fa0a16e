package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/birth"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/openfile"
	"github.com/upconv/upconv/upconv/internal/peek"
)

// Check is one thing that Diagnose has looked at.
type Check struct {
	Name string
	OK   bool
	// Needed is true where upconv run cannot work at all without it.
	Needed bool
	Found  string // what was found
	Cost   string // what it costs that it is not OK; or a remark
}

// Diagnose tries out what this kernel and this user can do. It changes nothing.
func Diagnose() []Check {
	var uts unix.Utsname
	unix.Uname(&uts)
	checks := []Check{{
		Name: "kernel", OK: true, Needed: true,
		Found: unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:]),
	}}

	for i := range required {
		checks = append(checks, required[i].check())
	}
	checks = append(checks, checkCookie(), checkProc())
	for _, extra := range []struct {
		feature *seccompx.Feature
		cost    string
	}{
		{seccompx.SyncWakeUp, "each stopped call takes some microseconds longer"},
		{seccompx.PidfdThread, "threads that have unshared their descriptors from their process are not told apart"},
	} {
		c := Check{Name: extra.feature.Name, Found: "works (Linux " + extra.feature.Since + ")"}
		if err := extra.feature.Probe(); err != nil {
			c.Found, c.Cost = err.Error(), extra.cost
		} else {
			c.OK = true
		}
		checks = append(checks, c)
	}
	for i := range helperCalls {
		checks = append(checks, helperCalls[i].check())
	}
	scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	checks = append(checks, checkPrivileges(), checkSights(trySights()), checkPtrace(strings.TrimSpace(string(scope))), checkUserNamespaces(),
		checkTaskLimit(), checkBuild())
	return append(checks, checkRoutes()...)
}

// check tries the feature.
func (r *requirement) check() Check {
	c := Check{Name: r.feature.Name, Needed: true, Found: "works (Linux " + r.feature.Since + ")"}
	switch err := r.feature.Probe(); {
	case err == nil:
		c.OK = true
	case errors.Is(err, seccompx.ErrListenerExists):
		c.Found = "another seccomp listener is already in place (a container runtime's, or an outer upconv run)"
		c.Cost = "the kernel allows one listener per process: upconv run fails here"
	default:
		c.Found, c.Cost = r.missing(kernelRelease(), err).Error(), "upconv run fails here"
	}
	return c
}

func checkCookie() Check {
	c := Check{Name: "SO_NETNS_COOKIE", Needed: true, Found: "works (Linux 5.14)"}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		unix.Close(fd)
	}
	if c.OK = err == nil; !c.OK {
		c.Found = fmt.Sprintf("SO_NETNS_COOKIE not supported (requires Linux >= 5.14): %v", err)
		c.Cost = "upconv run fails here"
	}
	return c
}

func checkProc() Check {
	c := Check{Name: "/proc", OK: true, Needed: true, Found: "is mounted"}
	if _, err := openfile.Inherited(); err != nil {
		c.OK, c.Found, c.Cost = false, err.Error(), "upconv run fails here"
	}
	return c
}

func checkPrivileges() Check {
	if linux.HasCapability(unix.CAP_SYS_ADMIN) {
		return Check{Name: "CAP_SYS_ADMIN", OK: true, Found: "yes",
			Cost: "commands run without no_new_privs, so su, sudo and ping work under upconv"}
	}
	return Check{Name: "CAP_SYS_ADMIN", Found: "no",
		Cost: "commands run with no_new_privs: su, sudo and other setuid programs gain nothing under upconv;\n--netns NAME and --via netns:NAME cannot enter other namespaces (--isolate and netns:host work);\n--swap-at socket is for TCP only"}
}

func checkUserNamespaces() Check {
	c := Check{Name: "user namespaces", OK: true, Found: "this user can make them, with a network namespace inside"}
	cmd := exec.Command("/proc/self/exe", "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		c.OK, c.Found = false, ExplainUserNamespace(err).Error()
		c.Cost = "upconv demo and, for ordinary users, --isolate fail"
	}
	return c
}

func checkBuild() Check {
	if birth.Get().Exact {
		return Check{Name: "this binary", OK: true, Found: "hands on all it was given: ignored signals, limits, closed descriptors"}
	}
	return Check{Name: "this binary", Found: "was built without `make build`",
		Cost: "of ignored signals only SIGHUP and SIGINT stay ignored in the command, and its soft limit of\nopen files is raised to the hard limit"}
}

// trySights returns why sockets cannot be looked at, and if they can why signals cannot be told of;
// nil if they can.
func trySights() (sockets, signals error) {
	peeker, err := peek.Open()
	if err != nil {
		return err, nil
	}
	defer peeker.Close()
	teller, err := peeker.Tell()
	if err == nil {
		teller.Close()
	}
	return nil, err
}
