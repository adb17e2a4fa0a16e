package integration

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// static compiles a C program so that it starts fast.
func static(t testing.TB, source string) string {
	return compileC(t, source, "musl-gcc", "-static", "-pthread")
}

// TestManyThreads has 200 threads of one process connect at once, and again.
func TestManyThreads(t *testing.T) {
	l := newLab(t)
	host, port := split(t, l.greet())
	l.leakless(t, func(s *session) {
		got := s.run(static(t, "stress_threads.c"), "200", "5", host, port, "'hello "+egressAddr+"'")
		if got != "1000\n" {
			t.Errorf("%s of 1000 connections were good", got)
		}
	})
}

// TestManyProcesses has 2,000 short-lived processes connect once each.
func TestManyProcesses(t *testing.T) {
	l := newLab(t)
	host, port := split(t, l.greet())
	l.leakless(t, func(s *session) {
		got := s.run(static(t, "stress_processes.c"), "2000", "20", static(t, "client_connect.c"), "connect", host, port, "3>&1", "|", "grep", "-vx", "'hello "+egressAddr+"'")
		if got != "2000\n" {
			t.Errorf("%s of 2000 processes were good", got)
		}
	})
}

// TestKilledMidConnect kills a target at a random moment, again and again, while another one works
// on.
func TestKilledMidConnect(t *testing.T) {
	for _, way := range []string{"good", "hole", "timeout"} {
		t.Run(way, func(t *testing.T) {
			l := newLab(t)
			host, port := split(t, l.greet())
			l.leakless(t, func(s *session) {
				if got := s.run(static(t, "stress_kill.c"), "300", host, port, way); got != "300\n" {
					t.Errorf("%s of 300 victims died by the signal", got)
				}
			})
		})
	}
}

// TestKilledMidDatagram is TestKilledMidConnect for datagrams: victims send to a namespace, through
// a NAT64 and to themselves with the same sockets, and wait for what comes.
func TestKilledMidDatagram(t *testing.T) {
	u := newUDPLab(t)
	s := u.session(t, "--rule", serverAddr+":"+u.other+"=nat64:"+nat64Prefix)
	kill := func() {
		if got := s.run(compileC(t, "stress_kill_udp.c", "gcc", "-static", "-pthread"), "300", serverAddr, u.port, u.other); got != "killed 300, lost 0\n" {
			t.Errorf("it says %q", got)
		}
	}
	kill()
	// What is made once is there now.
	var once usage
	if !soon(func() bool { once = usageOf(s.supervisor); return once.lasting() < s.base.lasting()+spares+10 }) {
		t.Fatalf("the supervisor has too many descriptors: %d %v", len(once.files), once.files)
	}
	s.base = once
	s.steady(kill)
	s.end()
}

// TestDescriptorPulledAway closes or replaces a descriptor while another thread connects it. What
// happens to that connect is the program's own affair, but nothing may crash, hang or leak.
func TestDescriptorPulledAway(t *testing.T) {
	for _, how := range []string{"close", "file", "socket"} {
		t.Run(how, func(t *testing.T) {
			l := newLab(t)
			host, port := split(t, l.greet())
			client := l.greetClient(t)
			l.leakless(t, func(s *session) {
				var good, bad int
				got := s.run(static(t, "stress_pull.c"), "2000", host, port, how)
				if n, err := fmt.Sscan(got, &good, &bad); n != 2 || good+bad != 2000 {
					t.Errorf("got %q, %v", got, err)
				}
				t.Logf("%d connects worked, %d did not", good, bad)
				if got := s.run(client); got != greeting {
					t.Errorf("afterwards: got %q, want %q", got, greeting)
				}
			})
		})
	}
}

// TestDescriptorsExhausted connects where the program, and where the supervisor, has no descriptor
// to spare.
func TestDescriptorsExhausted(t *testing.T) {
	t.Run("program", func(t *testing.T) {
		l := newLab(t)
		host, port := split(t, l.greet())
		l.leakless(t, func(s *session) {
			if got := s.run(static(t, "stress_full.c"), host, port); got != greeting+greeting {
				t.Errorf("got %q, want the greeting twice", got)
			}
		})
	})
	t.Run("supervisor", func(t *testing.T) {
		// Every thread that has connected costs the supervisor a descriptor as long as it lives;
		// here it has fewer than there are threads, and has to make do.
		l := newLab(t)
		l.tag(t)
		host, port := split(t, l.greet())
		cmd := l.under(static(t, "stress_threads.c"), "60", "5", host, port, "hello "+egressAddr)
		limited := command(t, needProgram(t, "prlimit"), append([]string{"--nofile=70:70", "--"}, cmd.Args...)...)
		var errs strings.Builder
		limited.Stderr = &errs
		out, err := limited.Output()
		if err != nil || string(out) != "300\n" {
			t.Errorf("%s of 300 connections were good (%v)\n%s", strings.TrimSpace(string(out)), err, errs.String())
		}
	})
}

