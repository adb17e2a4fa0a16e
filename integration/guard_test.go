package integration

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/upconv/upconv/nsdial"
)

// loopServers are a TCP and a UDP server on the loopback of an egress, which nobody is to reach.
// They count what arrives.
type loopServers struct {
	egress   *nsdial.Namespace
	tcp, udp string // ports
	arrived  atomic.Int64
}

// serveLoop starts the servers on the egress's loopback.
func (w *caseWay) serveLoop(t *testing.T) *loopServers {
	t.Helper()
	egress, err := nsdial.OpenName(w.egress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { egress.Close() })
	s := &loopServers{egress: egress}
	listener, err := egress.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, s.tcp = split(t, listener.Addr().String())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.arrived.Add(1)
			conn.Close()
		}
	}()
	packets := w.packets(egress, "127.0.0.1:0")
	_, s.udp = split(t, packets.LocalAddr().String())
	go func() {
		data := make([]byte, 1<<10)
		for {
			_, from, err := packets.ReadFromUDPAddrPort(data)
			if err != nil {
				return
			}
			s.arrived.Add(1)
			packets.WriteToUDPAddrPort(data[:1], from)
		}
	}()
	return s
}

// count returns how much has arrived since the last count. It sends something itself, over both
// protocols, which comes after all else and must have been counted, too.
func (s *loopServers) count(t *testing.T) int64 {
	t.Helper()
	for network, port := range map[string]string{"tcp": s.tcp, "udp": s.udp} {
		conn, err := s.egress.DialContext(context.Background(), network, "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if network == "udp" {
			conn.Write([]byte("counted?"))
		}
		if n, err := conn.Read(make([]byte, 16)); n == 0 && !errors.Is(err, io.EOF) {
			t.Fatalf("%s: %v", network, err)
		}
		conn.Close()
	}
	n := s.arrived.Swap(0) - 2
	if n < 0 {
		t.Fatal("the servers on the egress's loopback do not count what arrives")
	}
	return n
}

// forEachEgress is forEachWay for the ways that have an egress, with servers on its loopback.
func forEachEgress(t *testing.T, test func(t *testing.T, w *caseWay, loop *loopServers)) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		if w.route != "nat64" {
			test(t, w, w.serveLoop(t))
		}
	})
}

// TestFirstMoveRace has many threads send to the loopback in the moment in which the program's
// first datagram socket goes to an egress and is put under their numbers.
func TestFirstMoveRace(t *testing.T) {
	const rounds = 3
	forEachEgress(t, func(t *testing.T, w *caseWay, loop *loopServers) {
		probe := compileC(t, "guard_race.c", "gcc", "-static", "-pthread")
		for _, how := range []string{"sendto", "sendmsg", "sendmmsg"} {
			for range rounds {
				got := output(t, w.upconv([]string{"--udp", "full"}, probe, "first", how, serverAddr, echoPort, "60", loop.tcp, loop.udp))
				if strings.TrimSpace(got) != "moved: yes" {
					t.Fatalf("%s: it says %q", how, got)
				}
			}
			if n := loop.count(t); n != 0 {
				t.Errorf("%s: %d datagrams reached the egress's loopback", how, n)
			}
		}
	})
}

// TestCallRace has a thread put a socket of an egress under the number of another one's call, and
// change its address. The calls are direct, or wait for a host that does not answer.
func TestCallRace(t *testing.T) {
	forEachEgress(t, func(t *testing.T, w *caseWay, loop *loopServers) {
		probe := compileC(t, "guard_race.c", "gcc", "-static", "-pthread")
		for _, c := range []struct{ call, kind string }{
			{"connect", "refused"}, {"connect", "udp"}, {"wait", "refused"}, {"wait", "udp"}, {"wait-sendto", "refused"}, {"wait-sendto", "udp"},
			{"fastopen", "refused"}, {"fastopen", "udp"}, {"fastopen-sendmsg", "udp"}, {"listen", "refused"}, {"listen", "idle"},
		} {
			got := output(t, w.upconv([]string{"--udp", "full"}, probe, c.call, c.kind, serverAddr, echoPort, "30", loop.tcp, loop.udp))
			if n := loop.count(t); strings.TrimSpace(got) != "planted: yes; reached: 0" || n != 0 {
				t.Errorf("%s, %s: it says %q, and %d arrived", c.call, c.kind, got, n)
			}
		}
	})
}

// TestCopyRace has a thread copy a socket to the number that another one connects it by, which is
// to be the same socket after that, too.
func TestCopyRace(t *testing.T) {
	forEachEgress(t, func(t *testing.T, w *caseWay, loop *loopServers) {
		probe := compileC(t, "guard_race.c", "gcc", "-static", "-pthread")
		got := output(t, w.upconv(nil, probe, "copies", "-", serverAddr, echoPort, "500", loop.tcp, loop.udp))
		if strings.TrimSpace(got) != "apart: 0" {
			t.Errorf("it says %q", got)
		}
	})
}

