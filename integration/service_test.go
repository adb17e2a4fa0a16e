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

// A serviceTest is a unit file and what is done with it.
type serviceTest struct {
	name    string
	service []string // lines of the [Service] section
	steps   []string // of service_probe.py; @dir is the manager's directory and @name the unit's name
	do      func(s *startedService)
}

// A startedService is a unit of a test that has been started, natively or under upconv.
type startedService struct {
	*manager
	name string // without .service
	file string // what it prints
}

// says waits for a line that the service prints.
func (s *startedService) says(line string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s to say %q", s.name, line), func() bool {
		return slices.Contains(strings.Split(s.said(), "\n"), line)
	})
}

func (s *startedService) said() string {
	s.t.Helper()
	text, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// reaches waits for a state of the unit.
func (s *startedService) reaches(state string) {
	s.t.Helper()
	eventually(s.t, s.name+" to be "+state, func() bool { return s.show(s.name+".service", "ActiveState") == "ActiveState="+state+"\n" })
}

// start starts the service, or fails to.
func (s *startedService) start() {
	s.systemctl("start", s.name).Run()
}

// hasStatus waits for the service to have said what its status is.
func (s *startedService) hasStatus(text string) {
	s.t.Helper()
	eventually(s.t, s.name+" to be "+text, func() bool { return s.show(s.name+".service", "StatusText") == "StatusText="+text+"\n" })
}

// must runs systemctl, which must succeed.
func (s *startedService) must(args ...string) {
	s.t.Helper()
	output(s.t, s.systemctl(args...))
}

// serving starts a service that serves.
func serving(s *startedService) {
	s.start()
	s.says("serving")
}

var serviceTests = []serviceTest{
	{"ready", nil, []string{"watchdog", "say", `READY=1\nSTATUS=up`, "serve"}, serving},
	{"not ready", []string{"TimeoutStartSec=2s"}, []string{"serve"}, (*startedService).start},
	{"ends before it is ready", nil, []string{"exit", "0"}, (*startedService).start},
	{"stop", nil, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("stop", s.name)
	}},
	{"stop, main process first", []string{"KillMode=mixed"}, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("stop", s.name)
	}},
	{"stop, main process alone", []string{"KillMode=process"}, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("stop", s.name)
	}},
	{"stop by another signal", []string{"KillSignal=SIGINT", "TimeoutStopSec=1s"}, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("stop", s.name)
	}},
	{"stop without a handler", nil, []string{"say", "READY=1", "sleep"}, func(s *startedService) {
		s.start()
		s.must("stop", s.name)
	}},
	{"reload", []string{"ExecReload=kill -HUP $MAINPID"}, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("reload", s.name)
		s.hasStatus("reloaded")
	}},
	{"signal to all", nil, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("kill", "--signal=USR1", s.name)
		s.says("SIGUSR1")
		s.must("stop", s.name)
	}},
	{"signal to the main process", nil, []string{"say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("kill", "--kill-whom=main", "--signal=USR1", s.name)
		s.says("SIGUSR1")
		s.must("stop", s.name)
	}},
	{"killed", nil, []string{"say", "READY=1", "die", "9"}, ending("failed")},
	{"ended by a signal", nil, []string{"say", "READY=1", "die", "15"}, ending("inactive")},
	{"ended by a real-time signal", nil, []string{"say", "READY=1", "die", "40"}, ending("failed")},
	{"exit status", nil, []string{"say", `READY=1\nERRNO=2`, "exit", "3"}, ending("failed")},
	{"restart", []string{"Restart=on-failure", "RestartSec=0", "StartLimitBurst=3"}, []string{"say", "READY=1", "exit", "3"}, ending("failed")},
	{"last words", nil, []string{"say", "READY=1", "hurry", "STATUS=last", "exit", "0"}, ending("inactive")},
	{"no restart after SIGTERM", []string{"Restart=on-failure"}, []string{"say", "READY=1", "die", "15"}, ending("inactive")},
	{"watchdog", []string{"WatchdogSec=500ms"}, []string{"watchdog", "say", "READY=1", "ping", "14", "serve"}, ending("failed")},
	{"watchdog without a handler", []string{"WatchdogSec=100ms"}, []string{"watchdog", "say", "READY=1", "sleep"}, ending("failed")},
	{"watchdog triggered", []string{"WatchdogSec=1h"}, []string{"say", "READY=1", "hurry", "WATCHDOG=trigger", "sleep"}, ending("failed")},
	{"main process alone is heard", nil, []string{"child", "STATUS=child", "say", "READY=1", "serve"}, serving},
	{"everybody is heard", []string{"NotifyAccess=all"}, []string{"child", `READY=1\nSTATUS=child`, "serve"}, serving},
	{"not everybody is heard", []string{"NotifyAccess=exec"}, []string{"child", "STATUS=child", "say", "READY=1", "serve"}, serving},
	{"nobody is heard", []string{"Type=exec", "NotifyAccess=none"}, []string{"listen", "serve"}, serving},
	{"main process named by itself", nil, []string{"say", `MAINPID=@PID\nREADY=1`, "say", "STATUS=main", "exit", "3"}, ending("failed")},
	{"kept file", []string{"FileDescriptorStoreMax=2"}, []string{"listen", "store", "say", "READY=1", "serve"}, func(s *startedService) {
		serving(s)
		s.must("restart", s.name)
		eventually(s.t, s.name+" to serve again", func() bool { return strings.HasSuffix(s.said(), "sockets 1 kept ['/proc/version']\nserving\n") })
	}},
	{"socket", nil, []string{"listen", "say", "READY=1", "accept", "serve"}, func(s *startedService) {
		s.must("start", s.name+".socket")
		const client = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'hello'); print(s.recv(100).decode())"
		if got := output(s.t, s.in(python, "-c", client, s.file+".sock")); got != "hello\n" {
			s.t.Errorf("%s: the service answers %q", s.name, got)
		}
		s.says("serving")
	}},
	{"goes on in a child", []string{"Type=forking", "PIDFile=@dir/@name.pid"}, []string{"fork", "leave", "@dir/@name.pid", "serve"}, func(s *startedService) {
		serving(s)
		s.must("kill", "--kill-whom=main", "--signal=USR1", s.name)
		s.says("SIGUSR1")
		s.must("stop", s.name)
	}},
	{"main process named by its parent", []string{"NotifyAccess=all"}, []string{"fork", "say", `MAINPID=@PID\nREADY=1`, "leave", "@dir/@name.pid", "say", "STATUS=main", "serve"}, func(s *startedService) {
		serving(s)
		s.must("kill", "--kill-whom=main", "--signal=USR1", s.name)
		s.says("SIGUSR1")
	}},
	{"strangers are not heard", []string{"NotifyAccess=all"}, []string{"say", "READY=1", "where", "serve"}, func(s *startedService) {
		serving(s)
		_, address, _ := strings.Cut(s.said(), "notify at ")
		address, rest, _ := strings.Cut(address, "\n")
		const client = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'ERRNO=5', sys.argv[1])"
		output(s.t, s.in(python, "-c", client, address))
		if err := os.WriteFile(s.file, []byte(rest), 0o666); err != nil {
			s.t.Fatal(err)
		}
		s.must("kill", "--kill-whom=main", "--signal=HUP", s.name)
		s.hasStatus("reloaded") // and so all that was sent before has been read
	}},
	{"another user", nil, []string{"drop", "65534", "say", "READY=1", "serve"}, serving},
}

