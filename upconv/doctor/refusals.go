package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
)

// A call that a filter around upconv refuses, mostly a container's profile, says what a kernel says
// that has not got it (ENOSYS), or that it is not permitted (EPERM). docs/containers.md lists the
// calls, and what becomes of each.

// requirement is a feature without which nothing can be served, or not without harm.
type requirement struct {
	feature *seccompx.Feature
	call    string // as manual pages name it
	cure    string // what lets a container have it
}

const (
	cureMemory   = "add --cap-add SYS_PTRACE to the container (Docker up to 20.10 and containerd up to 1.6 refuse it without), or use a seccomp profile that allows process_vm_readv and process_vm_writev"
	cureGetfd    = "add --cap-add SYS_PTRACE to the container, or use a seccomp profile that allows pidfd_getfd and kcmp"
	cureListener = "use a seccomp profile that allows seccomp and ioctl"
	curePidfd    = "use a seccomp profile that allows pidfd_open, as those of Docker have since 20.10"
)

var required = []requirement{
	{seccompx.ReadMemory, "process_vm_readv(2)", cureMemory},
	{seccompx.WriteMemory, "process_vm_writev(2)", cureMemory},
	{seccompx.UserNotification, "seccomp(2) with a listener", cureListener},
	{seccompx.PidfdOpen, "pidfd_open(2)", curePidfd},
	{seccompx.ContinueFlag, "seccomp(2) with SECCOMP_USER_NOTIF_FLAG_CONTINUE", cureListener},
	{seccompx.PidfdGetfd, "pidfd_getfd(2)", cureGetfd},
	{seccompx.AddFDIoctl, "ioctl(2) SECCOMP_IOCTL_NOTIF_ADDFD", cureListener},
	{seccompx.WaitKillable, "seccomp(2) with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", cureListener},
}

// Requirements returns an error that names the first call that upconv needs and that this kernel is
// too old for, with the version that brought it, or that a filter around upconv refuses, with what
// helps; nil where there is none.
func Requirements() error {
	for i := range required {
		if err := required[i].feature.Probe(); err != nil {
			return required[i].missing(kernelRelease(), err)
		}
	}
	return nil
}

// missing makes an error for the user of one of the feature's Probe, on a kernel of a release.
func (r *requirement) missing(release string, err error) error {
	switch {
	case errors.Is(err, seccompx.ErrNotSupported) && !isSince(release, r.feature.Since):
		return fmt.Errorf("this kernel, Linux %s, is too old: %s, which upconv needs, came with Linux %s", release, r.call, r.feature.Since)
	case errors.Is(err, seccompx.ErrNotSupported):
		return fmt.Errorf("%s hides %s, which upconv needs and Linux has since %s: %s", AFilter, r.call, r.feature.Since, r.cure)
	case IsRefusal(err):
		return fmt.Errorf("%s refuses %s, which upconv needs: %s (%w)", AFilter, r.call, r.cure, linux.ErrnoOf(err))
	}
	return err
}

// AFilter is what refuses calls that the kernel has and that are permitted.
const AFilter = "a seccomp filter (a container's profile, for example)"

// kernelRelease returns what uname(2) says, "6.1.0-18-amd64" for example.
func kernelRelease() string {
	var uts unix.Utsname
	unix.Uname(&uts)
	return unix.ByteSliceToString(uts.Release[:])
}

// isSince reports whether a kernel release is of a version or later. What cannot be read is.
func isSince(release, since string) bool {
	var is, want [2]int
	if n, _ := fmt.Sscanf(release, "%d.%d", &is[0], &is[1]); n != 2 {
		return true
	}
	fmt.Sscanf(since, "%d.%d", &want[0], &want[1])
	return is[0] > want[0] || is[0] == want[0] && is[1] >= want[1]
}

// IsRefusal reports whether an errno may be the answer of a filter.
func IsRefusal(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EACCES)
}

// ExplainUserNamespace adds to the error of making a user namespace, or a network namespace with
// it, why that was and what helps.
func ExplainUserNamespace(err error) error {
	if !IsRefusal(err) && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	// The kernel takes these flags for invalid before it looks for anything else. A filter sees the
	// one that it refuses.
	const invalid = unix.CLONE_NEWUSER | unix.CLONE_FS | unix.CLONE_SIGHAND
	if _, _, errno := unix.RawSyscall6(unix.SYS_CLONE, invalid, 0, 0, 0, 0, 0); errno != unix.EINVAL {
		return fmt.Errorf("%w: %s refuses clone(2) with CLONE_NEWUSER: use a profile that allows it, or add --cap-add SYS_ADMIN to the container", err, AFilter)
	}
	for _, sysctl := range []struct{ name, forbids string }{
		{"kernel.unprivileged_userns_clone", "0"},
		{"user.max_user_namespaces", "0"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1"},
	} {
		value, missing := os.ReadFile("/proc/sys/" + strings.ReplaceAll(sysctl.name, ".", "/"))
		if missing == nil && strings.TrimSpace(string(value)) == sysctl.forbids {
			return fmt.Errorf("%w: %s=%s forbids it: set that to another value, or run upconv as root", err, sysctl.name, sysctl.forbids)
		}
	}
	return fmt.Errorf("%w: a chroot, a security module or a limit (user.max_user_namespaces, user.max_net_namespaces) forbids it: run upconv as root", err)
}

// ExplainEntry adds to an error about a network namespace, if that could not be entered, what
// helps.
func ExplainEntry(err error) error {
	switch {
	case !IsRefusal(err):
		return err
	case linux.HasCapability(unix.CAP_SYS_ADMIN):
		return fmt.Errorf("%w: upconv has CAP_SYS_ADMIN: %s refuses setns(2), or the namespace is of another user namespace", err, AFilter)
	}
	return fmt.Errorf("%w: run upconv as root; in a container, add --cap-add SYS_ADMIN", err)
}