// TestGuardedBind has a program with two threads, whose bind(2) upconv makes, ask for a low port:
// it gets that only with the privilege, as natively.
func TestGuardedBind(t *testing.T) {
	const script = `import errno, socket, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    for family, address in (socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'):
        s = socket.socket(family, kind)
        said = []
        for port in 80, 0, 0:
            try:
                s.bind((address, port))
                said.append('ok')
            except OSError as e:
                said.append(errno.errorcode[e.errno])
        print(*said)
`
	forEachEgress(t, func(t *testing.T, w *caseWay, _ *loopServers) {
		client := []string{needProgram(t, python), "-c", script}
		users := map[string][]string{"as it is": client}
		if !w.user {
			setpriv := needProgram(t, "setpriv")
			users["without the capability"] = append([]string{setpriv, "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"}, client...)
			users["as an ordinary user"] = append([]string{setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"}, client...)
			users["with the capability"] = append([]string{setpriv, "--reuid=65534", "--regid=65534", "--clear-groups",
				"--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"}, client...)
		}
		for name, args := range users {
			if got, want := output(t, w.upconv(nil, args...)), output(t, w.native(args...)); got != want {
				t.Errorf("%s: it says\n%s\nwant\n%s", name, got, want)
			}
		}
	})
}

// TestGuardedUnix has a program with two threads, and with a socket in an egress, connect Unix
// sockets, which upconv then does for it: everything is as natively, and the server sees the same
// user.
func TestGuardedUnix(t *testing.T) {
	const script = `import errno, os, socket, struct, sys, tempfile, threading, time
threading.Thread(target=threading.Event().wait, daemon=True).start()
moved = socket.create_connection((sys.argv[1], 7080), 10)
directory = tempfile.mkdtemp()
os.chdir(directory)
os.mkdir('in')
def unix(kind=socket.SOCK_STREAM): return socket.socket(socket.AF_UNIX, kind)
def listener(name, backlog=50):
    l = unix(); l.bind(name); l.listen(backlog); return l
def attempt(what, address, s=None, timeout=None):
    s = s or unix()
    try:
        if timeout: s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, int(timeout*1e6)))
        s.connect(address)
        print(what, 'ok', s.getpeername())
    except OSError as e:
        print(what, errno.errorcode[e.errno])
    return s
here, abstract, full = listener('in/here'), listener('\0guarded-%d' % os.getpid()), listener('full', 0)
os.symlink('in/here', 'link')
os.symlink('loop', 'loop')
open('file', 'w').close()
packets = unix(socket.SOCK_DGRAM); packets.bind('packets')
def peer(l):
    c, _ = l.accept()
    print(struct.unpack('3i', c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:])
first = attempt('relative', 'in/here'); peer(here)
print(struct.unpack('3i', first.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:] == (os.getuid(), os.getgid()))
attempt('again', 'in/here', first)
attempt('up', 'in/../in/here'); peer(here)
s = unix()
s.connect(os.path.join(directory, 'in/here')); peer(here)
attempt('link', 'link'); peer(here)
s = unix(); s.connect('\0guarded-%d' % os.getpid()); print('abstract'); peer(abstract)
fd = os.open('in', os.O_PATH)
unix().connect('/proc/self/fd/%d/here' % fd); print('by descriptor'); peer(here)
attempt('nobody', 'nobody'); attempt('directory', 'in'); attempt('file', 'file'); attempt('loop', 'loop'); attempt('below', 'file/x')
attempt('kind', 'packets'); attempt('datagrams', 'packets', unix(socket.SOCK_DGRAM)); attempt('kind', 'in/here', unix(socket.SOCK_DGRAM))
attempt('empty', '')
os.chmod('in', 0)
attempt('forbidden', 'in/here')
os.chmod('in', 0o755)
attempt('first', 'full')
s = unix(); s.setblocking(False); attempt('full', 'full', s)
attempt('full, in time', 'full', timeout=0.1)
def accept_late(): time.sleep(0.2); full.accept(); full.accept()
threading.Thread(target=accept_late).start()
attempt('full, waits', 'full')
attempt('closed', 'in/here', here)
here.close(); attempt('nobody listens', 'in/here')
l = unix(); l.bind('late'); attempt('before listen', 'late'); l.listen(); attempt('after', 'late'); peer(l)
try: unix(socket.SOCK_DGRAM).listen()
except OSError as e: print(errno.errorcode[e.errno])
with open('file') as f:
    for call in (lambda s: s.connect('x')), (lambda s: s.bind('x')), (lambda s: s.listen()), (lambda s: s.sendto(b'x', 'x')):
        s = unix(); os.dup2(f.fileno(), s.fileno())
        try: call(s)
        except OSError as e: print(errno.errorcode[e.errno])
`
	forEachEgress(t, func(t *testing.T, w *caseWay, _ *loopServers) {
		client := []string{needProgram(t, python), "-c", script, serverAddr}
		under := w.upconv([]string{"--udp", "full"}, client...)
		if got, want := output(t, under), output(t, w.native(client...)); got != want {
			t.Errorf("it says\n%s\nwant\n%s", got, want)
		}
	})
}
