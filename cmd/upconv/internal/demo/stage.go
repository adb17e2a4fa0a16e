package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/upconv"
	"github.com/upconv/upconv/upconv/event"
)

const (
	stepTime  = 10 * time.Second // for anything that is waited for
	wholeTime = 30 * time.Second // for all of it; it takes about one second
)

// stage is where the demo happens.
type stage struct {
	*lab
	*screen
	ctx    context.Context
	server *server

	egressPath string
	originPath string
	client     []string // a command line, as it is shown; "upconv" in it is this executable
	refused    int      // the exit status by which the client says that it could not connect
}

// Stage makes the namespaces and shows what there is to see. The process must have CAP_SYS_ADMIN
// and CAP_NET_ADMIN, in its user namespace. It returns as [Run] does.
func Stage(ctx context.Context, out io.Writer) (status int, err error) {
	// For PDEATHSIG, as in Run.
	runtime.LockOSThread()
	ctx, cancel := context.WithTimeout(ctx, wholeTime)
	defer cancel()
	d := &stage{ctx: ctx, screen: newScreen(out)}

	fetched := new(fetched)
	for i, step := range []struct {
		name string
		do   func() error
	}{
		{"The set-up: three hosts, made of throw-away network namespaces", d.setUp},
		{"Without upconv: the client fails in the origin", d.fail},
		{"With upconv: the same client, in the same place", func() error { return d.succeed(fetched) }},
		{"What upconv decided: the event, from --events", func() error { return d.decided(fetched) }},
		{"What it costs", d.cost},
	} {
		d.heading(i+1, step.name)
		if err = step.do(); err == nil {
			err = d.err
		}
		if err != nil {
			status, err = d.failure(i+1, err)
			break
		}
	}
	if d.lab != nil {
		d.close()
	}
	return status, err
}

// failure says which step an error is from, and with which status it ends.
func (d *stage) failure(step int, err error) (int, error) {
	if forbidden := new(errNotPermitted); errors.As(err, &forbidden) {
		return upconv.ExitFailed, forbidden
	}
	if d.ctx.Err() != nil {
		err = fmt.Errorf("not done after %v: %w", wholeTime, err)
	}
	return exitStep, fmt.Errorf("demo: step %d failed: %w", step, err)
}

func (d *stage) setUp() (err error) {
	if d.lab, err = newLab(); err != nil {
		return err
	}
	if d.server, err = newServer(d.ctx, d.lab.server); err != nil {
		return err
	}
	// Nothing has a name here, so upconv is given the descriptors.
	fd := func(ns *nsdial.Namespace) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()) }
	d.originPath, d.egressPath = fd(d.origin), fd(d.egress)
	d.said(plain, picture)

	// What comes after means something only if both wires work.
	var got strings.Builder
	ctx, cancel := context.WithTimeout(d.ctx, stepTime)
	defer cancel()
	if err := get(ctx, &got, pageURL6, d.origin.DialContext); err != nil {
		return fmt.Errorf("IPv6 in the origin: %w", err)
	}
	if want := page(netip.MustParseAddr(originAddr6), netip.MustParseAddr(serverAddr6)); got.String() != want {
		return fmt.Errorf("IPv6 in the origin: the page is %q instead of %q", got.String(), want)
	}
	note, err := d.chooseClient()
	if err != nil {
		return err
	}
	d.server.newVisitors()
	d.para("The origin reaches the server by IPv6 and the egress by IPv4: both were tried. " + note)
	return nil
}

// wantPage is what a client gets through the egress.
func wantPage() string { return page(netip.MustParseAddr(egressAddr), netip.MustParseAddr(serverAddr)) }

// chooseClient takes curl if there is one that gets the page where there is IPv4, and the built-in
// client otherwise.
func (d *stage) chooseClient() (note string, err error) {
	curl := []string{"curl", "-qsS", pageURL} // -q: whatever is in ~/.curlrc
	builtin := []string{"upconv", "demo", GetCommand, pageURL}
	note = "There is no curl on PATH, so the client is one that is built into upconv."
	if _, err := exec.LookPath("curl"); err == nil {
		if o, err := d.run(d.egress, curl); err == nil && o.status == 0 && o.stdout == wantPage() {
			d.client, d.refused = curl, 7 // CURLE_COULDNT_CONNECT
			return "The client is curl.", nil
		}
		note = "The curl on PATH did not get the page in the egress, so the client is one that is built into upconv."
	}
	o, err := d.run(d.egress, builtin)
	switch {
	case err != nil:
		return "", err
	case o.status != 0 || o.stdout != wantPage():
		return "", fmt.Errorf("the built-in client in the egress: %v", o)
	}
	d.client, d.refused = builtin, exitStep
	return note, nil
}

