//go:build linux

package nsdial_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/upconv/upconv/nsdial"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func TestSocket(t *testing.T) {
	n := newNS(t)
	want := cookie(t, n)
	for _, c := range []struct {
		name               string
		family, typ, proto int
		err                error
	}{
		{"tcp4", unix.AF_INET, unix.SOCK_STREAM, 0, nil},
		{"tcp6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP, nil},
		{"udp4", unix.AF_INET, unix.SOCK_DGRAM, 0, nil},
		{"udp6 non-blocking", unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, 0, nil},
		{"raw icmp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, nil},
		{"unix", unix.AF_UNIX, unix.SOCK_SEQPACKET, 0, nil},
		{"netlink", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, nil},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, 0, nil},
		{"no such family", 4000, unix.SOCK_STREAM, 0, unix.EAFNOSUPPORT},
		{"no such type", unix.AF_INET, 13, 0, unix.EINVAL},
		{"wrong protocol", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP, unix.EPROTONOSUPPORT},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd, err := n.Socket(c.family, c.typ, c.proto)
			if c.err != nil {
				var errno unix.Errno
				if err != c.err || !errors.As(err, &errno) || fd != -1 {
					t.Errorf("%d, %v; want -1, a bare %v", fd, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if got := cookieOfFD(t, fd); got != want {
				t.Errorf("namespace %d, want %d", got, want)
			}
			family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			typ, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
			if family != c.family || typ != c.typ&0xf {
				t.Errorf("family %d type %d, want %d %d", family, typ, c.family, c.typ&0xf)
			}
			if c.proto != 0 {
				if p, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); p != c.proto {
					t.Errorf("protocol %d, want %d", p, c.proto)
				}
			}
			if f, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); f&unix.FD_CLOEXEC == 0 {
				t.Error("not close-on-exec")
			}
			fl, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if got, want := fl&unix.O_NONBLOCK != 0, c.typ&unix.SOCK_NONBLOCK != 0; got != want {
				t.Errorf("non-blocking %v, want %v", got, want)
			}
		})
	}
}

func TestCurrentSocket(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	for name, socket := range map[string]func(int, int, int) (int, error){"Socket": n.Socket, "HandOver": n.HandOver} {
		fd, err := socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cookieOfFD(t, fd), threadCookie(t); got != want {
			t.Errorf("%s: namespace %d, want %d", name, got, want)
		}
		unix.Close(fd)
	}
	if os.Geteuid() != 0 {
		_, err := n.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		if err != unix.EPERM {
			t.Errorf("raw socket: %v, want a bare EPERM", err)
		}
	}
}

