package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// refuse is a command line that starts another one under a filter that answers calls, names of
// refuse.c, with an errno.
func refuse(t testing.TB, calls string, errno unix.Errno) []string {
	t.Helper()
	return []string{compileC(t, "refuse.c", "gcc", "-static"), calls, strconv.Itoa(int(errno))}
}

// A refusal is a call of upconv's that a filter around it may refuse.
type refusal struct {
	calls string
	fails string // what upconv run says then, a regular expression; "": it works as ever
	user  bool   // only an ordinary user's upconv, with --isolate, is told
}

// refusals are the rows of docs/containers.md.
var refusals = []refusal{
	{calls: "process_vm_readv", fails: `(refuses|hides) process_vm_readv\(2\), which upconv needs.*: add --cap-add SYS_PTRACE to the container .*profile that allows process_vm_readv`},
	{calls: "process_vm_writev", fails: `(refuses|hides) process_vm_writev\(2\), which upconv needs.*: add --cap-add SYS_PTRACE to the container .*profile that allows process_vm_readv`},
	{calls: "seccomp", fails: `(refuses|hides) seccomp\(2\) with a listener, which upconv needs.*: use a seccomp profile that allows seccomp`},
	{calls: "pidfd_open", fails: `(refuses|hides) pidfd_open\(2\), which upconv needs.*: use a seccomp profile that allows pidfd_open`},
	{calls: "pidfd_getfd", fails: `(refuses|hides) pidfd_getfd\(2\), which upconv needs.*: add --cap-add SYS_PTRACE to the container, or use a seccomp profile that allows pidfd_getfd and kcmp`},
	{calls: "ioctl addfd", fails: `(refuses|hides) ioctl\(2\) SECCOMP_IOCTL_NOTIF_ADDFD, which upconv needs.*: use a seccomp profile that allows seccomp and ioctl`},
	{calls: "prctl pdeathsig", fails: `prctl\(2\) PR_SET_PDEATHSIG: .*refuses it: use a profile that allows prctl\(2\)`},
	{calls: "socket netlink", fails: `a socket in the command's network namespace: .*refuses it: use a profile that allows socket\(2\) with AF_NETLINK`},
	{calls: "unshare,close_range", fails: `a descriptor table for the command: .*refuses it: use a profile that allows unshare\(2\) or close_range\(2\)`},
	{calls: "setns", fails: `enter .*: upconv has CAP_SYS_ADMIN: .*refuses setns\(2\), or the namespace is of another user namespace`},
	{calls: "clone newuser", user: true, fails: `--isolate: a new user namespace: .*refuses clone\(2\) with CLONE_NEWUSER: use a profile that allows it, or add --cap-add SYS_ADMIN`},

	{calls: "bpf"}, {calls: "kcmp"}, {calls: "kcmp,bpf"}, {calls: "pidfd_open thread,bpf"}, {calls: "ptrace"}, {calls: "unshare"}, {calls: "close_range"},
	// These make things slower, or are missed in rare cases only.
	{calls: "sched_setaffinity,sched_getaffinity,getcpu,ioctl sync wake-up,bpf attach"},
	{calls: "prlimit64 of others,prctl subreaper,signalfd,fchmod,fchown"},
	{calls: "setns,unshare,kcmp,bpf,ptrace", user: true},
}