// TestThreadsExhausted has a program use up what threads its user may have. upconv, which is of the
// same user, makes do with those that it has, also to pass signals on.
func TestThreadsExhausted(t *testing.T) {
	u := newUDPLab(t)
	host, port := split(t, u.greet())
	needUsers(t)
	// Nobody else's, whose processes would count.
	user := []string{needProgram(t, "prlimit"), "--nproc=60:60", needProgram(t, "setpriv"), "--reuid", "64242", "--regid", "64242", "--clear-groups", "env", "HOME=/nonexistent"}
	for name, how := range map[string][]string{
		"nat64":   {u.origin, "--via", "nat64:" + nat64Prefix},
		"isolate": {u.egress, "--isolate"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(slices.Concat(user, []string{bin, "run"}, how[1:]), "--", compileC(t, "stress_nproc.c", "gcc", "-static", "-pthread"), host, port, u.port, u.closed)
			var out buffer
			cmd := u.in(how[0], args...)
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() { ended <- cmd.Wait() }()
			for {
				select {
				case err := <-ended:
					if err != nil || out.String() != "no more\n200\n" {
						t.Errorf("%v; %.2000s", err, out.String())
					}
					return
				case <-time.After(time.Millisecond):
					if out.String() != "" {
						cmd.Process.Signal(syscall.SIGWINCH)
						cmd.Process.Signal(syscall.SIGCONT)
					}
				}
			}
		})
	}
}

// TestEgressDeleted takes the egress away while upconv runs: its name first, which nobody in it
// notices, and then its links.
func TestEgressDeleted(t *testing.T) {
	for _, count := range []string{"1", "50"} { // threads
		t.Run(count, func(t *testing.T) {
			l := newLab(t)
			l.tag(t)
			host, port := split(t, l.greet())
			client := static(t, "client_connect.c") + " %s " + host + " " + port
			s := l.session(t)
			threads := func() string {
				return s.run(static(t, "stress_threads.c"), count, "2", host, port, "'hello "+egressAddr+"'", "2>/dev/null")
			}
			twice, _ := strconv.Atoi(count)
			all := fmt.Sprintf("%d\n", 2*twice)
			if got := threads(); got != all {
				t.Fatalf("%s of %s connections were good", got, all)
			}
			if err := exec.Command("ip", "netns", "del", l.egress).Run(); err != nil {
				t.Fatal(err)
			}
			if got := threads(); got != all {
				t.Errorf("without its name: %s of %s connections were good", got, all)
			}
			inNamespace(t, l.serverName, func() error {
				peer, err := ownerOf("192.0.2.2")
				if err != nil {
					return err
				}
				return netlink.LinkDel(peer)
			})
			for range 3 {
				for _, how := range []string{"connect", "poll", "epoll"} {
					s.start(fmt.Sprintf(client, how) + " 2>&1")
					if status, out := s.finish(); status != 1 || out != "connect: Network unreachable\n" {
						t.Errorf("%s without links: exit status %d, %q; want 1, network unreachable", how, status, out)
					}
				}
			}
			if got := threads(); got != "0\n" {
				t.Errorf("without links: %s connections were good", got)
			}
			if gone(s.supervisor) {
				t.Error("the supervisor is gone")
			}
			var used usage
			if !soon(func() bool { used = usageOf(s.supervisor); return used.within(s.base) }) {
				t.Errorf("the supervisor's descriptors\nbefore: %v\nafter:  %v", s.base.files, used.files)
			}
			s.end()
			if _, err := netns.GetFromName(l.egress); err == nil {
				t.Error("the egress has its name again")
			}
		})
	}
}

// ownerOf finds the interface that has an address, in the namespace of the calling thread.
func ownerOf(addr string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, syscall.AF_INET)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if a.IP.String() == addr {
				return l, nil
			}
		}
	}
	return nil, fmt.Errorf("nobody has the address %s", addr)
}

// TestMemory makes 20,000 connections with one supervisor, whose memory stays what it is after the
// first 5,000.
func TestMemory(t *testing.T) {
	const most = 4 << 20
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	for _, test := range []struct {
		name  string
		flags []string
	}{
		{"without events", nil},
		{"with events", []string{"--events", "/dev/null"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := l.session(t, test.flags...)
			run := func(connects int) {
				got := s.run(static(t, "stress_threads.c"), "4", strconv.Itoa(connects/4), host, port, "'hello "+egressAddr+"'")
				if want := fmt.Sprintf("%d\n", connects); got != want {
					t.Errorf("%s of %d connections were good", got, connects)
				}
			}
			run(5000)
			before := s.resident()
			run(20000)
			after := s.resident()
			t.Logf("the supervisor's resident memory: %d kB before, %d kB after", before>>10, after>>10)
			if after > before+most {
				t.Errorf("the supervisor's resident memory grew from %d kB to %d kB in 20000 connections", before>>10, after>>10)
			}
			s.end()
		})
	}
}