// A goroutine in another namespace than the process must not fool the short cut
// of a Namespace that is the process's own.
func TestHomeFromElsewhere(t *testing.T) {
	away := newNS(t)
	home := open(t)(nsdial.OpenCurrent())
	want := threadCookie(t)
	for range 10 {
		if err := away.Do(func() error {
			fd, err := home.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if got := cookieOfFD(t, fd); got != want {
				t.Errorf("namespace %d, want %d", got, want)
			}
			return home.Do(func() error {
				if got := threadCookie(t); got != want {
					t.Errorf("function in namespace %d, want %d", got, want)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDoResults(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	if err := n.Do(func() error { return nil }); err != nil {
		t.Error(err)
	}
	want := errors.New("its own")
	if err := n.Do(func() error { return want }); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
	// Within itself, on the same thread.
	if err := n.Do(func() error {
		tid := unix.Gettid()
		return n.Do(func() error {
			if unix.Gettid() != tid {
				t.Error("Do within Do moved to another thread")
			}
			return want
		})
	}); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestDoPanic(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	boom := errors.New("boom")
	for range 5 {
		var tid int
		func() {
			defer func() {
				p, ok := recover().(*nsdial.PanicError)
				if !ok || p.Value != boom || !errors.Is(p, boom) {
					t.Errorf("recovered %v", p)
				} else if !strings.Contains(p.Error(), "boom") || !strings.Contains(p.Error(), "TestDoPanic") {
					t.Errorf("the panic does not say where it was: %v", p)
				}
			}()
			_ = n.Do(func() error { tid = unix.Gettid(); panic(boom) })
			t.Error("Do returned")
		}()
		// Who knows what such a function left behind.
		eventually(t, "the thread has ended", func() bool { return !threadAlive(tid) })
		if err := n.Do(func() error { return nil }); err != nil {
			t.Errorf("Do after a panic: %v", err)
		}
	}
}

func TestDoGoexit(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	returned := true
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = n.Do(func() error { runtime.Goexit(); return nil })
		returned = false
	})
	wg.Wait()
	if !returned {
		t.Error("Do returned though its function exited")
	}
	if err := n.Do(func() error { return nil }); err != nil {
		t.Errorf("Do afterwards: %v", err)
	}
}

// Functions that wait for one another all run at once, and Socket does not wait
// for any of them.
func TestDoStarvesNobody(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	const many = 20
	var arrived, wg sync.WaitGroup
	arrived.Add(many)
	release := make(chan struct{})
	for range many {
		wg.Go(func() {
			if err := n.Do(func() error {
				arrived.Done()
				arrived.Wait()
				<-release
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	arrived.Wait()
	for range 100 {
		fd, err := n.HandOver(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	if got := len(n.TIDs()); got > many+nsdial.MaxMakers {
		t.Errorf("%d threads for %d functions", got, many)
	}
	close(release)
	wg.Wait()
	eventually(t, "idle threads have ended", func() bool { return len(n.TIDs()) <= nsdial.MaxIdle+nsdial.MaxMakers })
}

func TestSocketThreadsAreFew(t *testing.T) {
	n := newNS(t)
	if got := len(n.TIDs()); got != 0 {
		t.Errorf("%d threads before the first use", got)
	}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 50 {
				fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				if err != nil {
					t.Error(err)
					return
				}
				unix.Close(fd)
			}
		})
	}
	wg.Wait()
	if got := len(n.TIDs()); got < 1 || got > nsdial.MaxMakers {
		t.Errorf("%d threads, want 1 to %d", got, nsdial.MaxMakers)
	}
}

func TestSocketAllocates(t *testing.T) {
	n := newNS(t)
	allocs := testing.AllocsPerRun(500, func() {
		fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Error(err)
			return
		}
		unix.Close(fd)
	})
	if allocs > 0 && !raceEnabled { // sync.Pool drops things at random under the race detector
		t.Errorf("%v allocations a socket", allocs)
	}
}

// Nobody is where he should not be, ever: sockets, connections, functions, and
// the threads of the callers, in several namespaces at once, with threads that
// come and go meanwhile.
func TestLoad(t *testing.T) {
	const address = "192.0.2.1"
	home := threadCookie(t)
	current := open(t)(nsdial.OpenCurrent())
	type place struct {
		*nsdial.Namespace
		cookie uint64
		tcp    string
		name   byte
	}
	var places []place
	for i := range 3 {
		n := newNS(t, address+"/32")
		p := place{Namespace: n, cookie: cookie(t, n), name: byte('a' + i)}
		l, err := n.Listen(t.Context(), "tcp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		p.tcp = l.Addr().String()
		serveByte(t, l, p.name)
		places = append(places, p)
	}
	stayed := func(where string) {
		if c := threadCookie(t); c != home {
			t.Errorf("%s: a thread of the caller's is in namespace %d, want %d", where, c, home)
		}
	}
	var wg sync.WaitGroup
	for g := range 24 {
		rnd := rand.New(rand.NewPCG(1, uint64(g)))
		wg.Go(func() {
			for range 60 {
				p := places[rnd.IntN(len(places))]
				switch rnd.IntN(6) {
				case 0, 1:
					fd, err := p.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
					if err != nil {
						t.Error(err)
						return
					}
					if c := cookieOfFD(t, fd); c != p.cookie {
						t.Errorf("socket of namespace %d, want %d", c, p.cookie)
					}
					unix.Close(fd)
				case 2:
					c, err := p.DialContext(t.Context(), "tcp", p.tcp)
					if err != nil {
						t.Error(err)
						return
					}
					b := make([]byte, 1)
					if _, err := c.Read(b); err != nil || b[0] != p.name {
						t.Errorf("reached %q, %v; want %q", b, err, p.name)
					}
					if k := cookieOf(t, c); k != p.cookie {
						t.Errorf("connection of namespace %d, want %d", k, p.cookie)
					}
					c.Close()
				case 3:
					if err := p.Do(func() error {
						if c := threadCookie(t); c != p.cookie {
							t.Errorf("function in namespace %d, want %d", c, p.cookie)
						}
						// What fn starts is where everybody is.
						var in sync.WaitGroup
						in.Go(func() { stayed("a goroutine started by a function") })
						in.Wait()
						return nil
					}); err != nil {
						t.Error(err)
					}
				case 4: // short-lived: threads end all the time
					n, err := nsdial.OpenFD(dupFD(t, p.FD()))
					if err != nil {
						t.Error(err)
						return
					}
					if c, err := n.Cookie(); err != nil || c != p.cookie {
						t.Errorf("cookie %d, %v; want %d", c, err, p.cookie)
					}
					if err := n.Do(func() error { return nil }); err != nil {
						t.Error(err)
					}
					n.Close()
				case 5:
					fd, err := current.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
					if err != nil {
						t.Error(err)
						return
					}
					if c := cookieOfFD(t, fd); c != home {
						t.Errorf("socket of namespace %d, want the process's own, %d", c, home)
					}
					unix.Close(fd)
				}
				stayed("after use")
			}
		})
	}
	wg.Wait()
	// Not even one that nobody has asked about.
	own := "/proc/self/task/"
	tasks, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for _, p := range places {
		for _, tid := range p.TIDs() {
			ours = append(ours, strconv.Itoa(tid))
		}
	}
	want, _ := os.Readlink("/proc/self/ns/net")
	for _, task := range tasks {
		if at, err := os.Readlink(own + task.Name() + "/ns/net"); err == nil && at != want && !slices.Contains(ours, task.Name()) {
			tid := task.Name()
			// It may be one that has just been given up.
			eventually(t, "thread "+tid+" in "+at+" has ended", func() bool {
				_, err := os.Readlink(own + tid + "/ns/net")
				return err != nil
			})
		}
	}
}

func dupFD(t *testing.T, fd int) int {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	return dup
}

// serveByte sends name to everyone who connects, until the test ends.
func serveByte(t *testing.T, l net.Listener, name byte) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{name})
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

func TestCloseEndsThreads(t *testing.T) {
	name := makeNetNS(t, "192.0.2.1/32")
	cycle := func() []int {
		n, err := nsdial.OpenName(name)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		l, err := n.Listen(t.Context(), "tcp", "192.0.2.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				c, err := n.DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
				if err := n.Do(func() error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		tids := n.TIDs()
		n.Close()
		for _, tid := range tids {
			if threadAlive(tid) {
				t.Errorf("thread %d is there after Close", tid)
			}
		}
		if left := n.TIDs(); len(left) > 0 {
			t.Errorf("threads %v after Close", left)
		}
		return tids
	}
	// The runtime's own threads, and the descriptors of its poller, come first.
	for range 5 {
		cycle()
	}
	fds, tasks := countDir(t, "/proc/self/fd"), countDir(t, "/proc/self/task")
	goroutines := runtime.NumGoroutine()
	var ended int
	for range 30 {
		ended += len(cycle())
	}
	if ended < 30 {
		t.Fatalf("only %d threads in 30 rounds", ended)
	}
	eventually(t, "no more descriptors than before", func() bool { return countDir(t, "/proc/self/fd") <= fds })
	eventually(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines })
	// The runtime keeps what threads it happened to need at once.
	if got := countDir(t, "/proc/self/task"); got > tasks+ended/4 {
		t.Errorf("%d threads after %d had ended, %d before", got, ended, tasks)
	}
}

// The namespace is gone with the last thing that was in it.
func TestCloseLetsNamespaceGo(t *testing.T) {
	near := makeNetNS(t)
	t.Run("far", func(t *testing.T) {
		far := newNS(t)
		// The near end of a veth pair goes with the far one.
		withNetlink(t, near, func(nl *netlink.Handle) error {
			return nl.LinkAdd(&netlink.Veth{
				LinkAttrs:     netlink.LinkAttrs{Name: "near"},
				PeerName:      "far",
				PeerNamespace: netlink.NsFd(far.FD()),
			})
		})
		if err := far.Do(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		cookie(t, far)
	})
	eventually(t, "the namespace is gone", func() (gone bool) {
		withNetlink(t, near, func(nl *netlink.Handle) error {
			_, err := nl.LinkByName("near")
			gone = errors.As(err, new(netlink.LinkNotFoundError))
			return nil
		})
		return gone
	})
}

func TestCloseWhileBusy(t *testing.T) {
	name := makeNetNS(t)
	for range 20 {
		n, err := nsdial.OpenName(name)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for i := range 16 {
			wg.Go(func() {
				<-begin
				for j := 0; ; j++ {
					var err error
					switch i % 4 {
					case 0:
						err = n.Do(func() error { return nil })
					case 1:
						_, err = n.Cookie()
						if err == nil && j > 200 {
							err = n.Close()
						}
					default:
						var fd int
						if fd, err = n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
							unix.Close(fd)
						}
					}
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		close(begin)
		wg.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDoCloses(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	var tid int
	if err := n.Do(func() error { tid = unix.Gettid(); return n.Close() }); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil { // this one waits
		t.Fatal(err)
	}
	if threadAlive(tid) {
		t.Error("the thread is there after Close")
	}
}

func TestDoDelaysClose(t *testing.T) {
	n := open(t)(nsdial.OpenCurrent())
	running, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		_ = n.Do(func() error { close(running); <-release; return nil })
	}()
	<-running
	go func() { n.Close(); close(closed) }()
	// Closed to new comers at once ...
	eventually(t, "closed", func() bool {
		return errors.Is(n.Do(func() error { return nil }), net.ErrClosed)
	})
	select { // ... but not done.
	case <-closed:
		t.Error("Close did not wait for the function")
	default:
	}
	close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-closed:
	case <-ctx.Done():
		t.Error("Close never returned")
	}
}
