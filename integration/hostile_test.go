package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/upconv/upconv/nsdial"
	"github.com/vishvananda/netlink"
)

// Addresses of the server, and ports, for hostile programs.
const (
	closedAddr   = "203.0.113.12" // nobody is at the port
	silentAddr   = "203.0.113.99" // never answers
	rejectedAddr = "203.0.113.11" // the policy refuses it
	linkedAddr   = "203.0.113.20" // its route is a Unix socket
	hostilePort  = "7070"
	serverPort   = "7090" // where the program tries to be a server in the egress
)

// A watch counts what arrives at one place where a program must not arrive.
type watch struct {
	name    string
	arrived atomic.Int64
	proofs  int64                       // of the arrivals, those that the test has made itself
	prove   func(context.Context) error // arrives there once
}

// arrivals returns how many have arrived but for the test's own. It makes sure that one that
// arrives is counted. That one comes last, so that nothing is on its way any more.
func (w *watch) arrivals(t testing.TB) int64 {
	t.Helper()
	before := w.arrived.Load()
	// The counter resets what it has counted.
	if err := w.prove(t.Context()); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%s: %v: this test cannot tell anything", w.name, err)
	}
	if !soon(func() bool { return w.arrived.Load() > before }) {
		t.Fatalf("%s: what arrives is not counted: this test cannot tell anything", w.name)
	}
	w.proofs++
	return w.arrived.Load() - w.proofs
}

// A hostileWay is a way to start a hostile program, with watches on what it must not reach.
type hostileWay struct {
	*caseWay
	row      *hostileWayRow
	programs map[string]string // by the kind of its system calls
	watches  []*watch
	beyond   *watch // a host beyond the egress, which tries to reach the program there
	links    []string
	overhead time.Duration // what a program has taken in addition to its time
}

// A hostileWayRow names a way: the route and the kind as for newCaseWay, and further flags.
type hostileWayRow struct {
	route, kind string
	flags       []string
	every       bool // it is for every kind of program also where there is little time
}

// hostileWays are all ways.
var hostileWays = []hostileWayRow{
	{"netns", "bpf", nil, true},
	{"netns", "no bpf", nil, false},
	{"isolate", "user", nil, true},
	{"isolate", "bpf", nil, false},
	{"netns", "bpf", []string{"--udp", "connected"}, false},
	{"netns", "no bpf", []string{"--swap-at", "socket"}, false},
	{"isolate", "user", []string{"--swap-at", "socket"}, false},
}

// parts is how large a share of the time a way has. One that is not for every kind has a third
// where there is little time.
func (r *hostileWayRow) parts(long bool) int {
	switch {
	case inUserNamespace() && r.kind == "bpf":
		return 0 // it is skipped
	case r.every || long:
		return 3
	}
	return 1
}

// has reports whether a kind of program makes sense.
func (r *hostileWayRow) has(k *hostileKind) bool {
	switch {
	case k.unconnected, k.abi == "socketcall" && strings.HasPrefix(k.name, "MSG_FASTOPEN"):
		return !slices.Contains(r.flags, "connected") // which says that nobody looks where these go
	case k.link:
		// It needs a route to a Unix socket, and somebody who is not upconv's user.
		return r.kind != "user" && !slices.Contains(r.flags, "socket")
	}
	return true
}

// newHostileWay makes the places that a way's program must not reach, and the servers that it may.
func newHostileWay(t *testing.T, row *hostileWayRow) *hostileWay {
	t.Helper()
	w := &hostileWay{caseWay: newCaseWay(t, row.route, row.kind), row: row}
	for _, addr := range []string{closedAddr, rejectedAddr} {
		loopback(t, w.serverName, netlink.AddrAdd, addr)
	}
	output(t, command(t, "ip", "-n", w.serverName, "route", "add", "blackhole", silentAddr))
	w.programs = map[string]string{}
	for abi, compiler := range udpABIs {
		w.programs[abi] = compileC(t, "hostile.c", compiler...)
	}
	egress, err := nsdial.OpenName(w.egress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { egress.Close() })
	welcome := net.JoinHostPort(serverAddr, hostilePort)
	countConnections(t, w.listen(welcome), new(atomic.Int64))
	countPackets(w.packets(w.server, welcome), new(atomic.Int64))
	for _, place := range []struct {
		name, addr string
		at         *nsdial.Namespace
	}{
		{"the rejected host", rejectedAddr, w.server},
		{"the egress's 127.0.0.1", "127.0.0.1", egress},
		{"the egress's ::1", "::1", egress},
	} {
		addr := net.JoinHostPort(place.addr, hostilePort)
		for _, network := range []string{"tcp", "udp"} {
			watch := &watch{name: place.name + ", " + network}
			watch.prove = func(ctx context.Context) error { return arrive(ctx, egress, network, addr) }
			if network == "udp" {
				countPackets(w.packets(place.at, addr), &watch.arrived)
			} else if listener, err := place.at.Listen(t.Context(), network, addr); err != nil {
				t.Fatal(err)
			} else {
				countConnections(t, listener, &watch.arrived)
			}
			w.watches = append(w.watches, watch)
		}
	}
	w.beyond = &watch{name: "a host beyond the egress, tcp"}
	if row.has(&hostileKind{link: true}) {
		w.link(t)
	}
	return w
}

