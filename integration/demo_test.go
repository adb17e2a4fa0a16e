package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// demoDir makes a directory that every user can reach, with a copy of upconv in it.
func demoDir(t *testing.T) (dir, exe string) {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "upconv-demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe = filepath.Join(dir, "upconv")
	binary, err := os.ReadFile(bin)
	if err == nil {
		err = errors.Join(os.WriteFile(exe, binary, 0o755), os.Chmod(exe, 0o755), os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, exe
}

// demoRun is one run of upconv demo, whose processes carry a mark in their environment.
type demoRun struct {
	*exec.Cmd
	t              *testing.T
	mark           string
	stdout, stderr strings.Builder
}

// newDemoRun prepares args, which end in a demo, with the given PATH.
func newDemoRun(t *testing.T, path string, args ...string) *demoRun {
	t.Helper()
	d := &demoRun{t: t, Cmd: command(t, args[0], args[1:]...)}
	d.mark = fmt.Sprintf("UPCONV_TEST_DEMO=%d.%d", os.Getpid(), time.Now().UnixNano())
	d.Cmd.Env = []string{"PATH=" + path, "HOME=/", d.mark}
	d.Cmd.Dir = "/"
	d.Cmd.Stdout, d.Cmd.Stderr = &d.stdout, &d.stderr
	return d
}

// status runs it, and returns the exit status when nothing is left of it.
func (d *demoRun) status() int {
	d.t.Helper()
	var exit *exec.ExitError
	if err := d.Cmd.Run(); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	d.nothingLeft()
	return d.ProcessState.ExitCode()
}

// said fails the test, with all that the demo said.
func (d *demoRun) said(format string, args ...any) {
	d.t.Helper()
	d.t.Errorf(format+"\n%v\nstdout:\n%s\nstderr:\n%s", append(args, d.ProcessState, d.stdout.String(), d.stderr.String())...)
}

// processes lists what carries the mark.
func (d *demoRun) processes() (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		environ, _ := os.ReadFile(dir + "/environ") // none of those that have just ended
		if slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(entry []byte) bool { return string(entry) == d.mark }) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// nothingLeft checks that neither processes nor namespaces are left. The demo promises that for the
// moment it ends.
func (d *demoRun) nothingLeft() {
	d.t.Helper()
	for _, pid := range d.processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		d.t.Errorf("process %d is left: %q", pid, cmdline)
		unix.Kill(pid, unix.SIGKILL)
	}
	inode := regexp.MustCompile(`(?m)^   netns +(\d+) `).FindStringSubmatch(d.stdout.String())
	if inode == nil {
		return // it did not get that far
	}
	// A namespace lives by threads, descriptors and mounts.
	origin := "net:[" + inode[1] + "]"
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			if to, _ := os.Readlink(link); to == origin && ownedElsewhere(link) {
				d.t.Errorf("the origin's namespace is left: %s", link)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): id, parent, device, root, mount point, ...
		if fields := strings.Fields(line); len(fields) > 4 && fields[3] == origin && ownedElsewhere(fields[4]) {
			d.t.Errorf("the origin's namespace is mounted: %s", fields[4])
		}
	}
}

// ownedElsewhere reports whether a network namespace belongs to another user namespace than this
// process's. What has the inode of one of the demo's, and does not, was made since: inodes are used
// again at once.
func ownedElsewhere(path string) bool {
	ns, err := os.Open(path)
	if err != nil {
		return false
	}
	defer ns.Close()
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var owner, own unix.Stat_t
	return unix.Fstat(fd, &owner) == nil && unix.Stat("/proc/self/ns/user", &own) == nil && owner.Ino != own.Ino
}

// demoUsers are the users to try it as.
func demoUsers(t *testing.T, f func(t *testing.T, as func(*exec.Cmd) *exec.Cmd)) {
	t.Run("root", func(t *testing.T) {
		needRoot(t)
		f(t, func(cmd *exec.Cmd) *exec.Cmd { return cmd })
	})
	t.Run("nobody", func(t *testing.T) {
		needUsers(t)
		f(t, asNobody)
	})
}