func (d *stage) fail() error {
	d.command(strings.Join(d.client, " "))
	o, err := d.run(d.origin, d.client)
	if err != nil {
		return err
	}
	d.said(red, o.stderr+o.stdout)
	if o.status != d.refused || o.stdout != "" {
		return fmt.Errorf("the client should say that it cannot connect (exit status %d): %v", d.refused, o)
	}
	if visitors := d.server.newVisitors(); len(visitors) > 0 {
		return fmt.Errorf("the server was reached without upconv, from %v", visitors)
	}
	// A client's words differ from version to version, so the kernel is asked as well.
	if err := unreachable(d.origin); err != nil {
		return err
	}
	d.para(fmt.Sprintf("Exit status %d. The origin has no way to any IPv4 address: connect(2) to %s returns ENETUNREACH there, %q.",
		o.status, pageAddr, unix.ENETUNREACH.Error()))
	return nil
}

// unreachable checks that connect(2) to the server fails with ENETUNREACH in a namespace.
func unreachable(ns *nsdial.Namespace) error {
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket in the origin: %w", err)
	}
	defer unix.Close(fd)
	addr := netip.MustParseAddrPort(pageAddr)
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
	if err != unix.ENETUNREACH {
		return fmt.Errorf("connect(2) to %s in the origin should return ENETUNREACH; it returned: %v", addr, err)
	}
	return nil
}

// fetched is what is known of the client's success.
type fetched struct {
	events  []event.Event
	visitor netip.AddrPort // the client as the server saw it
}

func (d *stage) succeed(f *fetched) error {
	d.command("upconv run --netns origin --via netns:egress --events -", "-- "+strings.Join(d.client, " "))
	args := []string{"upconv", "run", "--netns", d.originPath, "--via", "netns:" + d.egressPath, "--events", "-", "--"}
	o, err := d.run(nil, append(args, d.client...))
	if err != nil {
		return err
	}
	words, events := splitEvents(o.stderr)
	if o.status != 0 {
		d.said(red, words+o.stdout)
		return fmt.Errorf("upconv run: %v", o)
	}
	d.said(green, words+o.stdout)
	if o.stdout != wantPage() {
		return fmt.Errorf("the page is %q instead of %q", o.stdout, wantPage())
	}
	visitors := d.server.newVisitors()
	if len(visitors) != 1 || visitors[0].Addr().String() != egressAddr {
		return fmt.Errorf("the server should have seen one client, %s; it saw %v", egressAddr, visitors)
	}
	f.events, f.visitor = events, visitors[0]
	d.para(fmt.Sprintf("The client ran in the origin, and the server saw %s, the egress. (Here origin and egress stand for %s and %s: nothing has a name.)",
		f.visitor, d.originPath, d.egressPath))
	return nil
}

// splitEvents takes the events out of what was written to standard error.
func splitEvents(stderr string) (words string, events []event.Event) {
	for line := range strings.Lines(stderr) {
		var e event.Event
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &e) == nil && e.Call != "" {
			events = append(events, e)
		} else {
			words += line
		}
	}
	return words, events
}

func (d *stage) decided(f *fetched) error {
	if len(f.events) != 1 {
		return fmt.Errorf("one connect(2) was to be decided on, and there are %d events: %+v", len(f.events), f.events)
	}
	e := f.events[0]
	d.rows([][3]string{
		{"call", e.Call, fmt.Sprintf("of %s, pid %d", e.Comm, e.PID)},
		{"netns", strconv.FormatUint(e.Netns, 10), "the origin's inode"},
		{"dst", e.Dst, "what the client asked for"},
		{"rule", e.Rule, "no --rule, so --via decides"},
		{"route", e.Route, "the egress"},
		{"local", e.Local, "what the server saw"},
		{"result", e.Result, ""},
		{"duration_us", strconv.FormatInt(e.Duration, 10), "the decision and the swap"},
	})
	d.line("")
	for _, check := range []struct{ key, got, want string }{
		{"call", e.Call, "connect"},
		{"netns", strconv.FormatUint(e.Netns, 10), strconv.FormatUint(d.origin.Inode(), 10)},
		{"dst", e.Dst, pageAddr},
		{"rule", e.Rule, "default"},
		{"route", e.Route, "netns:" + d.egressPath},
		{"local", e.Local, f.visitor.String()},
		{"result", e.Result, "ok"},
	} {
		if check.got != check.want {
			return fmt.Errorf("the event's %s is %q instead of %q", check.key, check.got, check.want)
		}
	}
	return nil
}

