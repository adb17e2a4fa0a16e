//go:build linux

package nsdial_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/upconv/upconv/nsdial"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// abstractListener listens on an abstract unixgram address, and returns it.
func abstractListener(t *testing.T, n *nsdial.Namespace) string {
	t.Helper()
	addr := "@" + namePrefix() + strconv.Itoa(int(serial.Add(1)))
	pc, err := n.ListenPacket(t.Context(), "unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return addr
}

func TestHTTPTransport(t *testing.T) {
	n := newNS(t, "192.0.2.1/32", "2001:db8::1/128")
	for _, addr := range []string{"192.0.2.1:0", "[2001:db8::1]:0", "127.0.0.1:0", "[::1]:0"} {
		l, err := n.Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cookieOf(t, l), cookie(t, n); got != want {
			t.Errorf("%s: listening in namespace %d, want %d", addr, got, want)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.RemoteAddr)
		})}
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(func() { srv.Close() })

		client := &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
		for range 5 {
			resp, err := client.Get("http://" + l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			host, _, _ := net.SplitHostPort(l.Addr().String())
			if err != nil || !strings.Contains(string(body), host) {
				t.Errorf("answer %q, %v", body, err)
			}
		}
	}
}

// Every network that package net knows, there and back.
func TestNetworks(t *testing.T) {
	n := newNS(t, "192.0.2.1/32", "2001:db8::1/128")
	want := cookie(t, n)
	dir := t.TempDir()
	for _, c := range []struct{ network, address string }{
		{"tcp", "192.0.2.1:0"}, {"tcp4", "127.0.0.1:0"}, {"tcp6", "[2001:db8::1]:0"}, {"tcp", ":0"}, {"tcp", "localhost:0"},
		{"unix", "@abstract"}, {"unix", filepath.Join(dir, "stream")}, {"unixpacket", "@packets"},
	} {
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			l, err := n.Listen(t.Context(), c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			serveByte(t, l, 'x')
			conn, err := n.DialContext(t.Context(), c.network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if b, err := io.ReadAll(io.LimitReader(conn, 1)); err != nil || string(b) != "x" {
				t.Errorf("read %q, %v", b, err)
			}
			if cookieOf(t, l) != want || cookieOf(t, conn) != want {
				t.Error("not in the namespace")
			}
		})
	}
	for _, c := range []struct{ network, address string }{
		{"udp", "192.0.2.1:0"}, {"udp4", "127.0.0.1:0"}, {"udp6", "[2001:db8::1]:0"}, {"udp", "localhost:0"},
		{"udp6", "[ff02::db8%lo]:0"}, {"unixgram", "@datagrams"}, {"unixgram", filepath.Join(dir, "dgram")}, {"ip4:253", "192.0.2.1"}, {"ip6:253", "2001:db8::1"},
	} {
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			pc, err := n.ListenPacket(t.Context(), c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			if cookieOf(t, pc) != want {
				t.Error("not in the namespace")
			}
			if strings.Contains(c.address, "ff02") {
				return
			}
			conn, err := n.DialContext(t.Context(), c.network, pc.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if cookieOf(t, conn) != want {
				t.Error("not in the namespace")
			}
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 64)
			m, _, err := pc.ReadFrom(b)
			if err != nil || string(b[:m]) != "x" {
				t.Errorf("read %q, %v", b[:m], err)
			}
		})
	}
}