// arrive connects, or sends a datagram, from a namespace.
func arrive(ctx context.Context, from *nsdial.Namespace, network, addr string) error {
	conn, err := from.DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if network == "udp" {
		_, err = conn.Write([]byte("x"))
	}
	return err
}

// countConnections counts the connections of a listener, and resets them: no port stays taken.
func countConnections(t testing.TB, listener net.Listener, arrived *atomic.Int64) {
	t.Cleanup(func() { listener.Close() })
	each(listener, func(conn net.Conn) {
		arrived.Add(1)
		if tcp, is := conn.(*net.TCPConn); is {
			tcp.SetLinger(0)
		}
	})
}

// countPackets counts the datagrams of a socket, until it is closed.
func countPackets(packets *net.UDPConn, arrived *atomic.Int64) {
	data := make([]byte, 1<<16)
	go func() {
		for {
			if _, _, err := packets.ReadFromUDPAddrPort(data); err != nil {
				return
			}
			arrived.Add(1)
		}
	}()
}

// link makes two Unix sockets, of which only one is for the program, and a directory for its link.
func (w *hostileWay) link(t *testing.T) {
	t.Helper()
	own := newUserSocket(t, w.origin, "own", "unix", 0o666, 0)
	foreign := filepath.Join(filepath.Dir(own), "foreign")
	listener, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	watch := &watch{name: "root's Unix socket"}
	watch.prove = func(context.Context) error {
		conn, err := net.Dial("unix", foreign)
		if err == nil {
			conn.Close()
		}
		return err
	}
	countConnections(t, listener, &watch.arrived)
	w.watches = append(w.watches, watch)
	dir := filepath.Join(filepath.Dir(own), "links")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobodyID, nobodyID); err != nil {
		t.Fatal(err)
	}
	w.links = []string{linkedAddr, filepath.Join(dir, "link"), own, foreign}
}

// knock has the server try to connect to the program in the egress until end is called.
func (w *hostileWay) knock(t testing.TB) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pause := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-pause.C {
			if arrive(ctx, w.server, "tcp", net.JoinHostPort(egressAddr, serverPort)) == nil {
				w.beyond.arrived.Add(1)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// proveBeyond shows that the host beyond the egress reaches a server there, and is counted.
func (w *hostileWay) proveBeyond(t testing.TB) {
	t.Helper()
	end := w.knock(t)
	defer end()
	var listener net.Listener
	inNamespace(t, w.egress, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(egressAddr, serverPort))
		return err
	})
	defer listener.Close()
	if !soon(func() bool { return w.beyond.arrived.Load() > 0 }) {
		t.Fatalf("%s: what it reaches is not counted: this test cannot tell anything", w.beyond.name)
	}
}

// A hostileKind is a kind of hostile program.
type hostileKind struct {
	name, abi                 string
	unconnected, link, server bool     // it sends without connecting; has a link; tries to be a server
	about                     []string // what it has to do with
}

// kinds returns what kinds of hostile programs there are for the way.
func (w *hostileWay) kinds(t testing.TB) (kinds []hostileKind) {
	t.Helper()
	for _, abi := range []string{"amd64", "i386", "socketcall"} {
		for line := range strings.Lines(output(t, command(t, w.programs[abi], "list"))) {
			words := strings.Split(strings.TrimSpace(line), "/")
			is := func(what string) bool { return slices.Contains(words, what) }
			k := hostileKind{words[0], abi, is("unconnected"), is("link"), is("server"), append(words[1:], abi)}
			if w.row.has(&k) {
				kinds = append(kinds, k)
			}
		}
	}
	return kinds
}

// share returns how many tries there are to be in one way so that they are so many in all.
func (k *hostileKind) share(tries int64) int64 {
	ways := int64(0)
	for _, row := range hostileWays {
		if row.has(k) {
			ways++
		}
	}
	return (tries + ways - 1) / ways
}

// A hostileScore is what has become of a kind of program.
type hostileScore struct {
	tries, arrivals int64
	outcomes        map[string]int
}

// A hostileTable is the scores of all kinds, or of all that kinds have to do with, in all ways
// together.
type hostileTable struct {
	names  []string
	scores map[string]hostileScore
}

func (h *hostileTable) add(name string, score hostileScore) {
	if h.scores == nil {
		h.scores = map[string]hostileScore{}
	}
	sum, known := h.scores[name]
	if !known {
		h.names = append(h.names, name)
	}
	h.scores[name] = hostileScore{tries: sum.tries + score.tries, arrivals: sum.arrivals + score.arrivals}
}