// TestRefused refuses each of upconv's calls in turn, by either errno. Programs run as they do
// natively, or upconv does not start them and says which call it is and what helps.
func TestRefused(t *testing.T) {
	u := newUDPLab(t)
	listener := u.listen(serverAddr + ":0")
	echo(listener)
	host, port := split(t, listener.Addr().String())
	_, hello := split(t, u.greet())
	epoll, file, udp := compileC(t, "swap_epoll.c", "gcc", "-static", "-pthread"), compileC(t, "swap_file.c", "gcc", "-static", "-pthread"), compileC(t, "udp_probe.c", udpABIs["amd64"]...)
	programs := [][]string{
		{static(t, "client_connect.c"), "connect", host, hello},
		{static(t, "client_connect.c"), "poll", host, hello},
		{file, "flags", host, hello}, {file, "numbers", host, hello},
		{udp, "connected", host, u.port, u.other, u.closed},
		{udp, "unconnected", host, u.port, u.other, u.closed},
	}
	onOptions := []string{compileC(t, "options_probe.c", "gcc", "-static"), "inet", "tcp", host, port} // takes a second
	onEpoll := []string{epoll, "several", host, port, "non-blocking"}
	for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
		for _, r := range refusals {
			t.Run(fmt.Sprintf("%s/%s", r.calls, unix.ErrnoName(errno)), func(t *testing.T) {
				run := append(slices.Clone(programs), onEpoll)
				if r.calls == "kcmp,bpf" && errno == unix.EPERM { // as in a container
					run = append(run, onOptions)
				}
				refused := refuse(t, r.calls, errno)
				for _, program := range run {
					natively, under := u.in(u.egress, slices.Concat(refused, program)...),
						u.in(u.egress, slices.Concat(refused, []string{bin, "run", "--netns", u.origin, "--via", "netns:" + u.egress, "--"}, program)...)
					if r.user {
						natively = u.in(u.egress, slices.Concat(ordinaryUser(t), refused, program)...)
						under = u.in(u.egress, slices.Concat(ordinaryUser(t), refused, []string{bin, "run", "--isolate", "--"}, program)...)
					}
					natively.Dir, under.Dir = "/", "/"
					if r.fails != "" {
						refusesToRun(t, under, r.fails)
						if errno == unix.EPERM && r.calls != "setns" && !r.user {
							u.refusesEveryRoute(t, refused, r.fails)
						}
						return
					}
					_, want := status(t, natively)
					_, got := status(t, under)
					if want != got {
						t.Errorf("%s:", strings.Join(program[1:], " "))
					}
					sameOutput(t, want, got)
				}
			})
		}
	}
}

// refusesToRun has upconv run end before the command is run, with a message.
func refusesToRun(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	code, out := status(t, cmd)
	if code != 125 || !regexp.MustCompile(`^upconv: .*`+want+`.*\n$`).MatchString(out) {
		t.Errorf("%v: exit status %d, %q", cmd, code, out)
	}
}

// refusesEveryRoute is refusesToRun for each kind of route, as root and as an ordinary user.
func (u *udpLab) refusesEveryRoute(t *testing.T, refused []string, want string) {
	t.Helper()
	for _, user := range [][]string{nil, ordinaryUser(t)} {
		for _, flags := range []string{"--isolate", "--isolate --swap-at socket", "--via nat64:" + nat64Prefix, "--via unix:@nowhere", "--via reject", "--via direct", "--udp off --via reject"} {
			cmd := u.in(u.origin, slices.Concat(user, refused, []string{bin, "run"}, strings.Fields(flags), []string{"--", "true"})...)
			cmd.Dir = "/"
			refusesToRun(t, cmd, want)
		}
	}
}

// below matches the lines that belong to one of doctor, up to something in them.
const below = `.*(?:\n {36}.*)*?\n {36}.*`

