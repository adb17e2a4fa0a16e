package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A place is a network namespace with loopback, 127.0.0.1 and ::1, and an interface into a void for
// multicast, and a thread that is in it. Nothing can leave it. It has no name and goes away with
// its last user.
type place struct {
	fd   int
	jobs chan func()
}

func newPlace() (*place, error) {
	p := &place{jobs: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else is to have this thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			p.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		var lo netlink.Link
		if err == nil {
			lo, err = netlink.LinkByName("lo")
		}
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			err = multicast()
		}
		made <- err
		for job := range p.jobs {
			job()
		}
	}()
	if err := <-made; err != nil {
		close(p.jobs)
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return p, nil
}

// multicast makes an interface for that: one end of a pair, of which nobody listens at the other.
func multicast() error {
	const near, far = "multi0", "multi1"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far}); err != nil {
		return err
	}
	for _, name := range []string{near, far} {
		// Addresses that come by themselves would come in the middle of some test.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err == nil && name == near {
			err = netlink.AddrAdd(link, &netlink.Addr{IPNet: prefix("192.0.2.1/24")})
		}
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err == nil && name == near {
			err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix("224.0.0.0/4"), Scope: netlink.SCOPE_LINK})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func prefix(s string) *net.IPNet {
	addr, p, _ := net.ParseCIDR(s)
	p.IP = addr
	return p
}

// close ends the thread of the place and with it whatever start has started.
func (p *place) close() {
	close(p.jobs)
	unix.Close(p.fd)
}

// path names the namespace for a rule of upconv.
func (p *place) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.fd) }

// run runs a program in the place with both outputs in the file log. What it leaves behind in its
// process group is killed. The error says that it could not be run or took longer than limit; the
// exit status of a test suite says no more than its results.
func (p *place) run(args []string, dir string, env []string, log string, limit time.Duration) error {
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	killGroup := func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Cancel = killGroup
	started := make(chan error)
	p.jobs <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return err
	}
	cmd.Wait()
	killGroup()
	if ctx.Err() != nil {
		return fmt.Errorf("killed after %v", limit)
	}
	return nil
}
