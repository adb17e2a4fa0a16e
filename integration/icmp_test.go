package integration

import (
	"slices"
	"strings"
	"testing"
)

// TestICMP has a router say that a destination cannot be reached or may not be. ICMPv6 has other
// words for it than ICMP, but what an IPv4 program is told is to be the same.
func TestICMP(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	python3 := needProgram(t, python)
	run := func(args ...string) { output(t, l.in(l.serverName, args...)) }
	run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
	for _, route := range []string{"unreachable 203.0.113.97", "prohibit 203.0.113.98", "unreachable 2001:db8:97::/64", "prohibit 2001:db8:98::/64"} {
		run(append([]string{"ip", "route", "add"}, strings.Fields(route)...)...)
	}
	const script = `import errno, select, socket, struct, sys
dst = (sys.argv[2], 80)
def name(n): return errno.errorcode[n] if n else "0"
def error(s): return name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
def failed():
    s = socket.socket(); s.setblocking(False)
    print(name(s.connect_ex(dst)))
    p = select.poll(); p.register(s, select.POLLOUT); p.poll(20000)
    return s
what = sys.argv[1]
if what == "SO_ERROR":
    s = failed(); print(error(s), name(s.connect_ex(dst)), name(s.connect_ex(dst)))
elif what == "SO_ERROR in part":
    s = failed(); print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR, 2)[0])
elif what == "connect":
    s = failed(); print(name(s.connect_ex(dst)), name(s.connect_ex(dst)))
elif what == "connect elsewhere":
    s = failed(); print(name(s.connect_ex(("203.0.113.99", 80))), name(s.connect_ex(("203.0.113.99", 80))))
elif what == "connect to what is refused":
    s = failed(); print(name(s.connect_ex(("203.0.113.10", 9))), name(s.connect_ex(("203.0.113.10", 9))))
elif what == "SO_SNDTIMEO":
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 20, 0)); print(name(s.connect_ex(dst)))
elif what == "blocking":
    s = socket.socket(); print(name(s.connect_ex(dst)))
print("end")
`
	// Nobody hears of the third.
	run("ip", "route", "add", "blackhole", "2001:db8:99::/64")
	flags := []string{"run", "--netns", l.origin, "--rule", "203.0.113.97=inet6:2001:db8:97::1", "--rule", "203.0.113.98=inet6:2001:db8:98::1",
		"--rule", "203.0.113.99=inet6:2001:db8:99::1", "--rule", "*=reject:EPERM", "--"}
	for _, dst := range []string{"203.0.113.97", "203.0.113.98"} {
		native := output(t, l.in(l.egress, python3, "-c", script, "blocking", dst))
		if native != "EHOSTUNREACH\nend\n" {
			t.Errorf("natively %s is %q: this test cannot tell anything", dst, native)
		}
		for what, want := range map[string]string{
			"SO_ERROR":                   "EINPROGRESS EHOSTUNREACH ECONNABORTED EINPROGRESS",
			"SO_ERROR in part":           "EINPROGRESS 113",
			"connect":                    "EINPROGRESS EHOSTUNREACH EINPROGRESS",
			"connect elsewhere":          "EINPROGRESS EHOSTUNREACH EINPROGRESS",
			"connect to what is refused": "EINPROGRESS EHOSTUNREACH EPERM",
			"SO_SNDTIMEO":                "EHOSTUNREACH",
			"blocking":                   "EHOSTUNREACH",
		} {
			t.Run(what+"/"+dst, func(t *testing.T) {
				t.Parallel()
				out := output(t, upconv(t, slices.Concat(flags, []string{python3, "-c", script, what, dst})...))
				if what == "blocking" { // the kernel's own wait tells it: see docs/fidelity.md
					out = strings.NewReplacer("ENETUNREACH", "EHOSTUNREACH", "EACCES", "EHOSTUNREACH").Replace(out)
				}
				if got := strings.Join(strings.Fields(out), " "); got != want+" end" {
					t.Errorf("%q, want %q", got, want)
				}
			})
		}
	}
}

// TestPathMTU asks for the path MTU of a connection over IPv6: it is less by what the longer header
// takes.
func TestPathMTU(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	listener := l.listen("[::]:0") // of both families
	hold(listener)
	_, port := split(t, listener.Addr().String())
	narrow := func(where, dst, mtu string) {
		output(t, l.in(where, "sh", "-c", `ip route add `+dst+` $(ip -o route get `+dst+` | grep -o 'dev [^ ]*') mtu `+mtu))
	}
	narrow(l.egress, "192.0.2.2", "1380")
	narrow(l.origin, serverAddr6, "1400")
	const script = `import socket, sys
for family, addr in (socket.AF_INET, sys.argv[1]), (socket.AF_INET6, "::ffff:" + sys.argv[1]):
    s = socket.socket(family)
    for level, option in (socket.IPPROTO_IP, 14), (socket.IPPROTO_IPV6, 24): # IP_MTU, IPV6_MTU
        try: print(s.getsockopt(level, option))
        except OSError as e: print(e)
    s.connect((addr, int(sys.argv[2])))
    for level, option in (socket.IPPROTO_IP, 14), (socket.IPPROTO_IPV6, 24):
        for room in 4, 2:
            try: print(s.getsockopt(level, option, room))
            except OSError as e: print(e)
`
	args := []string{needProgram(t, python), "-c", script, "192.0.2.2", port}
	native := output(t, l.in(l.egress, args...))
	if strings.Count(native, "d\\x05") < 3 { // 1380
		t.Fatalf("natively it said %s: this test cannot tell anything", native)
	}
	under := output(t, upconv(t, slices.Concat([]string{"run", "--netns", l.origin, "--via", "inet6:" + serverAddr6, "--"}, args)...))
	if native != under {
		t.Errorf("natively:\n%s\nunder upconv:\n%s", native, under)
	}
}