// ending starts a service that ends by itself, and waits for the state that it ends in.
func ending(state string) func(*startedService) {
	return func(s *startedService) {
		s.start()
		s.reaches(state)
	}
}

// TestService compares what systemd thinks of a service, and what the service sees, when its
// command is run natively, under root's upconv and under an ordinary user's.
func TestService(t *testing.T) {
	m := newManager(t)
	probe := publicCopy(t, "service_probe.py")
	type way struct {
		name  string
		under []string
		lines []string
	}
	ways := []way{{"native", nil, nil}, {"root", []string{bin, "run", "--isolate", "--"}, nil}, {"user", []string{bin, "run", "--isolate", "--"}, []string{"User=65534"}}}
	services := func(test serviceTest) (list []*startedService) {
		for _, w := range ways {
			name := strings.NewReplacer(" ", "-", ",", "").Replace(test.name + "-" + w.name)
			s := &startedService{m, name, filepath.Join(m.dir, name)}
			s.write(test, append(append([]string{}, w.under...), python, probe), w.lines)
			list = append(list, s)
		}
		return list
	}
	for _, test := range serviceTests {
		services(test)
	}
	m.start()
	for _, test := range serviceTests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var native string
			for i, s := range services(test) {
				own := *m
				own.t = t
				s.manager = &own
				got := s.run(test)
				if i == 0 {
					native = got
				} else if got != native {
					t.Errorf("natively:\n%s\n%s under upconv:\n%s", native, ways[i].name, got)
				}
			}
		})
	}
}