// TestDoctorRefused: doctor finds every call that is refused, says whether upconv can do without,
// and what helps.
func TestDoctorRefused(t *testing.T) {
	for calls, want := range map[string]string{
		"process_vm_readv":    `(?m)^MISSING  process_vm_readv .*--cap-add SYS_PTRACE`,
		"process_vm_writev":   `(?m)^MISSING  process_vm_writev .*--cap-add SYS_PTRACE`,
		"seccomp":             `(?m)^MISSING  seccomp user notification .*a seccomp profile that allows seccomp`,
		"pidfd_open":          `(?m)^MISSING  pidfd_open .*a seccomp profile that allows pidfd_open`,
		"pidfd_getfd":         `(?m)^MISSING  pidfd_getfd .*a seccomp filter .*--cap-add SYS_PTRACE .*a seccomp profile that allows pidfd_getfd and kcmp`,
		"ioctl addfd":         `(?m)^MISSING  seccomp ADDFD .*a seccomp profile that allows seccomp and ioctl`,
		"prctl pdeathsig":     `(?m)^MISSING  PR_SET_PDEATHSIG ` + below + `allows prctl`,
		"socket netlink":      `(?m)^MISSING  netlink sockets ` + below + `allows socket with AF_NETLINK`,
		"unshare,close_range": `(?m)^MISSING  unshare\(2\) ` + below + `allows close_range`,
		"socket sock_diag":    `(?m)^-        sock_diag\(7\) ` + below + `allows socket with AF_NETLINK`,
		"socket raw":          `(?m)^-        sockets of SOCK_RAW ` + below + `allows socket with SOCK_RAW`,
		"signalfd":            `(?m)^-        signalfd\(2\) ` + below + `allows signalfd4`,
		"fchown":              `(?m)^-        fchown\(2\) ` + below + `allows fchown and fchmod`,
		"fchmod":              `(?m)^-        fchown\(2\) ` + below + `allows fchown and fchmod`,
		"unshare":             `(?m)^ok       unshare\(2\) `,
		"setns":               `(?m)^-        setns\(2\) ` + below + `--cap-add SYS_ADMIN`,
		"kcmp":                `(?m)^-        kcmp\(2\) ` + below + `--cap-add SYS_PTRACE`,
		"ptrace":              `(?m)^-        ptrace\(2\) ` + below + `--cap-add SYS_PTRACE`,
		"bpf":                 `(?m)^-        BPF ` + below + `a few rare things`,
		"bpf,kcmp":            `(?m)^-        BPF ` + below + `a seccomp filter refuses bpf\(2\) \(podman run --cap-add SYS_ADMIN\)`,
		"pidfd_open thread":   `(?m)^-        PIDFD_THREAD `,
		"ioctl sync wake-up":  `(?m)^-        seccomp sync wake-up `,
		"prlimit64 of others": `(?m)^-        prlimit64\(2\) ` + below + `allows prlimit64`,
		"sched_setaffinity":   `(?m)^-        sched_setaffinity\(2\) ` + below + `allows sched_setaffinity`,
		"clone newuser":       `(?m)^-        user namespaces +.*a seccomp filter .*refuses clone\(2\) with CLONE_NEWUSER: .*--cap-add SYS_ADMIN`,
	} {
		for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
			t.Run(fmt.Sprintf("%s/%s", calls, unix.ErrnoName(errno)), func(t *testing.T) {
				args := append(refuse(t, calls, errno), bin, "doctor")
				code, out := status(t, command(t, args[0], args[1:]...))
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("not %s in\n%s", want, out)
				}
				missing := strings.Contains(out, "\nMISSING ")
				if missing != strings.Contains(want, "MISSING") || code != map[bool]int{false: 0, true: 1}[missing] {
					t.Errorf("exit status %d\n%s", code, out)
				}
			})
		}
	}
}

// TestUnserved: a program that upconv may not look into goes on natively, and it is said why and
// what helps.
func TestUnserved(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	client := static(t, "client_connect.c")
	unreadable := filepath.Join(publicDir(t), "unreadable")
	program, err := os.ReadFile(client)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unreadable, program, 0o711); err != nil {
		t.Fatal(err)
	}
	setpriv := needProgram(t, "setpriv")
	withoutPtrace := []string{setpriv, "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"}
	for _, c := range []struct {
		name          string
		upconv, drops []string // what starts upconv, and the program
		program       string
		note, cure    string
	}{
		{"a user change", withoutPtrace, ordinaryUser(t), client, "it runs as another user (65534) than upconv (0)", "start upconv behind what changes the user (su-exec USER upconv run -- ...), or give it CAP_SYS_PTRACE"},
		{"an unreadable file", ordinaryUser(t), nil, unreadable, "it may not be dumped (its user may not read its executable", "make the executable readable for its user (chmod +r), or give upconv CAP_SYS_PTRACE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := slices.Concat(c.upconv, []string{bin, "run", "--events", "-", "--via", "netns:host", "--"}, c.drops, []string{c.program, "connect", host, port})
			cmd := l.in(l.egress, args...)
			cmd.Dir = "/"
			code, out := status(t, cmd)
			if code != 0 || !strings.Contains(out, greeting) {
				t.Errorf("exit status %d", code)
			}
			for _, want := range []string{
				`"note":"not served, the call stays native: its memory cannot be read: ` + c.note,
				`msg="not served, its calls stay native: its memory cannot be read: ` + c.note,
				`cure="` + c.cure,
			} {
				if !strings.Contains(out, want) {
					t.Errorf("no %s in\n%s", want, out)
				}
			}
		})
	}
	t.Run("doctor", func(t *testing.T) {
		out, _ := exec.Command(withoutPtrace[0], append(withoutPtrace[1:], bin, "doctor")...).Output()
		const want = `(?m)^ok       ptrace access +to programs of the same user only` + below + `start upconv behind the`
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("not %s in\n%s", want, out)
		}
	})
}

// TestOwnerRefused: where the owner of a socket cannot be carried over, the event says so.
func TestOwnerRefused(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	args := slices.Concat(refuse(t, "fchown", unix.EPERM), []string{bin, "run", "--events", "-", "--netns", l.origin, "--via", "netns:" + l.egress, "--"},
		ordinaryUser(t), []string{static(t, "client_connect.c"), "connect", host, port})
	cmd := command(t, args[0], args[1:]...)
	cmd.Dir = "/"
	if code, out := status(t, cmd); code != 0 || !strings.Contains(out, greeting) || !strings.Contains(out, `"note":"not carried over: its owner"`) {
		t.Errorf("exit status %d\n%s", code, out)
	}
}

