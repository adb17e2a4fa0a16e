package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// oldKernel in the environment has this test binary put itself under a filter that hides a feature
// of the kernel, and then become the command in its arguments.
const oldKernel = "UPCONV_TEST_OLD_KERNEL"

// forbid before the name of a system call has the filter refuse it, as those of containers do.
const forbid = "permission for "

// lookingCalls are those by which upconv looks into a process.
var lookingCalls = []string{"pidfd_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev"}

func init() {
	missing := os.Getenv(oldKernel)
	if missing == "" {
		return
	}
	runtime.LockOSThread()
	os.Unsetenv(oldKernel)
	const newListener, waitKillable = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	var rule seccompx.Rule
	flag := func(bits uint64) {
		rule = seccompx.Rule{Syscalls: []string{"seccomp"}, Do: seccompx.Errno(unix.EINVAL),
			When: []seccompx.Cond{seccompx.Arg(0).Low32().Equal(unix.SECCOMP_SET_MODE_FILTER), seccompx.Arg(1).HasAll(bits)}}
	}
	command := func(request uint64, errno syscall.Errno) {
		rule = seccompx.Rule{Syscalls: []string{"ioctl"}, Do: seccompx.Errno(errno), When: []seccompx.Cond{seccompx.Arg(1).Low32().Equal(request)}}
	}
	call, forbidden := strings.CutPrefix(missing, forbid)
	switch {
	case forbidden:
		rule = seccompx.Rule{Syscalls: []string{call}, Do: seccompx.Errno(unix.EPERM)}
	case missing == "WAIT_KILLABLE_RECV":
		flag(waitKillable)
	case missing == "NEW_LISTENER":
		flag(newListener)
	case missing == "seccomp":
		rule = seccompx.Rule{Syscalls: []string{"seccomp"}, Do: seccompx.Errno(unix.ENOSYS)}
	case slices.Contains(lookingCalls, missing):
		rule = seccompx.Rule{Syscalls: []string{missing}, Do: seccompx.Errno(unix.ENOSYS)}
	case missing == "ADDFD":
		command(unix.SECCOMP_IOCTL_NOTIF_ADDFD, unix.EINVAL)
	default:
		panic(missing)
	}
	program, err := (&seccompx.Filter{Rules: []seccompx.Rule{rule}, UnknownArch: seccompx.Allow, X32: seccompx.Allow}).Assemble()
	if err == nil {
		_, err = seccompx.Install(program, seccompx.InstallOptions{NoNewPrivs: os.Geteuid() != 0})
	}
	if err == nil {
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// withoutFeature has a command run where the kernel lacks a feature.
func withoutFeature(t testing.TB, feature string, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	old := command(t, self, cmd.Args...)
	old.Env = append(os.Environ(), oldKernel+"="+feature)
	return old
}

// TestBadInput gives upconv what it cannot work with. It says what is the matter in a line or two,
// ends with the status that tells whose failure it was, and runs nothing.
func TestBadInput(t *testing.T) {
	l := newLab(t)
	shared := publicDir(t)
	path := func(name string) string { return filepath.Join(shared, name) }
	if err := os.WriteFile(path("file"), []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("interpreter"), []byte("#!/nonexistent/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path("directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	// What is left of a name when its bind mount is gone.
	stale := "uc-stale-" + filepath.Base(shared)
	if err := os.WriteFile("/run/netns/"+stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove("/run/netns/" + stale) })
	// No test may wait for a FIFO or a socket to be opened by somebody.
	socket, err := net.Listen("unix", path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })

	via := []string{"--via", "netns:" + l.egress}
	for _, test := range []struct {
		name string
		// flags of upconv run; CMD stands for -- and a command that leaves a mark, and is added
		// where it and -- are missing
		flags   []string
		feature string // that the kernel lacks
		user    bool   // as an ordinary user
		status  int    // 0 for 125
		say     []string
		lines   int // 0 for 2
	}{
		{name: "unknown namespace", flags: []string{"--netns", "nosuchns", "--via", "netns:" + l.egress}, say: []string{`"nosuchns"`, "no such file"}},
		{name: "unknown egress", flags: []string{"--via", "netns:nosuchns"}, say: []string{`"nosuchns"`, "no such file"}},
		{name: "unknown egress in a rule", flags: []string{"--rule", "*=netns:nosuchns"}, say: []string{`"nosuchns"`, "no such file"}},
		{name: "unknown namespace path", flags: append(via, "--netns", path("none")), say: []string{path("none"), "no such file"}},
		{name: "namespace is a file", flags: append(via, "--netns", path("file")), say: []string{path("file"), "not a network namespace"}},
		{name: "namespace is a directory", flags: append(via, "--netns", path("directory")), say: []string{path("directory"), "not a network namespace"}},
		{name: "namespace is a FIFO", flags: append(via, "--netns", path("fifo")), say: []string{path("fifo"), "not a network namespace"}},
		{name: "namespace is a Unix socket", flags: append(via, "--netns", path("socket")), say: []string{path("socket"), "not a network namespace"}},
		{name: "namespace is a device", flags: append(via, "--netns", "/dev/null"), say: []string{"/dev/null", "not a network namespace"}},
		{name: "namespace is a mount namespace", flags: append(via, "--netns", "/proc/self/ns/mnt"), say: []string{"/proc/self/ns/mnt", "not a network namespace"}},
		{name: "namespace is a stale name", flags: append(via, "--netns", stale), say: []string{stale, "not a network namespace"}},
		{name: "egress is a file", flags: []string{"--via", "netns:" + path("file")}, say: []string{path("file"), "not a network namespace"}},
		{name: "egress is a user namespace", flags: []string{"--via", "netns:/proc/self/ns/user"}, say: []string{"/proc/self/ns/user", "not a network namespace"}},
		{name: "odd namespace name", flags: append(via, "--netns", "a/b"), say: []string{`"a/b"`}},
		{name: "namespace name with odd bytes", flags: append(via, "--netns", "a\xff\nb"), say: []string{`"a`, "no such file"}, lines: 3},
		{name: "empty namespace", flags: append(via, "--netns", ""), say: []string{"--netns"}},

		{name: "may not enter the namespace", user: true, flags: []string{"--netns", l.origin, "--via", "netns:host"}, say: []string{"CAP_SYS_ADMIN", "root", "--isolate"}},
		{name: "may not enter the egress", user: true, flags: []string{"--via", "netns:" + l.egress}, say: []string{l.egress, "CAP_SYS_ADMIN", "run upconv as root; in a container, add --cap-add SYS_ADMIN"}},
		{name: "may not enter either", user: true, flags: []string{"--netns", l.origin, "--via", "netns:" + l.egress}, say: []string{"CAP_SYS_ADMIN"}},
		{name: "may not look into a process", user: true, flags: []string{"--via", "netns:/proc/1/ns/net"}, say: []string{"/proc/1/ns/net", "permission denied"}},

		{name: "no such route", flags: []string{"--via", "bogus:x"}, say: []string{"--via", `"bogus"`, "no such route", "^^^^^"}, lines: 3},
		{name: "route without a namespace", flags: []string{"--via", "netns"}, say: []string{"--via", "netns:NAME"}, lines: 3},
		{name: "empty route", flags: []string{"--via", ""}, say: []string{"--via"}, lines: 3},
		{name: "unknown errno", flags: []string{"--via", "reject:EWRONG"}, say: []string{`"EWRONG"`, "^^^^^^"}, lines: 3},
		{name: "rule without =", flags: []string{"--rule", "192.0.2.1"}, say: []string{"--rule", `"192.0.2.1"`, "DEST=ROUTE"}, lines: 3},
		{name: "rule with a bad port", flags: []string{"--rule", "192.0.2.1:http=direct"}, say: []string{`"http"`, "port", "          ^^^^"}, lines: 3},
		{name: "rule with a bad route", flags: []string{"--rule", "192.0.2.1:80=netns:a/b"}, say: []string{`"a/b"`, "                   ^^^"}, lines: 3},
		{name: "rule with a name", flags: []string{"--rule", "example.com=direct"}, say: []string{`"example.com"`}, lines: 3},
		{name: "hidden rule", flags: []string{"--rule", "*=direct", "--rule", "192.0.2.1=reject"}, say: []string{"192.0.2.1=reject", "never applies"}},

		{name: "unknown UDP mode", flags: append(via, "--udp", "sometimes"), say: []string{"--udp", "full, connected or off", "^^^^^^^^^"}, lines: 3},
		{name: "unknown call to swap at", flags: append(via, "--swap-at", "sockte"), say: []string{"--swap-at", "did you mean socket?", "^^^^^^"}, lines: 3},
		{name: "swap at socket to another family", flags: []string{"--swap-at", "socket", "--via", "nat64:2001:db8:64::/96"}, say: []string{"socket(2)", "nat64:2001:db8:64::/96", "family"}},
		{name: "swap at socket to a Unix socket", flags: append(via, "--swap-at", "socket", "--rule", "192.0.2.1=unix:/a"), say: []string{"rule 1", "192.0.2.1=unix:/a", "family"}},
		{name: "swap at socket to two namespaces", flags: append(via, "--swap-at", "socket", "--rule", "192.0.2.1=netns:host"), say: []string{"a second namespace after host"}},
		{name: "swap at socket to nowhere", flags: []string{"--swap-at", "socket", "--via", "reject"}, say: []string{"no route is to a network namespace"}},

		{name: "kernel without WAIT_KILLABLE_RECV", feature: "WAIT_KILLABLE_RECV", flags: via, say: []string{"WAIT_KILLABLE_RECV", "5.19"}},
		{name: "kernel without user notification", feature: "NEW_LISTENER", flags: via, say: []string{"seccomp(2) with a listener", "5.0"}},
		{name: "kernel without seccomp", feature: "seccomp", flags: via, say: []string{"seccomp"}},
		{name: "kernel without pidfd_getfd", feature: "pidfd_getfd", flags: via, say: []string{"pidfd_getfd", "5.6"}},
		{name: "kernel without pidfd_open", feature: "pidfd_open", flags: via, say: []string{"pidfd_open", "5.3"}},
		{name: "kernel without ADDFD", feature: "ADDFD", flags: via, say: []string{"ADDFD", "5.9"}},
		{name: "kernel without process_vm_readv", feature: "process_vm_readv", flags: via, say: []string{"process_vm_readv"}},
		{name: "kernel without process_vm_writev", feature: "process_vm_writev", flags: via, say: []string{"process_vm_writev"}},
		{name: "container without pidfd_getfd", feature: forbid + "pidfd_getfd", flags: via, say: []string{"filter", "refuses", "pidfd_getfd"}},
		{name: "container without seccomp", feature: forbid + "seccomp", flags: via, say: []string{"filter", "refuses", "seccomp"}},
		{name: "kernel without pidfd_getfd, isolated", feature: "pidfd_getfd", flags: []string{"--isolate"}, say: []string{"pidfd_getfd", "5.6"}},

		{name: "another listener", flags: append(via, "--", bin, "run", "--via", "netns:"+l.egress, "CMD"), say: []string{"another seccomp listener", "nested"}},
		{name: "another listener, isolated", flags: []string{"--isolate", "--", bin, "run", "--isolate", "CMD"}, say: []string{"another seccomp listener"}},

		{name: "no command", flags: append(via, "--"), say: []string{"no command given", "--help"}},
		{name: "no command and nothing", flags: []string{"--"}, say: []string{"no command given"}},
		{name: "unknown flag", flags: []string{"--nosuchflag"}, say: []string{"--nosuchflag", "--help"}},
		{name: "flag without a value", flags: []string{"--via"}, say: []string{"--via"}},
		{name: "isolate and netns", flags: []string{"--isolate", "--netns", l.origin}, say: []string{"--isolate", "--netns"}},
		{name: "events in a directory that is missing", flags: append(via, "--events", path("none/events")), say: []string{"events", path("none/events"), "no such file"}},
		{name: "events are a directory", flags: append(via, "--events", shared), say: []string{"events", shared, "is a directory"}},
		{name: "events may not be written", user: true, flags: []string{"--isolate", "--events", path("file")}, say: []string{"events", path("file"), "permission denied"}},
		{name: "empty events", flags: append(via, "--events", ""), say: []string{"--events"}},
		{name: "unknown log level", flags: append(via, "--log-level", "loud"), say: []string{"loud", "debug, info, warn, error"}},
		{name: "unknown log format", flags: append(via, "--log-format", "xml"), say: []string{"xml", "text, json"}},

		{name: "not found", flags: append(via, "--", "there-is-no-such-command"), status: 127, say: []string{"there-is-no-such-command", "not found"}},
		{name: "path not found", flags: append(via, "--", path("none")), status: 127, say: []string{path("none"), "no such file"}},
		{name: "empty command", flags: append(via, "--", ""), status: 127, say: []string{"not found"}},
		{name: "not executable", flags: append(via, "--", path("file")), status: 126, say: []string{path("file"), "permission denied"}},
		{name: "directory", flags: append(via, "--", path("directory")), status: 126, say: []string{path("directory"), "directory"}},
		{name: "bad interpreter", flags: append(via, "--", path("interpreter")), status: 127, say: []string{path("interpreter"), "no such file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := publicDir(t)
			mark := filepath.Join(dir, "mark")
			leave := []string{"--", "sh", "-c", ": >" + mark}
			args := []string{"run"}
			explicit := false
			for _, flag := range test.flags {
				switch {
				case flag == "CMD":
					args = append(args, leave...)
					explicit = true
				default:
					args = append(args, flag)
					explicit = explicit || flag == "--"
				}
			}
			if !explicit && test.name != "flag without a value" {
				args = append(args, leave...)
			}
			cmd := upconv(t, args...)
			if test.feature != "" {
				cmd = withoutFeature(t, test.feature, cmd)
			}
			if test.user {
				needUsers(t)
				asNobody(cmd)
			}
			code, out := status(t, cmd)
			want, lines := test.status, test.lines
			if want == 0 {
				want = 125
			}
			if lines == 0 {
				lines = 2
			}
			if code != want {
				t.Errorf("exit status %d, want %d\n%s", code, want, out)
			}
			for _, say := range test.say {
				if !strings.Contains(out, say) {
					t.Errorf("does not say %q:\n%s", say, out)
				}
			}
			if n := strings.Count(out, "\n"); n > lines || n == 0 || !strings.HasPrefix(out, "upconv: ") || strings.Contains(out, "goroutine ") {
				t.Errorf("not a message of %d lines:\n%s", lines, out)
			}
			if _, err := os.Stat(mark); err == nil {
				t.Errorf("the command was run\n%s", out)
			}
		})
	}
	t.Run("the same where nothing is wrong", func(t *testing.T) {
		// Else a mark that is missing would prove nothing.
		mark := filepath.Join(publicDir(t), "mark")
		output(t, upconv(t, "run", "--via", "netns:"+l.egress, "--", "sh", "-c", ": >"+mark))
		if _, err := os.Stat(mark); err != nil {
			t.Error(err)
		}
	})
	t.Run("doctor knows", func(t *testing.T) {
		for _, call := range append(lookingCalls, "seccomp") {
			for _, feature := range []string{call, forbid + call} {
				if code, out := status(t, withoutFeature(t, feature, upconv(t, "doctor"))); code != 1 || !strings.Contains(out, "MISSING  "+call) {
					t.Errorf("without %s: exit status %d\n%s", feature, code, out)
				}
			}
		}
	})
	t.Run("doctor without /proc", func(t *testing.T) {
		code, out := status(t, command(t, "unshare", "--mount", "sh", "-c", "mount -t tmpfs none /proc && exec "+bin+" doctor"))
		if code != 1 || !strings.Contains(out, "MISSING  /proc") {
			t.Errorf("exit status %d\n%s", code, out)
		}
	})
	t.Run("a container that lets nobody unshare", func(t *testing.T) {
		// Docker's does not without CAP_SYS_ADMIN, not even descriptors.
		if code, out := status(t, withoutFeature(t, forbid+"unshare", upconv(t, append(append([]string{"run"}, via...), "--", "sh", "-c", "exit 7")...))); code != 7 {
			t.Errorf("exit status %d, want 7\n%s", code, out)
		}
	})
	t.Run("a feature that is not needed", func(t *testing.T) {
		// The helper itself changes nothing: a kernel that lacks ADDFD still runs programs.
		if code, out := status(t, withoutFeature(t, "ADDFD", command(t, "/bin/sh", "-c", "exit 7"))); code != 7 {
			t.Errorf("exit status %d, want 7\n%s", code, out)
		}
	})
}

// TestEventsToFIFO has events go to a FIFO that nobody reads: that holds nothing up.
func TestEventsToFIFO(t *testing.T) {
	l := newLab(t)
	fifo := filepath.Join(publicDir(t), "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := output(t, upconv(t, "run", "--via", "netns:"+l.egress, "--events", fifo, "--", "echo", "ran")); got != "ran\n" {
		t.Errorf("got %q", got)
	}
}

// TestBadInputHostileRules gives upconv rules and routes that nobody means well with. It refuses or
// takes them, and never panics.
func TestBadInputHostileRules(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("9", 40000)
	texts := []string{
		"", "=", "==", "=direct", "*=", "*", "*==direct", "*=direct=direct", ":=direct", "/=direct", "*:=direct", "*/=direct", "*:/tcp=direct",
		"*:-=direct", "*:1-=direct", "*:-1=direct", "*:2-1=direct", "*:65536=direct", "*:0=direct", "*:+1=direct", "*: 1=direct", "*:1 =direct",
		"*:1-2-3=direct", "*:1:2=direct", "*:٣=direct", "*/tcp/udp=direct", "*/tcp/tcp=direct", "*/TCP=direct", "*/icmp=direct", "**=direct", "*.*=direct",
		"0.0.0.0/0=direct", "0.0.0.0/33=direct", "0.0.0.0/-1=direct", "0.0.0.0/00=direct", "192.0.2.1/24=direct", "192.0.2.0/24/24=direct", "192.0.2=direct",
		"192.0.2.256=direct", "0x7f.1=direct", "2130706433=direct", "010.0.0.1=direct", "1.2.3.4.=direct", "[::1]=direct", "::ffff:1.2.3.4=direct", "2001:db8::/32=direct",
		"[192.0.2.1]:80=direct", "192.0.2.1%lo=direct", "fe80::1%lo=direct", "*=netns", "*=netns:", "*=netns:/", "*=netns://", "*=netns:..", "*=netns:.", "*=netns:../x",
		"*=netns:/proc/self", "*=netns:" + long, "*=netns:/" + long, "*=netns:a b", "*=netns:\xff\xfe", "*=netns:\n", "*=netns:-", "*=netns:host ", "*=NETNS:host",
		"*=reject:", "*=reject:0", "*=reject:E", "*=reject:ENOTHING", "*=reject:econnrefused", "*=reject:EWOULDBLOCK", "*=reject:512", "*=reject:ECONNREFUSED:x",
		"*=direct:", "*=direct:x", "*=nat64", "*=nat64:", "*=nat64:::/0", "*=nat64:64:ff9b::/96", "*=nat64:64:ff9b::1/96", "*=nat64:192.0.2.0/24", "*=inet6:", "*=inet6:::1",
		"*=inet6:192.0.2.1", "*=unix:", "*=unix:@", "*=unix:x", "*=unix:/" + long, "\x01\x02=\x03", "\xff\xff\xff", "%s%s%n=%d", "*=%!s(MISSING)", "$(id)=direct", "`id`",
		"../../etc/passwd", "--", "-1", " *=direct", "*=direct ", "\t", "\n*=direct\n", long, long + "=" + long, long + ".0.0.0=direct", "0.0.0.0/" + long + "=direct",
		"*:" + long + "=direct", "*/" + long + "=direct", strings.Repeat("=", 1000), strings.Repeat(":", 1000) + "=direct", strings.Repeat("/", 1000) + "=direct",
		strings.Repeat("*", 1000), "\u202e*=direct", "＊=direct", "*＝direct", "*=ｄirect", "null", "{}", "[]", "<x>", "*=\x1b[31mred\x1b[0m",
	}
	for _, flag := range []string{"--rule", "--via"} {
		for i, text := range texts {
			t.Run(fmt.Sprintf("%s %d", flag, i), func(t *testing.T) {
				t.Parallel()
				code, out := status(t, upconv(t, "run", flag, text, "--", "true"))
				shown := text[:min(len(text), 60)]
				if strings.Contains(out, "goroutine ") || strings.Contains(out, "panic") || code != 0 && code != 125 {
					t.Errorf("%s %q: exit status %d\n%.2000s", flag, shown, code, out)
				}
				if code == 125 && !strings.HasPrefix(out, "upconv: ") {
					t.Errorf("%s %q: %.2000s", flag, shown, out)
				}
				if len(out) > len(text)*5+2000 {
					t.Errorf("%s %q: a message of %d bytes", flag, shown, len(out))
				}
			})
		}
	}
}