func (d *stage) cost() error {
	bench := []string{"upconv", "demo", BenchCommand, connectAddr, bulkAddr}
	under := append([]string{"upconv", "run", "--netns", d.originPath, "--via", "netns:" + d.egressPath, "--"}, bench...)
	ctx, cancel := context.WithTimeout(d.ctx, stepTime)
	defer cancel()
	var clients [2]*bencher
	for i, c := range []struct {
		name string
		ns   *nsdial.Namespace
		args []string
	}{{"native", d.egress, bench}, {"under upconv", nil, under}} {
		client, err := newBencher(c.name, func(stdin io.Reader, stdout io.Writer) error {
			var stderr strings.Builder
			cmd := prepare(ctx, c.args)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
			if err := start(c.ns, cmd); err != nil {
				return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
			}
			return nil
		})
		if err != nil {
			return err
		}
		defer client.hangUp()
		clients[i] = client
	}
	c, err := measure(ctx, d.server, clients)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done after %v: %w", stepTime, err)
		}
		return err
	}
	for _, client := range clients {
		if err := client.hangUp(); err != nil {
			return fmt.Errorf("%s: %w", client.name, err)
		}
	}
	const format = margin + "%-24s%14s%16s%10s"
	d.line("%s", d.in(faint, fmt.Sprintf(format, "", "native", "under upconv", "ratio")))
	d.line(format, "connect(2)", microseconds(c.connect[0]), microseconds(c.connect[1]),
		fmt.Sprintf("%.2f x", float64(c.connect[1])/float64(c.connect[0])))
	d.line(format, "throughput", rate(bulk, c.receive[0]), rate(bulk, c.receive[1]),
		fmt.Sprintf("%.2f x", float64(c.receive[0])/float64(c.receive[1])))
	d.line("")
	d.para(fmt.Sprintf("Medians; native is in the egress. %d connects each, in turns of %d; then %d MiB over one connection, in turns, %s each. Once connected, the data does not pass through upconv.",
		batch*batches, batch, bulk>>20, times(c.rounds)))
	return nil
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// outcome is what a program did.
type outcome struct {
	status         int // as of a shell
	stdout, stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit status %d, output %q, error output %q", o.status, o.stdout, o.stderr)
}

// prepare makes a command of a command line, as it is shown. It is killed when ctx ends, or this
// thread.
func prepare(ctx context.Context, line []string) *exec.Cmd {
	args := append([]string(nil), line...)
	for i, arg := range args {
		if arg == "upconv" {
			args[i] = self
		}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Args[0] = line[0]
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// environment is this process's without what would have a web client do something else.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name = strings.ToLower(name); !strings.HasSuffix(name, "_proxy") && name != "lc_all" {
			env = append(env, entry)
		}
	}
	return env
}

// start runs a command in a namespace, or where this process is, until it ends. All that time it
// keeps the thread that started it, whose death would be the command's.
func start(ns *nsdial.Namespace, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if ns == nil {
		return cmd.Run()
	}
	return ns.Do(cmd.Run)
}

// run runs a command line in a namespace, or where this process is.
func (d *stage) run(ns *nsdial.Namespace, line []string) (o outcome, err error) {
	ctx, cancel := context.WithTimeout(d.ctx, stepTime)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := prepare(ctx, line)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = start(ns, cmd)
	o = outcome{stdout: stdout.String(), stderr: stderr.String()}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		if ctx.Err() != nil {
			return o, fmt.Errorf("%s: not done after %v; output %q, error output %q", line[0], stepTime, o.stdout, o.stderr)
		}
		if o.status = exit.ExitCode(); o.status < 0 {
			o.status = upconv.ExitSignal + int(exit.Sys().(syscall.WaitStatus).Signal())
		}
		err = nil
	}
	if err != nil {
		return o, fmt.Errorf("%s: %w", line[0], err)
	}
	return o, nil
}

// rows writes keys, values and remarks.
func (d *stage) rows(rows [][3]string) {
	var width int
	for _, row := range rows {
		width = max(width, len(row[1]))
	}
	for _, row := range rows {
		key, value, remark := fmt.Sprintf("%-13s", row[0]), row[1], row[2]
		if remark != "" {
			value = fmt.Sprintf("%-*s", width+2, value)
		}
		d.line("%s%s%s%s", margin, d.in(faint, key), printable(value), d.in(faint, remark))
	}
}