// demoPath returns a PATH with the curl of this machine on it and nothing else.
func demoPath(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "with-curl")
	if err := errors.Join(os.Mkdir(path, 0o755), os.Symlink(needProgram(t, "curl"), path+"/curl")); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDemo(t *testing.T) {
	dir, exe := demoDir(t)
	withCurl := demoPath(t, dir)
	broken := filepath.Join(dir, "broken-curl")
	if err := errors.Join(os.Mkdir(broken, 0o755), os.WriteFile(broken+"/curl", []byte("#!/bin/sh\nexit 127\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	const builtin = "upconv demo get http://203.0.113.10/"
	for _, c := range []struct{ name, path, client, failure, comm, remark string }{
		{"curl", withCurl, "curl -qsS http://203.0.113.10/", `curl: \(7\) .*`, "curl", `The client is curl\.`},
		{"no curl", dir, builtin, `upconv: Get .*network is unreachable`, "exe", "There is no curl on PATH,"},
		{"broken curl", broken, builtin, `upconv: Get .*network is unreachable`, "exe", "The curl on PATH did not get the page"},
	} {
		t.Run(c.name, func(t *testing.T) {
			demoUsers(t, func(t *testing.T, as func(*exec.Cmd) *exec.Cmd) {
				d := newDemoRun(t, c.path, exe, "demo")
				// What would lead a web client astray must not.
				d.Env = append(d.Env, "http_proxy=http://203.0.113.99:1", "ALL_PROXY=http://203.0.113.99:1")
				as(d.Cmd)
				began := time.Now()
				if d.status() != 0 {
					d.said("want exit status 0")
				}
				t.Logf("took %v", time.Since(began))
				if d.stderr.Len() > 0 {
					d.said("something is on standard error")
				}
				out := d.stdout.String()
				for line := range strings.Lines(out) {
					if len(line) > 80+len("\n") {
						t.Errorf("%d columns: %s", len(line)-1, line)
					}
				}
				if strings.Contains(out, "\x1b") {
					t.Errorf("escape sequences, and it is no terminal: %q", out)
				}
				// Paragraphs are folded: look at them as one line.
				flat := regexp.MustCompile(`[ \n]+`).ReplaceAllString(out, " ")
				const number = `[0-9]+(?:\.[0-9]+)?`
				found, missing := map[string][]string{}, []string{}
				for name, pattern := range map[string]string{
					"set-up":     ` 1\. .* 2001:db8:1::2 .* 203\.0\.113\.10:80 .* 192\.0\.2\.1 .*` + c.remark,
					"failure":    ` 2\. .* \$ ` + regexp.QuoteMeta(c.client) + ` ` + c.failure + ` Exit status [17]\..* ENETUNREACH there, "network is unreachable"\. 3\. `,
					"success":    ` 3\. .* \$ upconv run --netns origin --via netns:egress --events - \\ -- ` + regexp.QuoteMeta(c.client) + ` Hello 192\.0\.2\.1, this is 203\.0\.113\.10\. .* the server saw (192\.0\.2\.1:[0-9]+), the egress\.`,
					"names":      ` origin and egress stand for /proc/[0-9]+/fd/[0-9]+ and (/proc/[0-9]+/fd/[0-9]+): `,
					"call":       ` 4\. .* call connect of ` + c.comm + `, pid [0-9]+ netns `,
					"dst":        ` dst 203\.0\.113\.10:80 .* rule default `,
					"route":      ` route netns:(/proc/[0-9]+/fd/[0-9]+) `,
					"local":      ` local (192\.0\.2\.1:[0-9]+) `,
					"result":     ` result ok duration_us [0-9]+ `,
					"connect":    ` 5\. .* connect\(2\) (` + number + `) us (` + number + `) us (` + number + `) x `,
					"throughput": ` throughput (` + number + `) [GM]bit/s (` + number + `) [GM]bit/s (` + number + `) x `,
					"end":        ` nothing of it is left\. $`,
				} {
					if found[name] = regexp.MustCompile(pattern).FindStringSubmatch(" " + flat); found[name] == nil {
						missing = append(missing, name+": "+pattern)
					}
				}
				if len(missing) > 0 {
					d.said("nothing matches:\n%s", strings.Join(missing, "\n"))
					return
				}
				if found["success"][1] != found["local"][1] {
					d.said("the server saw %s, and the event has %s", found["success"][1], found["local"][1])
				}
				if found["names"][1] != found["route"][1] {
					d.said("the egress is %s, and the event has %s", found["names"][1], found["route"][1])
				}
				figure := func(of string, i int) float64 {
					value, err := strconv.ParseFloat(found[of][i], 64)
					if err != nil || value <= 0 {
						t.Errorf("%s: figure %q", of, found[of][i])
					}
					return value
				}
				if native, under, ratio := figure("connect", 1), figure("connect", 2), figure("connect", 3); under/native < ratio*0.9 || under/native > ratio*1.1 {
					d.said("connect(2): %v / %v is not %v", under, native, ratio)
				}
				figure("throughput", 1)
				figure("throughput", 2)
				figure("throughput", 3)
			})
		})
	}
}

// On a terminal there is some emphasis, unless NO_COLOR is set.
func TestDemoOnTerminal(t *testing.T) {
	_, exe := demoDir(t)
	for _, c := range []struct {
		env    []string
		styled bool
	}{
		{[]string{"TERM=xterm"}, true},
		{[]string{"TERM=xterm", "NO_COLOR=1"}, false},
		{[]string{"TERM=dumb"}, false},
	} {
		t.Run(strings.Join(c.env, " "), func(t *testing.T) {
			ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer ptmx.Close()
			// ioctl_tty(2): both pass an int, one by address and one as it is.
			if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
				t.Fatal(err)
			}
			tty, _, errno := unix.Syscall(unix.SYS_IOCTL, ptmx.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
			if errno != 0 {
				t.Fatal(errno)
			}
			pts := os.NewFile(tty, "pts")
			d := newDemoRun(t, "/nonexistent", exe, "demo")
			d.Env = append(d.Env, c.env...)
			d.Cmd.Stdout = pts
			if err := errors.Join(d.Start(), pts.Close()); err != nil {
				t.Fatal(err)
			}
			shown, _ := io.ReadAll(ptmx) // EIO, when nobody has the other end any more
			if err := d.Wait(); err != nil {
				t.Errorf("%v\n%s%s", err, shown, d.stderr.String())
			}
			if styled := bytes.Contains(shown, []byte("\x1b[1m")); styled != c.styled || !styled && bytes.Contains(shown, []byte("\x1b")) {
				t.Errorf("emphasis: %v, want %v\n%q", styled, c.styled, shown)
			}
			d.nothingLeft()
		})
	}
}

// A user who may not make namespaces is told so.
func TestDemoNotPermitted(t *testing.T) {
	dir, exe := demoDir(t)
	for _, c := range []struct {
		setting string
		value   int
	}{
		{"max_user_namespaces", 0}, // none for the demo
		{"max_net_namespaces", 0},
		{"max_net_namespaces", 2}, // one for the demo, one for the first of three hosts
	} {
		t.Run(fmt.Sprintf("%s=%d", c.setting, c.value), func(t *testing.T) {
			demoUsers(t, func(t *testing.T, as func(*exec.Cmd) *exec.Cmd) {
				// These settings are each user namespace's own: make one, and forbid others inside.
				script := fmt.Sprintf(`echo %d >/proc/sys/user/%s && exec "$0" demo`, c.value, c.setting)
				d := newDemoRun(t, dir, needProgram(t, "unshare"), "--user", "--map-root-user", "/bin/sh", "-c", script, exe)
				as(d.Cmd)
				if got := d.status(); got != 125 {
					d.said("exit status %d, want 125", got)
				}
				for _, want := range []string{"upconv: demo: make a user namespace", "no space left on device", "user.max_user_namespaces",
					"user.max_net_namespaces", "kernel.unprivileged_userns_clone", "kernel.apparmor_restrict_unprivileged_userns", "upconv doctor"} {
					if !strings.Contains(d.stderr.String(), want) {
						d.said("standard error does not have %q", want)
					}
				}
			})
		})
	}
}

// demoCurl makes a PATH with a curl that behaves as the script says at its calls: 1 in the egress,
// 2 in the origin, 3 in the origin under upconv. $page is what the server says.
func demoCurl(t *testing.T, dir, script string) (path string) {
	t.Helper()
	path, err := os.MkdirTemp(dir, "curl-")
	if err != nil {
		t.Fatal(err)
	}
	script = `#!/bin/sh
echo x >>` + path + `/calls
call=0; while read -r _; do call=$((call + 1)); done <` + path + `/calls
page='Hello 192.0.2.1, this is 203.0.113.10.'
` + script
	if err := errors.Join(os.WriteFile(path+"/curl", []byte(script), 0o755), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path + ":/usr/bin:/bin"
}

// What did not really happen is not passed off as having happened.
func TestDemoNotFooled(t *testing.T) {
	dir, exe := demoDir(t)
	get := exe + ` demo get "$2"`
	for _, c := range []struct{ name, script, want string }{
		{"a failure of another kind", get + ` && exit; echo 'curl: (28) Timeout' >&2; exit 28`, "step 2 failed: the client should say that it cannot connect"},
		{"success where there is no IPv4", `echo "$page"`, "step 2 failed: the client should say that it cannot connect"},
		{"another page", `case $call in 2) exit 7;; 3) echo "Hello 2001:db8:1::2"; exit;; esac; ` + get, "step 3 failed: the page is"},
		{"a page from elsewhere", `[ $call = 2 ] && exit 7; echo "$page"`, "step 3 failed: the server should have seen one client, 192.0.2.1; it saw []"},
		{"a failure under upconv", `[ $call = 1 ] && ` + get + ` && exit; exit 7`, "step 3 failed: upconv run: exit status 7"},
		{"more than one connection", `[ $call = 2 ] && exit 7; ` + get + ` && [ $call = 3 ] && ` + get + ` >/dev/null; exit 0`, "step 3 failed: the server should have seen one client, 192.0.2.1; it saw [192.0.2.1:"},
		{"a connection elsewhere too", `[ $call = 2 ] && exit 7; ` + get + ` && [ $call = 3 ] && ` + exe + ` demo get http://203.0.113.10:99/ 2>/dev/null; exit 0`, "step 4 failed: one connect(2) was to be decided on, and there are 2 events"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDemoRun(t, demoCurl(t, dir, c.script), exe, "demo")
			if got := d.status(); got != 1 {
				d.said("exit status %d, want 1", got)
			}
			if !strings.HasPrefix(d.stderr.String(), "upconv: demo: "+c.want) {
				d.said("want %q on standard error", c.want)
			}
			if strings.Contains(d.stdout.String(), "nothing of it is") {
				d.said("it says that all was well")
			}
		})
	}
}

// However the demo is ended, nothing stays behind.
func TestDemoInterrupted(t *testing.T) {
	dir, exe := demoDir(t)
	for _, at := range []string{"egress", "origin", "upconv", "bench"} {
		for _, how := range []struct {
			name  string
			sig   syscall.Signal
			group bool // as a terminal sends it
		}{
			{"Ctrl-C", unix.SIGINT, true},
			{"hang-up", unix.SIGHUP, true},
			{"SIGTERM", unix.SIGTERM, false},
			{"SIGKILL", unix.SIGKILL, false},
		} {
			t.Run(at+" "+how.name, func(t *testing.T) {
				// The client says in a FIFO that it has been started, and stays; with a child,
				// which the demo has to find. Where the demo is killed, nobody looks for children
				// of clients.
				fifo := filepath.Join(dir, fmt.Sprintf("fifo-%s-%d", at, how.sig))
				if err := errors.Join(unix.Mkfifo(fifo, 0o666), unix.Mkfifo(fifo+"-never", 0o666)); err != nil {
					t.Fatal(err)
				}
				stay := "sleep 60"
				if how.sig == unix.SIGKILL {
					stay = "read _ <" + fifo + "-never"
				}
				call := map[string]int{"egress": 1, "origin": 2, "upconv": 3}[at]
				d := newDemoRun(t, demoCurl(t, dir, fmt.Sprintf(`[ $call = %d ] && { echo here >%s; %s; }
					[ $call = 2 ] && exit 7
					exec %s demo get "$2"`, call, fifo, stay, exe)), exe, "demo")
				d.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				var wait func()
				if at == "bench" {
					d.Cmd.Stdout = nil
					out, err := d.StdoutPipe()
					if err != nil {
						t.Fatal(err)
					}
					wait = func() {
						// Up to the heading of the figures; they take a while.
						if !readUntil(io.TeeReader(out, &d.stdout), "\n5. ") {
							d.t.Errorf("no figures:\n%s%s", d.stdout.String(), d.stderr.String())
						}
						// Read on, lest it waits for us; until it ends, or the pipe is closed.
						go io.Copy(io.Discard, out)
					}
				} else {
					wait = func() {
						f, err := os.OpenFile(fifo, os.O_RDWR, 0)
						if err != nil {
							t.Fatal(err)
						}
						defer f.Close()
						f.SetReadDeadline(time.Now().Add(timeout))
						if !readUntil(f, "here\n") {
							t.Errorf("the client was not started")
						}
					}
				}
				if err := d.Start(); err != nil {
					t.Fatal(err)
				}
				wait()

				pids := d.processes()
				if want := map[string]int{"egress": 3, "origin": 3, "upconv": 5, "bench": 2}[at]; len(pids) < want {
					t.Errorf("%d processes run, which are too few: the test shows nothing", len(pids))
				}
				to := d.Process.Pid
				if how.group {
					to = -to
				}
				if err := unix.Kill(to, how.sig); err != nil {
					t.Error(err)
				}
				d.Wait()
				if ws := d.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != how.sig {
					d.said("it should have died of %v", how.sig)
				}
				if d.stderr.Len() > 0 {
					d.said("something is on standard error")
				}
				if how.sig == unix.SIGKILL {
					d.awaitOthers() // which it could not do: the kernel ends them one after the other
				}
				d.nothingLeft()
			})
		}
	}
}

// awaitOthers waits until all processes have ended.
func (d *demoRun) awaitOthers() {
	d.t.Helper()
	for pids := d.processes(); len(pids) > 0; pids = d.processes() {
		for _, pid := range pids {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it has ended
			}
			ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(ended, int(timeout/time.Millisecond))
			for err == unix.EINTR {
				n, err = unix.Poll(ended, int(timeout/time.Millisecond))
			}
			unix.Close(fd)
			if n != 1 {
				d.t.Errorf("process %d does not end: %v", pid, err)
				return
			}
		}
	}
}

// readUntil reads until it has seen a text, and reports whether it has.
func readUntil(r io.Reader, text string) bool {
	var seen []byte
	for one := make([]byte, 1); !bytes.HasSuffix(seen, []byte(text)); seen = append(seen, one...) {
		if _, err := io.ReadFull(r, one); err != nil {
			return false
		}
	}
	return true
}
