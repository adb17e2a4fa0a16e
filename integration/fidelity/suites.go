package main

import (
	"path/filepath"
	"regexp"
)

// suites is what is run.
func suites(scratch string) []suite {
	var all []suite
	for _, pkg := range []string{"net", "net/http", "crypto/tls", "net/http/httputil", "net/rpc", "net/smtp"} {
		all = append(all, &goSuite{pkg: pkg, binary: filepath.Join(scratch, file(pkg)+".test"), udp: pkg == "net"})
	}
	// With -test.short, as above, net leaves out whatever listens on a wildcard address, and
	// multicast.
	all = append(all, &goSuite{
		title: "go net datagrams", pkg: "net", binary: filepath.Join(scratch, "net-datagrams.test"), udp: true, long: true,
		only: regexp.MustCompile(`^Test.*(UDP|IPConn|Unixgram|Packet|Multicast|(To|From)Timeout|DNS|ResolverDial)`),
	})
	// Control messages and batches: of the module that upconv has its BPF assembler from.
	all = append(all, &goSuite{
		title: "go x/net/ipv4", pkg: "golang.org/x/net/ipv4", binary: filepath.Join(scratch, "x-net-ipv4.test"), udp: true, long: true,
	})
	python := func(title, packages string, without []string, modules ...string) *pySuite {
		p := &pySuite{title: title, packages: packages, modules: modules, without: without, scratch: scratch}
		all = append(all, p)
		return p
	}
	const cpython = "CPython's tests: libpython3.11-testsuite (or a Python that comes with its tests)"
	// First, since it takes longest. The modules without connections would take minutes more.
	python("python asyncio", cpython, []string{
		".PollEventLoopTests", // those with select and epoll are run: poll keeps no registrations either
	},
		"test.test_asyncio.test_base_events", "test.test_asyncio.test_buffered_proto", "test.test_asyncio.test_events",
		"test.test_asyncio.test_sendfile", "test.test_asyncio.test_server", "test.test_asyncio.test_sock_lowlevel",
		"test.test_asyncio.test_ssl", "test.test_asyncio.test_sslproto", "test.test_asyncio.test_streams",
		"test.test_asyncio.test_unix_events").udp = true
	python("python socket", cpython, []string{
		"VSOCK", // waits for a connection to itself that some virtual machines do not have
	}, "test.test_socket").udp = true
	python("python ssl", cpython, nil, "test.test_ssl")
	python("python loops", cpython, nil,
		"test.test_asyncore", "test.test_asynchat", "test.test_selectors", "test.test_epoll", "test.test_select", "test.test_poll")
	python("python clients", cpython, nil,
		"test.test_httplib", "test.test_urllib2_localnet", "test.test_ftplib", "test.test_smtplib", "test.test_telnetlib",
		"test.test_poplib", "test.test_imaplib", "test.test_nntplib")
	python("python servers", cpython, []string{
		// Its children answer with copies of one socket. Where one is swapped it takes the port's
		// datagrams until it ends: another process keeps the old socket (docs/fidelity.md), and
		// here both are in one namespace.
		".test_ForkingUDPServer",
	},
		"test.test_socketserver", "test.test_httpservers", "test.test_docxmlrpc", "test.test_xmlrpc", "test.test_logging").udp = true
	python("tornado", "python3-tornado", nil,
		"tornado.test.httpclient_test", "tornado.test.simple_httpclient_test", "tornado.test.httpserver_test",
		"tornado.test.iostream_test", "tornado.test.ioloop_test", "tornado.test.netutil_test", "tornado.test.tcpclient_test",
		"tornado.test.tcpserver_test", "tornado.test.websocket_test", "tornado.test.web_test", "tornado.test.http1connection_test")
	python("twisted", "python3-twisted", []string{"twisted.trial."}, // base classes, which modules import
		"twisted.internet.test.test_tcp", "twisted.internet.test.test_tls", "twisted.internet.test.test_core",
		"twisted.internet.test.test_fdset", "twisted.internet.test.test_socket", "twisted.internet.test.test_endpoints",
		"twisted.internet.test.test_epollreactor", "twisted.internet.test.test_unix",
		"twisted.internet.test.test_udp", "twisted.internet.test.test_udp_internals", "twisted.internet.test.test_resolver",
		"twisted.test.test_udp", "twisted.names.test.test_client", "twisted.names.test.test_rootresolve",
		"twisted.test.test_tcp", "twisted.test.test_ssl", "twisted.test.test_ftp", "twisted.test.test_loopback",
		"twisted.test.test_socks", "twisted.test.test_internet", "twisted.test.test_strports",
		"twisted.web.test.test_webclient", "twisted.web.test.test_xmlrpc", "twisted.web.test.test_wsgi",
		"twisted.mail.test.test_smtp", "twisted.mail.test.test_pop3client", "twisted.names.test.test_names", "twisted.words.test.test_service").udp = true
	return all
}