// list returns the table with a title.
func (h *hostileTable) list(title string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%-60s %12s %12s\n", title, "tries", "arrivals")
	for _, name := range h.names {
		fmt.Fprintf(&text, "%-60s %12d %12d\n", name, h.scores[name].tries, h.scores[name].arrivals)
	}
	return text.String()
}

// play runs hostile programs of a kind until an end, or until they have made so many tries, and
// counts what arrives.
func (w *hostileWay) play(t *testing.T, k hostileKind, until time.Time, tries int64) (score hostileScore) {
	t.Helper()
	before := map[*watch]int64{}
	for _, watch := range w.watches {
		before[watch] = watch.arrivals(t)
	}
	end, knocked := func() {}, w.beyond.arrived.Load()
	if k.server {
		end = w.knock(t)
	}
	score.outcomes = map[string]int{}
	for first := true; first || time.Until(until) > w.overhead && (tries == 0 || score.tries < tries); first = false {
		length := max(min(time.Until(until)-w.overhead, 20*time.Second), time.Millisecond)
		began := time.Now()
		w.playOnce(t, k, &score, fmt.Sprint(length.Seconds()), fmt.Sprint(max(tries-score.tries, 0)))
		w.overhead = min(max(time.Since(began)-length, 0), 200*time.Millisecond)
	}
	end()
	arrived := func(n int64, where string) {
		if score.arrivals += n; n == 0 {
			return
		}
		t.Errorf("%d arrived at %s", n, where)
	}
	arrived(int64(score.outcomes["reached"]), "a port of the egress to be a server there")
	arrived(w.beyond.arrived.Load()-knocked, "a server of the program's in the egress")
	for _, watch := range w.watches {
		arrived(watch.arrivals(t)-before[watch], watch.name)
	}
	t.Logf("%d tries: %v", score.tries, score.outcomes)
	return score
}

// playOnce runs one hostile program, and adds what it prints to the score.
func (w *hostileWay) playOnce(t *testing.T, k hostileKind, score *hostileScore, seconds, tries string) {
	t.Helper()
	flags := slices.Concat([]string{"--rule", rejectedAddr + "=reject"}, w.row.flags)
	line := []string{w.programs[k.abi], k.name, seconds, tries,
		serverAddr, closedAddr, silentAddr, rejectedAddr, hostilePort, serverPort}
	if k.link {
		flags = append([]string{"--rule", linkedAddr + "=unix:" + w.links[1]}, flags...)
		line = slices.Concat([]string{needProgram(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"}, line, w.links)
	}
	for name, n := range numbersOf(t, output(t, w.upconv(flags, line...))) {
		if name == "tries" {
			score.tries += int64(n)
		} else {
			score.outcomes[name] += n
		}
	}
}

// TestHostile runs programs of every kind that try to get past the policy by changing what a call
// is about while it is decided, in every way. Nothing of theirs arrives at a host that is refused,
// at the loopback of the egress, or at a Unix socket that only root may reach; and nobody beyond
// the egress reaches the program.
//
// It takes some $HOSTILE_SECONDS in all, or makes $HOSTILE_TRIES of each kind, and writes a table
// to the file $HOSTILE_TABLE.
func TestHostile(t *testing.T) {
	needRoot(t)
	length, tries := 40*time.Second, int64(0)
	if inUserNamespace() {
		length /= 2
	}
	long := os.Getenv("HOSTILE_SECONDS") != "" || os.Getenv("HOSTILE_TRIES") != ""
	if s, err := strconv.Atoi(os.Getenv("HOSTILE_SECONDS")); err == nil {
		length = time.Duration(s) * time.Second
	}
	if n, err := strconv.ParseInt(os.Getenv("HOSTILE_TRIES"), 10, 64); err == nil {
		length, tries = 24*time.Hour, n
	}
	var table, subjects hostileTable
	parts := 0 // of the time
	for _, way := range hostileWays {
		parts += way.parts(long)
	}
	for i, way := range hostileWays {
		t.Run(strings.Join(append([]string{way.route, way.kind}, way.flags...), " "), func(t *testing.T) {
			w := newHostileWay(t, &way)
			w.proveBeyond(t)
			kinds := w.kinds(t)
			if way.parts(long) == 1 {
				kinds = slices.DeleteFunc(kinds, func(k hostileKind) bool { return (len(k.name)+i)%3 != 0 })
			}
			end := time.Now().Add(length * time.Duration(way.parts(long)) / time.Duration(parts))
			for i, k := range kinds {
				t.Run(k.name+", "+k.abi, func(t *testing.T) {
					until := time.Now().Add(time.Until(end) / time.Duration(len(kinds)-i))
					score := w.play(t, k, until, k.share(tries))
					table.add(k.name+", "+k.abi, score)
					for _, subject := range k.about {
						subjects.add(subject, score)
					}
				})
			}
		})
	}
	if path := os.Getenv("HOSTILE_TABLE"); path != "" {
		if err := os.WriteFile(path, []byte(table.list("kind")+"\n"+subjects.list("all that have to do with")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