// What package net did to its own socket must hold for the one put in its place.
func TestSocketOptionsCarried(t *testing.T) {
	n := newNS(t, "192.0.2.1/32")
	get := func(c any, level, name int) (v int) {
		rc, err := c.(syscall.Conn).SyscallConn()
		if err == nil {
			err = rc.Control(func(fd uintptr) {
				var err error
				if v, err = unix.GetsockoptInt(int(fd), level, name); err != nil {
					t.Error(err)
				}
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	l6, err := n.Listen(t.Context(), "tcp6", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l6.Close()
	if get(l6, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) != 1 {
		t.Error(`"tcp6" takes IPv4 too`)
	}
	if get(l6, unix.SOL_SOCKET, unix.SO_REUSEADDR) != 1 {
		t.Error("no SO_REUSEADDR on a listener")
	}
	// IPv4 is free where "tcp6" listens.
	l, err := n.Listen(t.Context(), "tcp4", fmt.Sprintf("0.0.0.0:%d", l6.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	both, err := n.Listen(t.Context(), "tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	if get(both, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) != 0 {
		t.Error(`"tcp" on [::] does not take IPv4`)
	}
	u, err := n.ListenPacket(t.Context(), "udp4", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if get(u, unix.SOL_SOCKET, unix.SO_BROADCAST) != 1 {
		t.Error("no SO_BROADCAST on UDP")
	}
	c, err := n.DialContext(t.Context(), "tcp", both.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if get(c, unix.IPPROTO_TCP, unix.TCP_NODELAY) != 1 {
		t.Error("no TCP_NODELAY on a connection")
	}
}

// Zones are names of interfaces, which differ between namespaces.
func TestZone(t *testing.T) {
	n := newNS(t)
	var index int
	withNetlink(t, nameOf(n), func(nl *netlink.Handle) error {
		// The first index is taken by lo everywhere; be sure to have another one
		// than the process could know by this name.
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "zone0", Index: 4711}, PeerName: "zone1"}
		if err := nl.LinkAdd(link); err != nil {
			return err
		}
		for _, name := range []string{"zone1", "zone0"} {
			l, err := nl.LinkByName(name)
			if err != nil {
				return err
			}
			if err := nl.LinkSetUp(l); err != nil {
				return err
			}
			index = l.Attrs().Index
		}
		return addAddr(nl, link, "fe80::db8/64")
	})
	l, err := n.Listen(t.Context(), "tcp", "[fe80::db8%zone0]:0")
	if err != nil {
		t.Fatal(err)
	}
	serveByte(t, l, 'z')
	for _, zone := range []string{"zone0", strconv.Itoa(index)} {
		c, err := n.DialContext(t.Context(), "tcp", fmt.Sprintf("[fe80::db8%%%s]:%d", zone, l.Addr().(*net.TCPAddr).Port))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "z" {
			t.Errorf("read %q, %v", b, err)
		}
		c.Close()
	}
	_, err = n.DialContext(t.Context(), "tcp", "[fe80::db8%zone9]:1")
	var op *net.OpError
	if !errors.As(err, &op) || !strings.Contains(err.Error(), n.String()+": interface zone9: no such device") {
		t.Errorf("unknown interface: %v", err)
	}
}

func nameOf(n *nsdial.Namespace) string {
	name, _ := strconv.Unquote(strings.TrimPrefix(n.String(), "netns "))
	return name
}

// An abstract Unix address is of one network namespace.
func TestAbstractUnixIsApart(t *testing.T) {
	a, b := newNS(t), newNS(t)
	for _, n := range []*nsdial.Namespace{a, b} {
		l, err := n.Listen(t.Context(), "unix", "@nsdial")
		if err != nil {
			t.Fatal(err)
		}
		serveByte(t, l, n.String()[len(n.String())-2])
	}
	for _, n := range []*nsdial.Namespace{a, b} {
		c, err := n.DialContext(t.Context(), "unix", "@nsdial")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(c); string(got) != n.String()[len(n.String())-2:len(n.String())-1] {
			t.Errorf("%s: reached %q", n, got)
		}
		c.Close()
	}
	_, err := newNS(t).DialContext(t.Context(), "unix", "@nsdial")
	wantErr(t, err, unix.ECONNREFUSED, "dial unix @nsdial: connect: connection refused")
}

func TestCurrentUnix(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	addr := "@" + namePrefix() + "current"
	l, err := n.Listen(t.Context(), "unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveByte(t, l, 'c')
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"nsdial": n.DialContext, "net": new(net.Dialer).DialContext,
	} {
		c, err := dial(t.Context(), "unix", addr)
		if err != nil {
			t.Fatal(name, err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "c" {
			t.Errorf("%s: read %q, %v", name, b, err)
		}
		c.Close()
	}
}

// blackHole gives the namespace a route to 2001:db8:dead::/64 and 198.51.100.0/24
// where nobody ever answers.
func blackHole(t *testing.T, name string) {
	t.Helper()
	withNetlink(t, name, func(nl *netlink.Handle) error {
		if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "hole"}, PeerName: "bottom"}); err != nil {
			return err
		}
		var hole netlink.Link
		for _, name := range []string{"bottom", "hole"} {
			l, err := nl.LinkByName(name)
			if err != nil {
				return err
			}
			if err := nl.LinkSetUp(l); err != nil {
				return err
			}
			hole = l
		}
		for _, a := range []string{"2001:db8:dead::1/64", "198.51.100.1/24"} {
			if err := addAddr(nl, hole, a); err != nil {
				return err
			}
		}
		for _, ip := range []string{"2001:db8:dead::2", "198.51.100.2"} {
			// An unanswered neighbour would be an error after a while.
			if err := nl.NeighAdd(&netlink.Neigh{
				LinkIndex: hole.Attrs().Index, State: netlink.NUD_PERMANENT,
				IP: net.ParseIP(ip), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestDialErrors(t *testing.T) {
	name := makeNetNS(t, "192.0.2.1/32")
	blackHole(t, name)
	n := open(t)(nsdial.OpenName(name))
	fds := countDir(t, "/proc/self/fd")

	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	timedOut := func(err error) bool {
		// Which of the two it is depends on who notices first, in package net too.
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout() &&
			(errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded))
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, c := range []struct {
		name, network, address string
		ctx                    context.Context
		ok                     func(error) bool
		text                   string
	}{
		{"refused", "tcp", "192.0.2.1:1", t.Context(), is(unix.ECONNREFUSED), "dial tcp 192.0.2.1:1: connect: connection refused"},
		{"unreachable", "tcp", "203.0.113.1:1", t.Context(), is(unix.ENETUNREACH), "connect: network is unreachable"},
		{"expired", "tcp", "192.0.2.1:1", expired, timedOut, "i/o timeout"},
		{"timed out", "tcp", "198.51.100.2:1", soon, timedOut, "dial tcp 198.51.100.2:1: i/o timeout"},
		{"timed out IPv6", "tcp", "[2001:db8:dead::2]:1", soon, timedOut, "i/o timeout"},
		{"cancelled", "tcp", "192.0.2.1:1", cancelled, is(context.Canceled), "operation was canceled"},
		{"no port", "tcp", "192.0.2.1", t.Context(), func(err error) bool { return errors.As(err, new(*net.AddrError)) }, "missing port"},
		{"network", "nonsense", "192.0.2.1:1", t.Context(), func(err error) bool {
			var e net.UnknownNetworkError
			return errors.As(err, &e)
		}, "unknown network"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := n.DialContext(c.ctx, c.network, c.address)
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "dial" || !c.ok(err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %#v: %v", err, err)
			}
		})
	}
	// In the middle of it.
	ctx, cancel := context.WithCancel(t.Context())
	d := net.Dialer{ControlContext: func(_ context.Context, network, address string, c syscall.RawConn) error {
		defer cancel()
		return n.Control(network, address, c)
	}}
	if c, err := d.DialContext(ctx, "tcp", "198.51.100.2:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while connecting: %v, %v", c, err)
	}
	eventually(t, "no more descriptors than before", func() bool { return countDir(t, "/proc/self/fd") <= fds })
}

func TestListenErrors(t *testing.T) {
	n := newNS(t, "192.0.2.1/32")
	l, err := n.Listen(t.Context(), "tcp", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = n.Listen(t.Context(), "tcp", l.Addr().String())
	wantErr(t, err, unix.EADDRINUSE, "listen tcp "+l.Addr().String()+": bind: address already in use")
	_, err = n.Listen(t.Context(), "tcp", "203.0.113.1:0")
	wantErr(t, err, unix.EADDRNOTAVAIL, "listen tcp 203.0.113.1:0: bind: cannot assign requested address")
	_, err = n.ListenPacket(t.Context(), "udp", "203.0.113.1:0")
	wantErr(t, err, unix.EADDRNOTAVAIL, "listen udp 203.0.113.1:0: bind:")
}

// The same address in two namespaces is two servers.
func TestDialerWithControl(t *testing.T) {
	for _, name := range []byte("ab") {
		n := newNS(t, "192.0.2.1/32", "192.0.2.7/32")
		l, err := n.Listen(t.Context(), "tcp", "192.0.2.1:80")
		if err != nil {
			t.Fatal(err)
		}
		serveByte(t, l, name)
		d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)}, Control: n.Control, Resolver: n.Resolver()}
		d.SetMultipathTCP(true)
		c, err := d.Dial("tcp", "192.0.2.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if b, err := io.ReadAll(c); err != nil || string(b) != string(name) {
			t.Errorf("reached %q, %v; want %q", b, err, name)
		}
		if host, _, _ := net.SplitHostPort(c.LocalAddr().String()); host != "192.0.2.7" {
			t.Errorf("from %s", host)
		}
	}
}

// Names are looked up over the network of the namespace, and the several
// addresses of a name are tried as package net does, several at a time.
// The name server is the one of a /etc/resolv.conf that only a process with a
// mount namespace of its own sees, which has no network either.
func TestNames(t *testing.T) {
	needRoot(t)
	if os.Getenv(childEnv) != "names" {
		runChild(t, "/proc/self/exe", "names", &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}, nil, "-test.run=^TestNames$")
		return
	}
	dir := t.TempDir()
	for file, text := range map[string]string{
		"resolv.conf":   "nameserver 192.0.2.53\noptions timeout:5 attempts:1\n",
		"hosts":         "192.0.2.1 hosts.nsdial.test\n",
		"nsswitch.conf": "hosts: files dns\n",
	} {
		if _, err := os.Stat("/etc/" + file); err != nil {
			continue // what package net does without is just as well
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(filepath.Join(dir, file), "/etc/"+file, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount("/etc/"+file, unix.MNT_DETACH) })
	}
	name := makeNetNS(t, "192.0.2.1/32", "192.0.2.53/32", "2001:db8::1/128")
	blackHole(t, name)
	n := open(t)(nsdial.OpenName(name))
	queries := serveDNS(t, n, map[string][]string{
		"both.nsdial.test.":  {"192.0.2.1", "2001:db8::1"},
		"hole.nsdial.test.":  {"192.0.2.1", "2001:db8:dead::2"},
		"first.nsdial.test.": {"203.0.113.1", "192.0.2.1"}, // the first is unreachable
	})
	l, err := n.Listen(t.Context(), "tcp", "[::]:80")
	if err != nil {
		t.Fatal(err)
	}
	serveByte(t, l, 'n')
	for _, host := range []string{"both.nsdial.test", "hole.nsdial.test", "first.nsdial.test", "hosts.nsdial.test"} {
		for _, network := range []string{"tcp", "tcp4"} {
			c, err := n.DialContext(t.Context(), network, host+":80")
			if err != nil {
				t.Errorf("%s %s: %v", network, host, err)
				continue
			}
			if b, err := io.ReadAll(c); err != nil || string(b) != "n" {
				t.Errorf("%s %s: read %q, %v", network, host, b, err)
			}
			if got, want := cookieOf(t, c), cookie(t, n); got != want {
				t.Errorf("%s %s: namespace %d, want %d", network, host, got, want)
			}
			c.Close()
		}
	}
	if queries.Load() == 0 {
		t.Error("nobody asked the name server of the namespace")
	}
	_, err = n.DialContext(t.Context(), "tcp", "none.nsdial.test:80")
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("unknown name: %v", err)
	}
	l2, err := n.Listen(t.Context(), "tcp", "both.nsdial.test:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l2.Close()
	if ip := l2.Addr().(*net.TCPAddr).IP; !ip.Equal(net.IPv4(192, 0, 2, 1)) {
		t.Errorf("listening on %s", ip)
	}
	l6, err := n.Listen(t.Context(), "tcp6", "both.nsdial.test:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l6.Close()
	_, err = n.ListenPacket(t.Context(), "udp", "none.nsdial.test:0")
	if !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("unknown name to listen on: %v", err)
	}
}

// serveDNS answers for the names on 192.0.2.53, until the test ends, and counts.
func serveDNS(t *testing.T, n *nsdial.Namespace, names map[string][]string) *atomic.Int32 {
	t.Helper()
	pc, err := n.ListenPacket(t.Context(), "udp", "192.0.2.53:53")
	if err != nil {
		t.Fatal(err)
	}
	var queries atomic.Int32
	done := make(chan struct{})
	t.Cleanup(func() { pc.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			m, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var p dnsmessage.Parser
			h, err := p.Start(buf[:m])
			if err != nil {
				t.Error(err)
				return
			}
			q, err := p.Question()
			if err != nil {
				t.Error(err)
				return
			}
			queries.Add(1)
			addrs, known := names[q.Name.String()]
			msg := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true},
				Questions: []dnsmessage.Question{q},
			}
			if !known {
				msg.RCode = dnsmessage.RCodeNameError
			}
			for _, a := range addrs {
				ip := net.ParseIP(a)
				rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 1}
				if v4 := ip.To4(); v4 != nil && q.Type == dnsmessage.TypeA {
					msg.Answers = append(msg.Answers, dnsmessage.Resource{Header: rh, Body: &dnsmessage.AResource{A: [4]byte(v4)}})
				} else if v4 == nil && q.Type == dnsmessage.TypeAAAA {
					msg.Answers = append(msg.Answers, dnsmessage.Resource{Header: rh, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(ip)}})
				}
			}
			out, err := msg.Pack()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := pc.WriteTo(out, from); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return &queries
}
