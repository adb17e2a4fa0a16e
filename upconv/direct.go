package upconv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/netns"
)

// HasIPv4DefaultRoute reports whether programs in a network namespace reach IPv4 destinations
// natively. name is one of ip-netns(8), an absolute path or policy.Host; "" is the namespace upconv was started in.
func HasIPv4DefaultRoute(name string) (bool, error) {
	var found bool
	look := func() error {
		table, err := os.ReadFile("/proc/thread-self/net/route")
		if err != nil {
			return err
		}
		found = hasDefaultRoute(string(table))
		return nil
	}
	if name == "" {
		err := look()
		return found, err
	}
	ns, err := netns.Open(name)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	err = ns.Do(look)
	return found, err
}

// hasDefaultRoute looks for a default route in a text of the form of /proc/net/route: interface,
// destination, gateway, flags, reference count, use, metric, mask, ..., numbers in hexadecimal.
func hasDefaultRoute(table string) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		var flags uint
		if _, err := fmt.Sscanf(f[3], "%x", &flags); err == nil && flags&(unix.RTF_UP|unix.RTF_REJECT) == unix.RTF_UP {
			return true
		}
	}
	return false
}

// OwnAddresses returns a function that reports whether an IPv4 address is assigned in a network
// namespace. name is one of ip-netns(8), an absolute path or policy.Host; "" is the namespace upconv was started in.
func OwnAddresses(name string) (assigned func(netip.Addr) bool, err error) {
	own := map[netip.Addr]struct{}{}
	look := func() error {
		list, err := net.InterfaceAddrs()
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				own[prefix.Addr()] = struct{}{}
			}
		}
		return err
	}
	if name == "" {
		err = look()
	} else {
		ns, openErr := netns.Open(name)
		if openErr != nil {
			return nil, openErr
		}
		defer ns.Close()
		err = ns.Do(look)
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of the namespace: %w", err)
	}
	return func(a netip.Addr) bool { _, ok := own[a]; return ok }, nil
}

// Exec replaces this process by the command, with nothing of upconv around it. It returns only on
// error, which is an *Error.
func Exec(args []string, name string) error {
	if len(args) == 0 {
		return failed(errors.New("no command given"))
	}
	files, denied, err := lookPath(args[0])
	if err != nil {
		return err
	}
	environ, err := rawEnviron()
	if err != nil {
		return failed(err)
	}
	runtime.LockOSThread()
	if name != "" {
		ns, err := netns.Open(name)
		if err != nil {
			return failed(err)
		}
		if err := ns.Enter(); err != nil {
			return failed(err)
		}
		ns.Close()
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if started.Ignored&(1<<(sig-1)) != 0 {
			signal.Ignore(sig)
		}
	}
	for fd := range 3 {
		if started.Closed&(1<<fd) != 0 {
			unix.Close(fd)
		}
	}
	blocked := started.Blocked
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, uintptr(unsafe.Pointer(&blocked)), 0, 8, 0, 0)
	for _, path := range files {
		err = syscall.Exec(path, args, environ) // gives RLIMIT_NOFILE back
		if err == unix.ENOEXEC {
			err = syscall.Exec("/bin/sh", append([]string{"/bin/sh", path}, args[1:]...), environ)
		}
		if errno, _ := err.(unix.Errno); errno == unix.EACCES {
			denied = true
		} else if !triesOn(errno) {
			return cannotExecute(path, &os.PathError{Op: "exec", Path: path, Err: err})
		}
	}
	if denied {
		err = unix.EACCES
	}
	return cannotExecute(files[0], &os.PathError{Op: "exec", Path: files[0], Err: err})
}

// triesOn reports whether execvp(3), after execve(2) has failed like this, tries the next file.
func triesOn(errno unix.Errno) bool {
	switch errno {
	case unix.EACCES, unix.ENOENT, unix.ESTALE, unix.ENOTDIR, unix.ENODEV, unix.ETIMEDOUT:
		return true
	}
	return false
}

// DiscoverIn is nat64.Discover through the resolvers of a network namespace: one of ip-netns(8), an
// absolute path or policy.Host; "" is the one that upconv was started in. They are those of
// /etc/netns/NAME/resolv.conf, where ip-netns(8) has them, and otherwise of /etc/resolv.conf.
func DiscoverIn(ctx context.Context, name string) ([]netip.Prefix, error) {
	return netns.Discover(ctx, name)
}
