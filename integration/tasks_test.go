package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNames says what ps(1) and top(1) call upconv's processes, and how many threads they have at
// rest: each counts for RLIMIT_NPROC and for the pids.max of a cgroup.
func TestNames(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	// The command's parent is the supervisor, whose parent is the front process.
	const look = `"$@" >/dev/null
		front=$(ps -o ppid= -p $PPID)
		ps -L -o comm= -p $PPID | sort | uniq -c
		ps -o args= -p $PPID
		ps -L -o comm= -p $front | sort | uniq -c
		ps -o args= -p $front
		ps -o comm=,args= --ppid $PPID | grep '^canary'`
	out := output(t, l.under("sh", "-c", look, "sh", static(t, "client_connect.c"), "connect", host, port))
	want := regexp.MustCompile(`^ *(\d+) upconv
upconv __supervise \d+ sh -c .*(?s:.*)
 *(\d+) upconv
\S*upconv run --netns (?s:.*)
canary +canary
$`)
	m := want.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("it says\n%s", out)
	}
	var supervisor, front int
	fmt.Sscan(m[1], &supervisor)
	fmt.Sscan(m[2], &front)
	t.Logf("threads: %d of the supervisor, %d of the front process", supervisor, front)
	// The Go runtime starts one or two more when the machine is busy.
	if most := 29; supervisor+front > most {
		t.Errorf("%d threads of the supervisor and %d of the front process, want at most %d", supervisor, front, most)
	}
}

// TestPidsLimit starts upconv where there may be only so many processes and threads: it works, or
// says in one line why it cannot.
func TestPidsLimit(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	client := []string{static(t, "client_connect.c"), "connect", host, port}
	short := regexp.MustCompile(`^upconv: of the \d+ more processes and threads that upconv and the command need, only \d+ can be had: raise the limit \(.*\)\n$`)
	// try runs it under each limit, and returns from which on it works.
	try := func(t *testing.T, under func(limit int) []string) (enough int) {
		t.Helper()
		for limit := 8; limit <= 36; limit += 2 {
			args := under(limit)
			code, out := status(t, command(t, args[0], args[1:]...))
			switch {
			case code == 0 && out == greeting:
				if enough == 0 {
					enough = limit
				}
			case code != 125 || !short.MatchString(out) || enough != 0:
				t.Errorf("with a limit of %d: exit status %d, %.300q", limit, code, out)
			}
		}
		t.Logf("it takes at most %d", enough)
		if enough == 0 || enough > 32 {
			t.Errorf("it takes %d, want at most 32", enough)
		}
		return enough
	}
	t.Run("RLIMIT_NPROC", func(t *testing.T) {
		needUsers(t)
		needProgram(t, "prlimit")
		needProgram(t, "setpriv")
		try(t, func(limit int) []string {
			// A user that nobody else is, whose processes would count.
			user := []string{"prlimit", fmt.Sprintf("--nproc=%d:%d", limit, limit), "setpriv", "--reuid=64244", "--regid=64244", "--clear-groups", "env", "HOME=/nonexistent"}
			return slices.Concat([]string{"ip", "netns", "exec", l.egress}, user, []string{bin, "run", "--isolate", "--"}, client)
		})
	})
	t.Run("pids.max", func(t *testing.T) {
		group := pidsCgroup(t)
		try(t, func(limit int) []string {
			if err := os.WriteFile(filepath.Join(group, "pids.max"), fmt.Append(nil, limit), 0); err != nil {
				t.Fatal(err)
			}
			return join(filepath.Join(group, "cgroup.procs"), l.under(client...).Args...)
		})
	})
}

// pidsCgroup makes a cgroup that limits the number of tasks, of whatever version there is.
func pidsCgroup(t *testing.T) string {
	t.Helper()
	if root := mounted(t, "cgroup", "pids"); root != "" {
		return makeCgroup(t, root)
	}
	root := mounted(t, "cgroup2", "")
	controllers, _ := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if root == "" || !slices.Contains(strings.Fields(string(controllers)), "pids") {
		skip(t, "needs the pids controller of cgroups")
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+pids"), 0); err != nil {
		needRealRoot(t, "it makes cgroups")
		skip(t, "needs the pids controller of cgroups: %v", err)
	}
	return makeCgroup(t, root)
}