// TestOwnTableRefused: where the descriptors of a thread that has its own cannot be had, its calls
// stay native, and it is said why.
func TestOwnTableRefused(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	const program = `
import ctypes, socket, sys, threading
begin, ready, go = threading.Event(), threading.Event(), threading.Event()
def run():
    begin.wait() # a thread that is served before, too
    try: socket.create_connection(("127.0.0.1", 1))
    except ConnectionRefusedError: pass
    if ctypes.CDLL(None).unshare(0x400): raise OSError("unshare")
    mine = socket.socket(); print(mine.fileno())
    ready.set(); go.wait()
    mine.connect((sys.argv[1], int(sys.argv[2]))); print(mine.recv(100))
thread = threading.Thread(target=run); thread.start(); begin.set(); ready.wait()
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print(other.fileno()) # the same number in another table
go.set(); thread.join()
try: print(other.getpeername())
except OSError: print("alone")`
	for calls, served := range map[string]bool{"getcpu": true, "bpf": true, "pidfd_open thread,bpf": false, "pidfd_open thread,bpf,kcmp": false} {
		t.Run(calls, func(t *testing.T) {
			events := filepath.Join(t.TempDir(), "events")
			args := slices.Concat(enter(l.egress), refuse(t, calls, unix.EPERM), []string{bin, "run", "--events", events, "--via", "netns:host", "--", needProgram(t, "python3"), "-c", program, host, port})
			code, out := status(t, command(t, args[0], args[1:]...))
			told, err := os.ReadFile(events)
			if err != nil {
				t.Fatal(err)
			}
			const why = "its descriptors cannot be fetched: it is a thread that has unshared them from its process"
			if code != 0 || !strings.Contains(out, strings.TrimSpace(greeting)) || !strings.Contains(out, "alone\n") || strings.Contains(string(told), `"note":"not served, the call stays native: `+why) == served ||
				strings.Contains(out, why+`" cure="use a kernel since 6.9`) == served {
				t.Errorf("exit status %d\n%s\n%s", code, out, told)
			}
		})
	}
}

// TestPtraceRefused: where a thread that waits for datagrams cannot be made to wait for the socket
// that another one's send puts in the place of its own, the event says so.
func TestPtraceRefused(t *testing.T) {
	u := newUDPLab(t)
	const program = `
import os, socket, sys, threading, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 0))
thread = threading.Thread(target=lambda: print(s.recvfrom(100)[0]), daemon=True); thread.start()
def waits(): return open("/proc/self/task/%d/syscall" % thread.native_id).read().split()[0] == "45" # recvfrom
while not waits(): time.sleep(0.001)
s.sendto(b"echo", (sys.argv[1], int(sys.argv[2])))
if len(sys.argv) == 3: thread.join()
sys.stdout.flush(); os._exit(0)`
	for _, c := range []struct {
		calls string
		errno unix.Errno
		noted bool
	}{
		{"getcpu", unix.EPERM, false}, {"ptrace", unix.EPERM, true}, {"ptrace,bpf", unix.EPERM, true}, {"ptrace", unix.ENOSYS, true},
	} {
		t.Run(c.calls+"/"+unix.ErrnoName(c.errno), func(t *testing.T) {
			args := slices.Concat(refuse(t, c.calls, c.errno), []string{bin, "run", "--events", "-", "--netns", u.origin, "--via", "netns:" + u.egress, "--",
				needProgram(t, "python3"), "-c", program, serverAddr, u.port})
			if c.noted {
				args = append(args, "it waits on")
			}
			code, out := status(t, command(t, args[0], args[1:]...))
			if code != 0 || strings.Contains(out, `"note":"a thread goes on waiting for the socket from before: ptrace(2) is not permitted"`) != c.noted || !c.noted && !strings.Contains(out, "b'echo") {
				t.Errorf("exit status %d\n%s", code, out)
			}
		})
	}
}

