package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Names that only the server of the tests knows.
const (
	dualName   = "www.example"
	ipv4Name   = "old.example"
	dualAddr   = "198.51.100.7"
	dualAddr6  = "2001:db8:77::7"
	ipv4Addr   = "198.51.100.8"
	stubName   = "stub.example"
	stubAddr   = "198.51.100.53"
	stubServer = "127.0.0.53"
)

// text is as long as an answer over UDP can become without fragments.
var text = strings.Repeat("text of a record that makes answers longer than 512 bytes; ", 4)

// dnsmasq starts a DNS server in a namespace, beneath another command line if there is one, and
// waits until it answers.
func (n *nat64Lab) dnsmasq(namespace, addr string, beneath []string, args ...string) {
	n.t.Helper()
	needUsers(n.t) // it sets its groups
	line := append(slices.Clone(beneath), needProgram(n.t, "dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--pid-file=", "--log-facility=-", "--bind-interfaces", "--local-ttl=3600", "--cache-size=0", "--listen-address="+addr)
	n.start(namespace, append(line, args...)...)
	dig := needProgram(n.t, "dig")
	if !soon(func() bool {
		out, err := n.in(namespace, dig, "+short", "+tries=1", "+timeout=1", "ready.example", "@"+addr).Output()
		return err == nil && string(out) == "192.0.2.99\n"
	}) {
		n.t.Fatalf("dnsmasq does not answer at %s", addr)
	}
}

// names starts the IPv4-only DNS server beyond the egress.
func (n *nat64Lab) names() {
	n.t.Helper()
	args := []string{"--local=/example/", "--host-record=ready.example,192.0.2.99",
		"--host-record=" + dualName + "," + dualAddr + "," + dualAddr6, "--host-record=" + ipv4Name + "," + ipv4Addr}
	for range 4 {
		args = append(args, "--txt-record="+dualName+","+text+fmt.Sprint(len(args)))
	}
	n.dnsmasq(n.serverName, serverAddr, nil, args...)
}

// withResolvConf has args find another /etc/resolv.conf, with these name servers.
func (n *nat64Lab) withResolvConf(servers []string, args ...string) []string {
	n.t.Helper()
	conf := filepath.Join(n.t.TempDir(), "resolv.conf")
	content := "options timeout:2 attempts:1\n"
	for _, server := range servers {
		content += "nameserver " + server + "\n"
	}
	if err := os.WriteFile(conf, []byte(content), 0o644); err != nil {
		n.t.Fatal(err)
	}
	return append([]string{needProgram(n.t, "unshare"), "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf}, args...)
}

// resolving is what the clients of TestResolvers do: each natively in the egress, in the origin,
// where it must fail, and there under upconv.
func (n *nat64Lab) resolving(t *testing.T, route string, servers []string, args []string, want string) {
	t.Helper()
	n.lab.t = t
	args = n.withResolvConf(servers, args...)
	native := output(t, n.in(n.egress, args...))
	for line := range strings.SplitSeq(want, "\n") {
		if !strings.Contains(native, line) {
			t.Fatalf("natively it does not say %q but\n%s", line, native)
		}
	}
	if _, out := status(t, n.in(n.origin, args...)); strings.Contains(out, dualAddr) || strings.Contains(out, ipv4Addr) {
		t.Fatalf("it works without upconv:\n%s", out)
	}
	cmd, _ := n.via(route, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	under, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %v\n%s", cmd, err, errs.String())
	}
	sameOutput(t, native, string(under))
}

func (n *nat64Lab) datagramRoutes() map[string]string {
	return map[string]string{"netns": "netns:" + n.egress, "nat64": "nat64:" + nat64Prefix}
}

// resolvers are programs that look names up, each in its own way.
func resolvers(t *testing.T) map[string]struct {
	args []string
	want string
} {
	musl, i386 := compileC(t, "resolve.c", "musl-gcc", "-static"), compileC(t, "resolve.c", "gcc", "-m32")
	both := dualName + ": " + dualAddr + "\n" + dualName + ": " + dualAddr6 + "\n" + ipv4Name + ": " + ipv4Addr
	java := []string{needProgram(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}
	return map[string]struct {
		args []string
		want string
	}{
		"glibc":      {[]string{compileC(t, "resolve.c", "gcc"), dualName, ipv4Name}, both},
		"glibc i386": {[]string{i386, dualName, ipv4Name}, both},
		"musl":       {[]string{musl, dualName, ipv4Name}, both},
		// Not "ahostsv4", which asks with AI_ADDRCONFIG: for IPv4 addresses only if the host has
		// one itself.
		"getent": {[]string{needProgram(t, "getent"), "hosts", ipv4Name}, ipv4Addr},
		"Python": {[]string{needProgram(t, python), "-c", `import socket, sys
print(sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 80)}), socket.gethostbyname(sys.argv[2]), socket.gethostbyaddr(sys.argv[3])[0])
try: socket.getaddrinfo("nonesuch.example", 80)
except socket.gaierror as e: print(e)
`, dualName, ipv4Name, ipv4Addr}, "['" + dualAddr + "', '" + dualAddr6 + "'] " + ipv4Addr + " " + ipv4Name},
		"Python in threads": {[]string{python, "-c", `import concurrent.futures, socket, sys
with concurrent.futures.ThreadPoolExecutor(16) as pool:
	print(set(pool.map(socket.gethostbyname, [sys.argv[1]] * 200)))
`, ipv4Name}, "{'" + ipv4Addr + "'}"},
		"Go":                  {[]string{compileGo(t, "resolve_go.go"), dualName, ipv4Addr}, "[" + dualAddr + " " + dualAddr6 + "] <nil>\n[" + ipv4Name + ".] <nil>\nno such host"},
		"Node, the C library": {[]string{needProgram(t, "node"), "-e", `require("dns").lookup(process.argv[1], {all: true}, (e, a) => console.log(e, a.map(x => x.address).sort()))`, dualName}, dualAddr},
		"Node, c-ares": {[]string{"node", "-e", `const dns = require("dns").promises; (async () => { for (const [f, n] of [["resolve4", 1], ["resolve6", 1], ["resolve4", 2], ["reverse", 3]])
	console.log(await dns[f](process.argv[n])); console.log((await dns.resolveTxt(process.argv[1])).flat().sort()) })()`, dualName, ipv4Name, ipv4Addr},
			dualAddr + "\n" + dualAddr6 + "\n" + ipv4Addr + "\n" + ipv4Name},
		"Java":                  {append(slices.Clip(java), testdata(t, "resolve_java.java"), dualName, serverAddr), "InetAddress [" + dualAddr + "\nA: " + dualAddr + "\nAAAA: " + dualAddr6},
		"Java, preferIPv4Stack": {append(slices.Clip(java), "-Djava.net.preferIPv4Stack=true", testdata(t, "resolve_java.java"), dualName, serverAddr), "InetAddress [" + dualAddr + "]\nA: " + dualAddr},
		"dig":                   {[]string{needProgram(t, "dig"), "+short", dualName, dualName, "AAAA", "-x", ipv4Addr}, dualAddr + "\n" + dualAddr6 + "\n" + ipv4Name},
		"dig of a long answer":  {[]string{"dig", "+noall", "+answer", "+notcp", "+ignore", dualName, "TXT"}, "512 bytes"},
		"dig cut short":         {[]string{"dig", "+noall", "+answer", "+noedns", dualName, "TXT"}, "512 bytes"}, // asks again by TCP
		"dig from a port":       {[]string{"dig", "+short", "-b", "0.0.0.0#34567", dualName}, dualAddr},
		"host":                  {[]string{needProgram(t, "host"), dualName}, dualName + " has address " + dualAddr + "\nhas IPv6 address " + dualAddr6},
		"nslookup":              {[]string{needProgram(t, "nslookup"), dualName}, "Address:\t" + serverAddr + "#53\nAddress: " + dualAddr},
		"curl":                  {[]string{"sh", "-c", needProgram(t, "curl") + ` -s -m 10 http://$0:7/; echo $?`, ipv4Name}, "7"}, // refused, and not 6
	}
}

// TestResolvers has programs look names up at a DNS server that has IPv4 only.
func TestResolvers(t *testing.T) {
	n := newNAT64(t)
	n.tag(t)
	n.names()
	for name, c := range resolvers(t) {
		for route, via := range n.datagramRoutes() {
			t.Run(name+"/"+route, func(t *testing.T) { n.resolving(t, via, []string{serverAddr}, c.args, c.want) })
		}
	}
	n.lab.t = t
}

// TestResolversFailOver gives programs a name server that is not there before the one that is: at
// loopback, and beyond the egress. musl asks all at once, with one socket.
func TestResolversFailOver(t *testing.T) {
	n := newNAT64(t)
	n.tag(t)
	n.names()
	output(t, n.in(n.serverName, "sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_ratemask=0"))
	output(t, n.in(n.serverName, "ip", "address", "add", "203.0.113.11/32", "dev", "lo")) // where nobody listens
	for name, compiler := range map[string][]string{"glibc": {"gcc"}, "musl": {"musl-gcc", "-static"}} {
		probe := compileC(t, "resolve.c", compiler...)
		for _, dead := range []string{"127.0.0.1", "203.0.113.11"} {
			for route, via := range n.datagramRoutes() {
				t.Run(name+"/"+dead+"/"+route, func(t *testing.T) {
					n.resolving(t, via, []string{dead, serverAddr}, []string{probe, ipv4Name, dualName}, ipv4Name+": "+ipv4Addr)
				})
			}
		}
	}
	n.lab.t = t
}

// TestResolverStub is the way of systemd-resolved: programs ask 127.0.0.53, which is in the origin,
// and only the one who listens there asks further.
func TestResolverStub(t *testing.T) {
	local := []string{"--local=/example/", "--host-record=ready.example,192.0.2.99", "--host-record=" + stubName + "," + stubAddr}
	n := newNAT64(t)
	n.tag(t)
	n.names()
	for _, namespace := range []string{n.origin, n.egress} {
		n.dnsmasq(namespace, stubServer, nil, local...)
	}
	// Both with one process: a stub for names, and another server beyond the egress.
	script := `import socket, sys
def ask(server, name):
	s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
	query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
	s.sendto(query, (server, 53)); answer, whose = s.recvfrom(512)
	return socket.inet_ntoa(answer[-4:]), whose
for _ in range(3): print(socket.gethostbyname(sys.argv[1]), ask(sys.argv[2], sys.argv[3]), ask("127.0.0.53", sys.argv[1]))
`
	for route, via := range n.datagramRoutes() {
		t.Run("stays local/"+route, func(t *testing.T) {
			n.resolving(t, via, []string{stubServer}, []string{needProgram(t, python), "-c", script, stubName, serverAddr, ipv4Name},
				stubAddr+" ('"+ipv4Addr+"', ('"+serverAddr+"', 53)) ('"+stubAddr+"', ('127.0.0.53', 53))")
		})
	}
	n.lab.t = t
	// And the stub itself asks by way of upconv. It is a server with many sockets: one for each
	// query.
	forward := []string{"--server=" + serverAddr, "--host-record=ready.example,192.0.2.99"}
	n.dnsmasq(n.egress, "127.0.0.54", nil, forward...)
	for route, via := range n.datagramRoutes() {
		addr := map[string]string{"netns": "127.0.0.55", "nat64": "127.0.0.56"}[route]
		t.Run("asks/"+route, func(t *testing.T) {
			n.lab.t = t
			n.dnsmasq(n.origin, addr, []string{bin, "run", "--via", via, "--"}, forward...)
			ask := func(where, addr string) string {
				n.lab.t = t
				// from the outside: they are not under upconv
				return output(t, n.in(where, "dig", "+short", "+tries=2", "@"+addr, dualName, dualName, "AAAA", ipv4Name, "-x", ipv4Addr))
			}
			native := ask(n.egress, "127.0.0.54")
			if want := strings.Join([]string{dualAddr, dualAddr6, ipv4Addr, ipv4Name + ".", ""}, "\n"); native != want {
				t.Fatalf("natively %q, want %q", native, want)
			}
			for i := 0; i < 20 && !t.Failed(); i++ {
				sameOutput(t, native, ask(n.origin, addr))
			}
		})
	}
	n.lab.t = t
}
