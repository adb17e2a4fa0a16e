package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// publicDir makes a directory that every user may use, below directories that every user may pass.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "upconv-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// publicCopy returns the path of a copy of a file of testdata/ that every user can read, wherever
// the checkout is.
func publicCopy(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(testdata(t, name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(publicDir(t), name)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func staticC(t testing.TB, source string) string { return compileC(t, source, "gcc", "-static") }

// A way is one of the ways that upconv can be started in.
type way struct {
	name  string
	steps []string // last steps of the starter
	flags []string // of upconv run
	// changed are the lines of launch_probe that upconv changes on purpose: the first word of a
	// line and all of the new line; "" for any.
	changed map[string]string
}

// ways returns what differs from a native start in each: the command's network namespace, the
// filter, and that it dies with the supervisor; for an ordinary user no_new_privs, and with
// --isolate a user namespace.
func ways(l *lab) []way {
	all := func(more ...string) map[string]string {
		m := map[string]string{
			"NSpid:": "", "Seccomp:": "Seccomp:\t2", "Seccomp_filters:": fmt.Sprint("Seccomp_filters:\t", 1+refusingFilters()),
			"PR_GET_PDEATHSIG:": "PR_GET_PDEATHSIG: 9",
		}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	nnp := "NoNewPrivs:\t1"
	return []way{
		{"root", nil, []string{"--netns", l.origin, "--via", "netns:" + l.egress}, all("namespace net", "")},
		{"root isolated", nil, []string{"--isolate"}, all("namespace net", "")},
		{"user", []string{"user", "65534"}, []string{"--rule", serverAddr + "=reject"}, all("NoNewPrivs:", nnp)},
		{"user isolated", []string{"groups", "65534", "65534", "user", "65534"}, []string{"--isolate"}, all(
			"NoNewPrivs:", nnp, "namespace net", "", "namespace user", "",
			"uid_map:", `uid_map: "     65534      65534          1\x0a"`,
			"gid_map:", `gid_map: "     65534      65534          1\x0a"`,
			"setgroups:", `setgroups: "deny\x0a"`,
			"CapBnd:", "CapBnd:\t", // all that the kernel has, in a namespace of its own
		)},
	}
}

// probeKey is the part of a line that way.changed names it by.
func probeKey(line string) string {
	if rest, ok := strings.CutPrefix(line, "namespace "); ok {
		kind, _, _ := strings.Cut(rest, ":")
		return "namespace " + kind
	}
	key, _, _ := strings.Cut(line, ":")
	return key + ":"
}

// compareProbes reports every line of under that is not what native and the way ask for.
func compareProbes(t *testing.T, w way, native, under string) {
	t.Helper()
	want, got := strings.Split(native, "\n"), strings.Split(under, "\n")
	for i, line := range want {
		change, ok := w.changed[probeKey(line)]
		switch {
		case !ok:
		case i < len(got) && probeKey(got[i]) == probeKey(line) && strings.HasPrefix(got[i], change):
			want[i] = got[i]
		default:
			want[i] = change
		}
	}
	failed := false
	for i := 0; i < max(len(want), len(got)) && !failed; i++ {
		var a, b string
		if i < len(want) {
			a = want[i]
		}
		if i < len(got) {
			b = got[i]
		}
		if a != b {
			t.Errorf("line %d:\n native %s\n upconv %s", i+1, a, b)
			failed = len(want) != len(got)
		}
	}
}

// TestLaunchGivesWhatItWasGiven starts a program natively and under upconv from the same process,
// and compares everything that a process is given.
func TestLaunchGivesWhatItWasGiven(t *testing.T) {
	l := newLab(t)
	starter, probe := staticC(t, "launch_start.c"), staticC(t, "launch_probe.c")
	every := func(step string, numbers ...int) (steps []string) {
		for _, n := range numbers {
			steps = append(steps, step, strconv.Itoa(n))
		}
		return steps
	}
	signals := func(from, to int, except ...int) (list []int) {
	next:
		for n := from; n <= to; n++ {
			for _, e := range except {
				if n == e {
					continue next
				}
			}
			list = append(list, n)
		}
		return list
	}
	opened := func(from, to int) (steps []string) {
		for fd := from; fd <= to; fd++ {
			steps = append(steps, "open", strconv.Itoa(fd), "0", "/etc/passwd")
		}
		return steps
	}
	join := func(parts ...[]string) (all []string) {
		for _, part := range parts {
			all = append(all, part...)
		}
		return all
	}
	long := strings.Repeat("long ", 20000)

	for _, start := range []struct {
		name  string
		steps []string
		argv  []string
	}{
		{"plain", nil, nil},
		{"ignored HUP INT PIPE USR1 real-time", every("ignore", 1, 2, 10, 13, 40, 64), nil},
		{"ignored CHLD", every("ignore", 17), nil},
		{"ignored stop signals", every("ignore", 18, 20, 21, 22), nil},
		{"ignored URG PROF and faults", every("ignore", 23, 27, 4, 5, 7, 8, 11, 31), nil},
		{"ignored all", every("ignore", signals(1, 64, 9, 19)...), nil},
		{"blocked HUP INT TERM CHLD real-time", every("block", 1, 2, 15, 17, 34, 50), nil},
		{"blocked URG PROF and faults", every("block", 23, 27, 4, 5, 7, 8, 11, 31), nil},
		{"blocked all", every("block", signals(1, 64)...), nil},
		{"blocked and ignored", append(every("block", 2, 15, 64), every("ignore", 2, 15, 64)...), nil},
		{"nofile 64 4096", []string{"rlimit", "7", "64", "4096"}, nil},
		{"nofile 32 32", []string{"rlimit", "7", "32", "32"}, nil},
		{"nofile soft 1", []string{"rlimit", "7", "1", "4096"}, nil},
		{"core 0, stack 1 MiB, file size 4096, data 1 GiB", []string{
			"rlimit", "4", "0", "0", "rlimit", "3", "0x100000", "0x200000", "rlimit", "1", "4096", "0x100000", "rlimit", "2", "0x40000000", "0x40000000"}, nil},
		{"address space 2 GiB", []string{"rlimit", "9", "0x80000000", "0x80000000"}, nil},
		{"other limits", []string{
			"rlimit", "0", "1000", "2000", "rlimit", "8", "65536", "131072", "rlimit", "10", "77", "88", "rlimit", "11", "100", "200",
			"rlimit", "12", "8192", "16384"}, nil},
		{"file size 0", []string{"rlimit", "1", "0", "8192000"}, nil},
		{"stdin closed", []string{"close", "0"}, nil},
		{"stdout closed", []string{"close", "1"}, nil},
		{"stderr closed", []string{"close", "2"}, nil},
		{"stdin and stdout closed", every("close", 0, 1), nil},
		{"all three closed", every("close", 0, 1, 2), nil},
		{"descriptors 3 9 100", []string{
			"open", "3", "0", "/proc/version", "open", "9", "02002", "@dir/log", "pipe", "99", "100", "open", "200", "010000000", "/"}, nil},
		{"descriptors 3 to 40", opened(3, 40), nil},
		{"descriptors above the soft limit", []string{"open", "100", "0", "/etc/passwd", "rlimit", "7", "64", "4096"}, nil},
		{"descriptors above the hard limit", []string{"open", "100", "0", "/etc/passwd", "rlimit", "7", "64", "64"}, nil},
		// The numbers where upconv puts its own: 256, or a quarter of the limit, and those behind.
		{"descriptor 256", []string{"open", "256", "0", "/etc/passwd"}, nil},
		{"descriptors 3 to 320", opened(3, 320), nil},
		{"descriptors 250 to 255 and 257 to 280", join(opened(250, 255), opened(257, 280)), nil},
		{"descriptor 16 of 64", []string{"open", "16", "0", "/etc/passwd", "rlimit", "7", "64", "64"}, nil},
		{"descriptors 8 to 30 of 64", append(opened(8, 30), "rlimit", "7", "64", "64"), nil},
		{"descriptors 3 to 35 of 64", append(opened(3, 35), "rlimit", "7", "32", "64"), nil},
		{"descriptors 36 to 80 of 64", append(opened(36, 80), "rlimit", "7", "64", "64"), nil},
		{"every other descriptor of 100", func() (steps []string) {
			for fd := 3; fd < 100; fd += 2 {
				steps = append(steps, opened(fd, fd)...)
			}
			return append(steps, "rlimit", "7", "100", "100")
		}(), nil},
		{"close-on-exec descriptor", []string{"open", "5", "02000000", "/etc/passwd"}, nil},
		{"non-blocking pipes as standard input and output", []string{"pipe", "0", "1", "nonblock", "0", "nonblock", "1"}, nil},
		{"standard input a directory", []string{"open", "0", "0", "/"}, nil},
		{"standard output closed and 3 open", []string{"close", "1", "open", "3", "0", "/etc/passwd"}, nil},
		{"deleted directory", []string{"chdir", "@dir/gone", "rmdir", "@dir/gone"}, nil},
		{"unreadable directory", []string{"chdir", "@dir/closed", "chmod", "0", "@dir/closed"}, nil},
		{"umask 027", []string{"umask", "027"}, nil},
		{"umask 777", []string{"umask", "777"}, nil},
		{"empty environment", []string{"emptyenv"}, nil},
		{"odd environment", []string{
			"emptyenv", "env", "A=1", "env", "A=2", "env", "no equals sign", "env", "@@", "env", "=starts", "env", "A=1", "env", "B=\xff\xfe\n\x01",
			"env", "GODEBUG=asyncpreemptoff=0", "env", "GOMAXPROCS=1", "env", "@@", "env", "PATH="}, nil},
		{"odd environment, empty last", []string{"emptyenv", "env", "A=1", "env", "@@"}, nil},
		{"one empty environment entry", []string{"emptyenv", "env", "@@"}, nil},
		{"Go's own variables", []string{"emptyenv", "env", "GOGC=off", "env", "GOTRACEBACK=none", "env", "GOMEMLIMIT=50MiB"}, nil},
		{"large environment", []string{"env", "LARGE=" + long}, nil},
		{"odd arguments", nil, []string{"@@", "--", "-x", "\xff\xfe\n", "a b", "@@", "--via", "@@@@"}},
		{"long arguments", nil, []string{long, long, long}},
		{"argv[0] empty", []string{"argv0", "@@"}, nil},
		{"argv[0] odd", []string{"argv0", "-a\nb\xff"}, nil},
		{"nice, batch, oom score, one processor", []string{"nice", "5", "batch", "oom", "500", "cpu", "0"}, nil},
		{"personality, timer slack, io priority, no huge pages", []string{
			"personality", "0x0040000", "timerslack", "123456", "ioprio", "0x4005", "nothp"}, nil},
		{"no_new_privs", []string{"nonewprivs"}, nil},
		{"no controlling terminal", []string{"setsid"}, nil},
		{"process group of its own", []string{"setpgrp"}, nil},
		{"controlling terminal", []string{"pty"}, nil},
		{"everything", join(every("ignore", 1, 13, 17), every("block", 2, 15, 40), []string{
			"pipe", "3", "9", "close", "0", "umask", "077", "rlimit", "7", "100", "1000", "env", "A=2", "env", "A=3", "nice", "1", "setsid"}), []string{"x"}},
	} {
		for _, w := range ways(l) {
			t.Run(start.name+"/"+w.name, func(t *testing.T) {
				t.Parallel()
				if strings.HasPrefix(w.name, "user") {
					needUsers(t)
				}
				dir := publicDir(t)
				for _, sub := range []string{"gone", "closed"} {
					path := filepath.Join(dir, sub)
					if err := os.Mkdir(path, 0o777); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(dir+"/log", []byte("log\n"), 0o666); err != nil {
					t.Fatal(err)
				}
				os.Chmod(dir+"/log", 0o666)
				file := filepath.Join(dir, "probe")
				if err := os.WriteFile(file, nil, 0o666); err != nil {
					t.Fatal(err)
				}
				os.Chmod(file, 0o666)

				argv := append([]string{probe, file}, start.argv...)
				args := append(append([]string{}, start.steps...), w.steps...)
				args = append(append(args, "--"), argv...)
				args = append(append(args, "--!", bin, "run"), w.flags...)
				args = append(append(args, "--"), argv...)
				for i, arg := range args {
					args[i] = strings.Replace(arg, "@dir", dir, 1)
				}
				cmd := command(t, starter, args...)
				stdin, err := os.Open(dir + "/log")
				if err != nil {
					t.Fatal(err)
				}
				defer stdin.Close()
				cmd.Stdin = stdin
				if got := output(t, cmd); got != "42\n42\n" {
					t.Fatalf("exit statuses %q natively and under upconv, want 42 and 42\n%s", got, cmd.Stderr)
				}
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				native, under, ok := strings.Cut(string(text), "end\n")
				if !ok || native == "" {
					t.Fatalf("no two probes in %q", text)
				}
				compareProbes(t, w, native, strings.TrimSuffix(under, "end\n"))
			})
		}
	}
}

// TestLaunchLooksUpAsExecvp compares what is executed, and the exit status, with env(1), which
// calls execvp(3).
func TestLaunchLooksUpAsExecvp(t *testing.T) {
	needRoot(t)
	env := needProgram(t, "env")
	probe := staticC(t, "launch_probe.c")
	for _, user := range []string{"root", "user"} {
		for _, test := range []struct {
			name string
			path string // of the environment; "unset" for none
			argv []string
		}{
			{"absolute entry", "@dir/a", []string{"tool", "x"}},
			{"relative entry", "a", []string{"tool"}},
			{"dot", ".", []string{"here"}},
			{"empty entry first", ":/nonexistent", []string{"here"}},
			{"empty entry between", "/nonexistent::/nowhere", []string{"here"}},
			{"empty entry last", "/nonexistent:", []string{"here"}},
			{"empty path", "", []string{"here"}},
			{"empty path, nothing there", "", []string{"tool"}},
			{"no path", "unset", []string{"true"}},
			{"no path, not there", "unset", []string{"here"}},
			{"trailing slash", "@dir/a/", []string{"tool"}},
			{"first of two", "@dir/a:@dir/b", []string{"tool"}},
			{"entry that is a file", "@dir/a/tool:@dir/b", []string{"tool"}},
			{"no permission, then found", "@dir/denied:@dir/b", []string{"tool"}},
			{"no permission", "@dir/denied:/nonexistent", []string{"tool"}},
			{"directory, then found", "@dir/directory:@dir/b", []string{"tool"}},
			{"directory", "@dir/directory:/nonexistent", []string{"tool"}},
			{"closed directory, then found", "@dir/closed:@dir/b", []string{"tool"}},
			{"closed directory", "@dir/closed:/nonexistent", []string{"tool"}},
			{"missing interpreter, then found", "@dir/interpreter:@dir/b", []string{"tool"}},
			{"missing interpreter", "@dir/interpreter", []string{"tool"}},
			{"dangling link, then found", "@dir/dangling:@dir/b", []string{"tool"}},
			{"script without #!", "@dir/script", []string{"tool", "a b", "", "*"}},
			{"script without #!, then a better one", "@dir/script:@dir/b", []string{"tool", "a"}},
			{"empty file", "@dir/empty", []string{"tool"}},
			{"by path", "/nonexistent", []string{"@dir/a/tool"}},
			{"by relative path", "/nonexistent", []string{"a/tool"}},
			{"by relative path with dot", "/nonexistent", []string{"./a/tool"}},
			{"by path, script without #!", "/nonexistent", []string{"script/tool", "a b", "", "*"}},
			{"by path, odd bytes", "/nonexistent", []string{"@dir/odd\xff\n/tool"}},
			{"odd bytes in the path", "@dir/odd\xff\n", []string{"tool"}},
			{"by path, missing", "/bin", []string{"./none"}},
			{"by path, below a file", "/bin", []string{"./a/tool/none"}},
			{"by path, no permission", "/bin", []string{"./denied/tool"}},
			{"by path, directory", "/bin", []string{"./a"}},
			{"by path, missing interpreter", "/bin", []string{"./interpreter/tool"}},
			{"by path, closed directory", "/bin", []string{"./closed/tool"}},
			{"by path, garbage", "/bin", []string{"./garbage/tool"}},
			{"by path, for another machine", "/bin", []string{"./foreign/tool"}},
			{"missing", "/bin:/usr/bin", []string{"there-is-no-such-command"}},
			{"name that begins with a dash", "@dir/a", []string{"--", "-dash"}},
			{"linked", "@dir/linked", []string{"tool"}},
		} {
			t.Run(test.name+"/"+user, func(t *testing.T) {
				t.Parallel()
				dir := publicDir(t)
				write := func(name, text string, mode os.FileMode) {
					t.Helper()
					path := filepath.Join(dir, name)
					os.MkdirAll(filepath.Dir(path), 0o755)
					if err := os.WriteFile(path, []byte(text), mode); err != nil {
						t.Fatal(err)
					}
				}
				say := func(what string) string {
					return "#!/bin/sh\necho " + what + " \"$0\" $#; for a in \"$@\"; do echo \"<$a>\"; done; exit 7\n"
				}
				write("a/tool", say("a"), 0o755)
				write("a/-dash", say("dash"), 0o755)
				write("b/tool", say("b"), 0o755)
				write("here", say("here"), 0o755)
				write("denied/tool", say("denied"), 0o644)
				write("directory/tool/file", "", 0o644)
				write("closed/tool", say("closed"), 0o755)
				os.Chmod(dir+"/closed", 0)
				write("interpreter/tool", "#!/nonexistent/interpreter\n", 0o755)
				write("script/tool", strings.TrimPrefix(say("script"), "#!/bin/sh\n"), 0o755)
				write("empty/tool", "", 0o755)
				write("odd\xff\n/tool", say("odd"), 0o755)
				write("garbage/tool", "\x7fELF\x00\x00\x00", 0o755)
				machine, err := os.ReadFile(probe)
				if err != nil {
					t.Fatal(err)
				}
				machine[18], machine[19] = 0xf3, 0 // e_machine, EM_RISCV
				write("foreign/tool", string(machine[:4096]), 0o755)
				os.Mkdir(dir+"/dangling", 0o755)
				os.Mkdir(dir+"/linked", 0o755)
				if err := os.Symlink("/nonexistent", dir+"/dangling/tool"); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("../a/tool", dir+"/linked/tool"); err != nil {
					t.Fatal(err)
				}

				run := func(argv ...string) (int, string, string) {
					for _, arg := range test.argv {
						argv = append(argv, strings.Replace(arg, "@dir", dir, 1))
					}
					cmd := command(t, argv[0], argv[1:]...)
					if user == "user" {
						needUsers(t)
						asNobody(cmd)
					}
					cmd.Dir = dir
					cmd.Env = []string{"PATH=" + strings.ReplaceAll(test.path, "@dir", dir)}
					if test.path == "unset" {
						cmd.Env = []string{"X=1"}
					}
					var out, errs strings.Builder
					cmd.Stdout, cmd.Stderr = &out, &errs
					cmd.Run()
					return cmd.ProcessState.ExitCode(), out.String(), errs.String()
				}
				wantCode, wantOut, _ := run(env)
				code, out, errs := run(bin, "run", "--isolate")
				if code != wantCode || out != wantOut {
					t.Errorf("env: exit status %d, %q\nupconv: exit status %d, %q\n%s", wantCode, wantOut, code, out, errs)
				}
				if (code == 126 || code == 127) && out == "" && !strings.HasPrefix(test.argv[0], "./garbage") && !strings.HasPrefix(test.argv[0], "./foreign") &&
					!strings.HasPrefix(errs, "upconv: ") {
					t.Errorf("no message of upconv's: %q", errs)
				}
			})
		}
	}
}

// TestLaunchPrivileges checks who can gain privileges: under root's upconv whoever can natively,
// under an ordinary user's nobody.
func TestLaunchPrivileges(t *testing.T) {
	l := newLab(t)
	needUsers(t)
	setpriv, su, id := needProgram(t, "setpriv"), needProgram(t, "su"), needProgram(t, "id")
	dir := publicDir(t)
	suid := filepath.Join(dir, "setuid-id")
	program, err := os.ReadFile(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(suid, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(suid, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	drop := []string{setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	status := func(key string) []string { return []string{"grep", "-x", key, "/proc/self/status"} }
	for _, test := range []struct {
		name       string
		argv       []string
		root, user string // what it prints; "" where it fails
	}{
		{"setuid program", append(drop, suid, "-u"), "0\n", ""},
		{"setuid program as it is", []string{suid, "-u"}, "0\n", "65534\n"},
		{"su", []string{su, "-s", "/bin/sh", "nobody", "-c", "id -u"}, "65534\n", ""},
		{"setpriv", append(drop, id, "-u"), "65534\n", ""},
		{"capabilities kept by setpriv", append(drop, "--inh-caps", "+net_raw", "--ambient-caps", "+net_raw", "grep", "-q", "^CapEff:.*2000$", "/proc/self/status"), "", ""},
		{"no_new_privs", status("NoNewPrivs:\t."), "NoNewPrivs:\t0\n", "NoNewPrivs:\t1\n"},
		{"no_new_privs when asked for", []string{setpriv, "--no-new-privs", "grep", "-x", "NoNewPrivs:\t1", "/proc/self/status"}, "NoNewPrivs:\t1\n", "NoNewPrivs:\t1\n"},
	} {
		for _, w := range ways(l) {
			t.Run(test.name+"/"+w.name, func(t *testing.T) {
				want, root := test.user, strings.HasPrefix(w.name, "root")
				cmd := upconv(t, append(append(append([]string{"run"}, w.flags...), "--"), test.argv...)...)
				if root {
					want = test.root
					if native := output(t, command(t, test.argv[0], test.argv[1:]...)); native != want {
						t.Fatalf("natively it prints %q, want %q: this test cannot tell anything", native, want)
					}
				} else {
					needUsers(t)
					asNobody(cmd)
				}
				var out, errs strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &errs
				err := cmd.Run()
				if out.String() != want || root && err != nil {
					t.Errorf("got %q, %v, want %q\n%s", out.String(), err, want, errs.String())
				}
				if !root && want == "" && err == nil {
					t.Error("worked, and must not")
				}
			})
		}
	}
}

// TestLaunchDroppedPrivilegesAreServed connects from a program that root's upconv started and that
// is an ordinary user by then, and from a set-user-ID one.
func TestLaunchDroppedPrivilegesAreServed(t *testing.T) {
	l := newLab(t)
	host, port, _ := strings.Cut(l.greet(), ":")
	client := staticC(t, "launch_client.c")
	dir := publicDir(t)
	program, err := os.ReadFile(client)
	if err != nil {
		t.Fatal(err)
	}
	suid := filepath.Join(dir, "setuid-client")
	if err := os.WriteFile(suid, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(suid, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	needUsers(t)
	drop := []string{needProgram(t, "setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	for name, exe := range map[string]string{"dropped": client, "set-user-ID": suid} {
		t.Run(name, func(t *testing.T) {
			if got := output(t, l.under(append(drop, exe, host, port)...)); got != greeting {
				t.Errorf("got %q, want %q", got, greeting)
			}
		})
	}
}