// write writes the unit files: the service, and a socket of the same name, which starts it if
// somebody connects.
func (s *startedService) write(test serviceTest, argv, lines []string) {
	s.t.Helper()
	argv = append(argv, test.steps...)
	for i, arg := range argv {
		arg = strings.NewReplacer("@dir", s.dir, "@name", s.name).Replace(arg)
		argv[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(arg) + `"`
	}
	service := append(append([]string{"[Unit]", "DefaultDependencies=no", "[Service]", "Type=notify", "StandardOutput=append:" + s.file,
		"StandardError=append:" + s.file, "ExecStart=" + strings.Join(argv, " ")}, test.service...), lines...)
	for i, line := range service {
		service[i] = strings.NewReplacer("@dir", s.dir, "@name", s.name).Replace(line)
	}
	s.unit(s.name+".service", service...)
	s.unit(s.name+".socket", "[Unit]", "DefaultDependencies=no", "[Socket]", "ListenStream="+s.file+".sock", "SocketMode=0666", "FileDescriptorName=front")
}

// run starts the service, has done with it what the test says, and returns what systemd thinks of
// it and what it has said.
func (s *startedService) run(test serviceTest) string {
	s.t.Helper()
	test.do(s)
	thinks := s.show(s.name+".service", "ActiveState", "SubState", "Result", "ExecMainCode", "ExecMainStatus", "StatusText", "StatusErrno",
		"NFileDescriptorStore", "NRestarts")
	said := s.said()
	s.systemctl("stop", s.name+".service", s.name+".socket").Run()
	return thinks + said
}

// TestServiceWithoutSystemd starts a command as systemd starts a service, and checks what it finds
// in its environment and by whom its messages are sent. Without CAP_SYS_ADMIN outside of user
// namespaces upconv cannot send a child's message under the child's name: its supervisor sends it.
func TestServiceWithoutSystemd(t *testing.T) {
	needUsers(t)
	start, tell := publicCopy(t, "service_start.py"), publicCopy(t, "service_tell.py")
	const messages = `named ['LISTEN_PID', 'WATCHDOG_PID', 'SYSTEMD_EXEC_PID'] True
socket 1
environment []
main READY=1 STATUS=up []
main MAINPID=@MAIN X=1 []
main FDSTORE=1 ['/proc/version', '/dev/null']
CHILD STATUS=child []
CHILD BARRIER=1 ['pipe']
main STOPPING=1 []
status 0
`
	for _, user := range []string{"root", "user"} {
		for _, kind := range []string{"path", "abstract"} {
			t.Run(user+"/"+kind, func(t *testing.T) {
				if user == "root" {
					needRealRoot(t, "it sends credentials of others")
				}
				dir := publicDir(t)
				address := dir + "/notify"
				if kind == "abstract" {
					address = "@" + address
				}
				names := []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC", "SYSTEMD_EXEC_PID",
					"MANAGERPID", "NOTIFY_SOCKET", "PATH", "LC_CTYPE"}
				for how, under := range map[string][]string{"native": nil, "upconv": {bin, "run", "--isolate", "--"}} {
					line := append([]string{start, address}, under...)
					cmd := command(t, python, append(line, python, tell, strings.Join(names, ","))...)
					cmd.Env = []string{"PATH=/usr/bin:/bin"}
					child := "worker"
					if user == "user" {
						asNobody(cmd)
					}
					if how == "upconv" && (user == "user" || inUserNamespace()) {
						child = "upconv"
					}
					out := pipeNumber.ReplaceAllString(output(t, cmd), "pipe")
					if want := strings.ReplaceAll(messages, "CHILD", child); out != want {
						t.Errorf("%s:\n%s\nwant:\n%s", how, out, want)
					}
					os.Remove(address)
					if left, _ := os.ReadDir(dir); len(left) > 0 {
						t.Errorf("%s leaves %v", how, left)
					}
				}
			})
		}
	}
}

var pipeNumber = regexp.MustCompile(`pipe:\[\d+\]`)