// TestSharersRefused: where kcmp(2) is refused, processes with the descriptor table of the one that
// sends are found, too. One waits on the socket that the send puts another one in the place of.
func TestSharersRefused(t *testing.T) {
	u := newUDPLab(t)
	for _, calls := range []string{"kcmp", "kcmp,bpf"} {
		t.Run(calls, func(t *testing.T) {
			args := slices.Concat(refuse(t, calls, unix.EPERM), []string{bin, "run", "--netns", u.origin, "--via", "netns:" + u.egress, "--"},
				[]string{staticC(t, "traced_probe.c"), "recvfrom", "process", serverAddr, u.port})
			if got := output(t, command(t, args[0], args[1:]...)); !strings.HasPrefix(got, "received ") {
				t.Errorf("it says %q", got)
			}
		})
	}
}

// TestSockDiagRefused: where sock_diag(7) is refused, bind(2) says EADDRINUSE of the ports that a
// program has taken to the egress.
func TestSockDiagRefused(t *testing.T) {
	u := newUDPLab(t)
	listener := u.listen(serverAddr + ":0")
	echo(listener)
	host, port := split(t, listener.Addr().String())
	probe := staticC(t, "ports_probe.c")
	want := output(t, u.in(u.egress, probe, "scan", "tcp", "20000", host, port))
	for from, errno := range map[string]unix.Errno{"20500": unix.EPERM, "21000": unix.ENOSYS} {
		args := slices.Concat(refuse(t, "socket sock_diag", errno), []string{bin, "run", "--netns", u.origin, "--via", "netns:" + u.egress, "--",
			probe, "scan", "tcp", from, host, port})
		if got := output(t, command(t, args[0], args[1:]...)); got != want {
			t.Errorf("%s: got\n%s\nwant, as natively,\n%s", unix.ErrnoName(errno), got, want)
		}
	}
}

// TestUserNamespaceLimit: the sysctl that forbids user namespaces is named, and no container's
// profile is blamed.
func TestUserNamespaceLimit(t *testing.T) {
	needRoot(t)
	const limited = `echo 0 >/proc/sys/user/max_user_namespaces && shift && exec "$@"` // of the user namespace that it is in
	for _, c := range []struct{ args, want string }{
		{"run --isolate -- true", `^upconv: --isolate: a new user namespace: clone: no space left on device: user.max_user_namespaces=0 forbids it: set that to another value, or run upconv as root\n$`},
		{"doctor", `(?m)^-        user namespaces +.*: user.max_user_namespaces=0 forbids it: set that to another value, or run upconv as root$`},
	} {
		args := slices.Concat([]string{"-Ur", "sh", "-c", limited, "sh", "-", needProgram(t, "setpriv"), "--bounding-set=-sys_admin", bin}, strings.Fields(c.args))
		if _, out := status(t, command(t, needProgram(t, "unshare"), args...)); !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: not %s in\n%s", c.args, c.want, out)
		}
	}
}

// TestHiddenProc mounts /proc so that it does not show others' processes, or nothing but processes:
// the own ones are served.
func TestHiddenProc(t *testing.T) {
	needRealRoot(t, "it mounts /proc")
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	for _, option := range []string{"hidepid=invisible", "hidepid=ptraceable", "subset=pid"} {
		for name, user := range map[string][]string{"root": nil, "user": ordinaryUser(t)} {
			t.Run(option+"/"+name, func(t *testing.T) {
				mount := []string{needProgram(t, "unshare"), "-m", "sh", "-c", `mount -t proc -o $0 proc /proc && exec "$@"`, option}
				cmd := l.in(l.egress, slices.Concat(mount, user, []string{bin, "run", "--isolate", "--", static(t, "client_connect.c"), "epoll", host, port})...)
				cmd.Dir = "/"
				if got := output(t, cmd); got != greeting {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}

// TestHiddenNamespace: a name that is made where upconv does not see its mount, as in a container
// that was started before, is told from a file that never was a namespace.
func TestHiddenNamespace(t *testing.T) {
	needRoot(t)
	// The other mount namespace's mounts are its own, and the directory is the same.
	name := fmt.Sprintf("uc%d-hidden", os.Getpid())
	const apart = `: >/run/netns/$1 && trap 'rm /run/netns/$1' EXIT && "$0" run --via netns:$1 -- true`
	makeNamespace(t, fmt.Sprintf("uc%d-seen", os.Getpid())) // so that the directory is there
	code, out := status(t, command(t, needProgram(t, "unshare"), "-m", "--propagation", "private", "sh", "-c", apart, bin, name))
	const want = `not a network namespace but an empty file, on which ip-netns\(8\) has mounted it where upconv does not see that: .*docker run -v /run/netns:/run/netns:rslave.*/proc/PID/ns/net`
	if code != 125 || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("exit status %d, %s", code, out)
	}
}
