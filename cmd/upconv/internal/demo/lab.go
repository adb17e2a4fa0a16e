package demo

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
)

// The addresses are for documentation (RFC 5737, RFC 3849).
const (
	originAddr6 = "2001:db8:1::2"
	serverAddr6 = "2001:db8:1::1"
	egressAddr  = "192.0.2.1"
	gatewayAddr = "192.0.2.2" // of the server, on the wire to the egress
	serverAddr  = "203.0.113.10"
)

const picture = `+- origin --------+                      +- server ----------+
|  2001:db8:1::2  |-------- IPv6 --------|  2001:db8:1::1    |
|  no IPv4        |                      |                   |
+-----------------+                      |  203.0.113.10:80  |
                                         |  a web server     |
+- egress --------+                      |                   |
|  192.0.2.1      |-------- IPv4 --------|  192.0.2.2        |
+-----------------+                      +-------------------+`

// lab is what the picture shows.
type lab struct {
	origin, egress, server *nsdial.Namespace
}

func (l *lab) close() {
	for _, ns := range []*nsdial.Namespace{l.origin, l.egress, l.server} {
		if ns != nil {
			ns.Close()
		}
	}
}

// newLab makes the hosts and their links, and returns when packets can pass.
func newLab() (_ *lab, err error) {
	l := new(lab)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := makeNamespaces(&l.origin, &l.egress, &l.server); err != nil {
		if notPermitted(err) {
			err = &errNotPermitted{err}
		}
		return nil, err
	}
	for _, wire := range []wire{
		{l.origin, "origin", originAddr6 + "/64", serverAddr6 + "/64", "::/0"},
		{l.egress, "egress", egressAddr + "/24", gatewayAddr + "/24", "0.0.0.0/0"},
	} {
		if err := wire.join(l.server); err != nil {
			return nil, fmt.Errorf("join %s and server: %w", wire.name, err)
		}
	}
	if err := l.server.Do(func() error { return assign("lo", serverAddr+"/32") }); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	return l, nil
}

// makeNamespaces makes network namespaces that only their descriptors keep alive.
func makeNamespaces(into ...**nsdial.Namespace) error {
	done := make(chan error)
	var makeAll func()
	makeAll = func() {
		runtime.LockOSThread() // and never unlocked: the thread moves, and ends with this goroutine
		if unix.Gettid() == os.Getpid() {
			// The runtime never ends the main thread, and /proc/PID/ns/net would show where it is.
			// As it is locked here, another goroutine is on another thread.
			moved := make(chan struct{})
			go func() { runtime.LockOSThread(); close(moved); makeAll() }()
			<-moved
			runtime.UnlockOSThread()
			return
		}
		for _, ns := range into {
			err := os.NewSyscallError("unshare CLONE_NEWNET", unix.Unshare(unix.CLONE_NEWNET))
			if err == nil {
				*ns, err = nsdial.OpenCurrent()
			}
			if err == nil {
				err = raise("lo")
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}
	go makeAll()
	return <-done
}

// wire is a pair of veth interfaces between a host and the server.
type wire struct {
	host        *nsdial.Namespace
	name        string // of the host, and so of the server's end
	addr, peer  string // of the host's end and of the server's, with the length of the prefix
	destination string // what the host reaches through the server
}

// join lays the wire, with eth0 as the host's end, and returns when both ends can send.
func (w *wire) join(server *nsdial.Namespace) error {
	err := w.host.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: w.name, PeerNamespace: netlink.NsFd(server.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth interfaces: %w", err)
		}
		return raise("eth0")
	})
	if err != nil {
		return err
	}
	if err := server.Do(func() error { return raise(w.name) }); err != nil {
		return err
	}
	// The end that is set up last can send from then on, but the kernel gets the other one ready in
	// the background. What it is given to send before that is lost, and sent again only a second
	// later.
	if err := w.host.Do(func() error { return errors.Join(ready("eth0"), assign("eth0", w.addr)) }); err != nil {
		return err
	}
	if err := server.Do(func() error { return assign(w.name, w.peer) }); err != nil {
		return err
	}
	gateway, _, err := net.ParseCIDR(w.peer)
	if err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(w.destination)
	if err != nil {
		return err
	}
	return w.host.Do(func() error {
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gateway}); err != nil {
			return fmt.Errorf("route to %s via %s: %w", dst, gateway, err)
		}
		return nil
	})
}

// raise sets an interface up. The calling thread is in its namespace, as for the functions below.
func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}

// ready waits until an interface that was set up before its peer can send.
func ready(name string) error {
	updates, done := make(chan netlink.LinkUpdate, 16), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	return await(name, updates, func(update netlink.LinkUpdate) bool {
		attrs := update.Attrs()
		return attrs.Name == name && attrs.OperState == netlink.OperUp
	})
}

// assign gives an interface an address, and returns when that can be used. For IPv6 that is later
// than when it is there: the kernel makes the route to it, and listens for who looks for it, in the
// background, and then says so.
func assign(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD // nobody else can have it
	}
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch the addresses of %s: %w", name, err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, address, err)
	}
	return await(name+" with "+address, updates, func(update netlink.AddrUpdate) bool {
		return update.NewAddr && update.LinkIndex == link.Attrs().Index && update.LinkAddress.IP.Equal(addr.IP)
	})
}

// await reads updates until one is the right one.
func await[U any](what string, updates <-chan U, right func(U) bool) error {
	deadline := time.After(stepTime)
	for {
		select {
		case update, ok := <-updates:
			if !ok {
				return fmt.Errorf("%s: the kernel's messages ended", what)
			}
			if right(update) {
				return nil
			}
		case <-deadline:
			return fmt.Errorf("%s is not ready after %v", what, stepTime)
		}
	}
}
