// swap_bind CASE ADDRESS PORT [ARG...]: sockets that are bound before they are connected. See swap.h.
#include "swap.h"

static int inet6;

static int new_socket(void) {
	int fd = socket(inet6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static int connect_it(int fd) {
	if (!inet6)
		return conn("connect", fd);
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = dst.sin_port};
	six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&six.sin6_addr.s6_addr[12], &dst.sin_addr, 4);
	return result("connect", connect(fd, (struct sockaddr *)&six, sizeof six));
}

static int bind_it(int fd, const char *addr, int port) {
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = four.sin_port};
	char text[80];
	snprintf(text, sizeof text, "%s%s", strchr(addr, ':') ? "" : "::ffff:", addr);
	inet_pton(AF_INET6, text, &six.sin6_addr);
	inet_pton(AF_INET, addr, &four.sin_addr);
	int r = inet6 ? bind(fd, (struct sockaddr *)&six, sizeof six) : bind(fd, (struct sockaddr *)&four, sizeof four);
	int e = errno;
	printf("bind %s: %s\n", addr, r ? strerrorname_np(e) : "0");
	return r;
}

static int port_of(int fd) {
	struct sockaddr_in6 me = {0};
	socklen_t length = sizeof me;
	getsockname(fd, (struct sockaddr *)&me, &length);
	return ntohs(me.sin6_port);
}

static void port(const char *what, int fd, int want) {
	int is = port_of(fd);
	printf("%s: %s\n", what, is == 0 ? "no port" : want == 0 ? "a port" : is == want ? "the port" : "another port");
}

// one binds and connects; p is 0 for a port of the kernel's choice.
static void one(const char *addr, int p, const char *how) {
	int fd = new_socket();
	printf("%s %s:%s %s\n", inet6 ? "inet6" : "inet", addr, p ? "P" : "0", how);
	if (strstr(how, "freebind"))
		set(fd, IPPROTO_IP, IP_FREEBIND, 1);
	if (strstr(how, "freebind") && inet6)
		set(fd, IPPROTO_IPV6, 78 /* IPV6_FREEBIND */, 1);
	if (strstr(how, "no-port"))
		set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	if (strstr(how, "reuseaddr"))
		set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (strstr(how, "reuseport"))
		set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (strstr(how, "range"))
		set(fd, IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */, 41000 | 41999 << 16);
	if (bind_it(fd, addr, p)) {
		close(fd);
		return;
	}
	int bound = port_of(fd);
	port("bound", fd, p);
	if (connect_it(fd) == 0) {
		port("connected", fd, bound);
		if (strstr(how, "range"))
			printf("in the range: %d\n", port_of(fd) >= 41000 && port_of(fd) <= 41999);
		greeting(fd);
		ends(fd);
		bind_it(fd, addr, 0);
	}
	printf("options: %d %d %d %d\n", get(fd, IPPROTO_IP, IP_FREEBIND), get(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT), get(fd, SOL_SOCKET, SO_REUSEADDR),
		get(fd, SOL_SOCKET, SO_REUSEPORT));
	close(fd);
}

static void list(int p, const char *own) {
	for (inet6 = 0; inet6 < 2; inet6++) {
		const char *any[] = {"0.0.0.0", inet6 ? "::" : NULL};
		for (int i = 0; i < 2 && any[i]; i++) {
			one(any[i], p++, "");
			one(any[i], 0, "");
			one(any[i], 0, "no-port");
			one(any[i], p++, "no-port");
			one(any[i], p++, "reuseaddr");
			one(any[i], p++, "reuseport");
			one(any[i], 0, "range");
			one(any[i], 0, "no-port range");
			one(any[i], p++, "freebind");
		}
		one("127.0.0.1", 0, "");
		one("127.0.0.1", p++, "");
		one("224.0.0.9", p++, "");
		one("203.0.113.200", p++, ""); // nobody has that
		one("203.0.113.200", p++, "freebind"); // and no answer would come: it fails at once or not at all
		// The egress has these.
		one("192.0.2.1", 0, "freebind");
		one("192.0.2.1", p++, "freebind");
		one("192.0.2.1", 0, "freebind no-port");
		one(own, 0, "freebind");
		one(own, p++, "freebind no-port");
		if (inet6) {
			one("::1", 0, "");
			one("2001:db8:77::1", 0, "freebind");
		}
	}
}

// pair: one port, two destinations.
static void pair(int p, const char *other_port) {
	// Without either option natively the second bind fails; under upconv it is the connect, since the port is free in the origin.
	for (int how = 1; how < 3; how++) {
		int fd[2];
		struct sockaddr_in other = dst;
		other.sin_port = htons(atoi(other_port));
		for (int i = 0; i < 2; i++) {
			fd[i] = sock(0);
			if (how)
				set(fd[i], SOL_SOCKET, how == 1 ? SO_REUSEADDR : SO_REUSEPORT, 1);
			if (bind_it(fd[i], "0.0.0.0", p + how))
				continue;
			result("connect", conn_to(fd[i], i ? &other : &dst));
			port("port", fd[i], p + how);
		}
		int third = sock(0); // the same connection once more
		if (how) {
			set(third, SOL_SOCKET, how == 1 ? SO_REUSEADDR : SO_REUSEPORT, 1);
			bind_it(third, "0.0.0.0", p + how);
			conn("connect", third);
		}
		close(third);
		greeting(fd[0]);
		close(fd[0]);
		close(fd[1]);
	}
}

// retry: the port is bound whatever becomes of the first connection.
static void retry(int p, const char *closed) {
	struct sockaddr_in nobody = dst;
	nobody.sin_port = htons(atoi(closed));
	int fd = sock(0), copy = dup(fd);
	bind_it(fd, "0.0.0.0", p);
	for (int i = 0; i < 2; i++) {
		result("refused", conn_to(fd, &nobody));
		port("port", fd, p);
	}
	bind_it(fd, "0.0.0.0", p + 1);
	conn("connect", fd);
	port("port", fd, p);
	greeting(fd);
	close(fd);
	close(copy);
}

// only ADDRESS PORT BIND-ADDRESS BIND-PORT
static void only(const char *addr, int p) {
	int fd = sock(0);
	bind_it(fd, addr, p);
	int r = conn("connect", fd);
	port("port", fd, p);
	if (r == 0) {
		greeting(fd);
		ends(fd);
	}
}

int main(int argc, char **argv) {
	destination(argv);
	const char *what = argv[1];
	if (!strcmp(what, "list"))
		list(atoi(argv[4]), argv[5]);
	else if (!strcmp(what, "pair"))
		pair(atoi(argv[4]), argv[5]);
	else if (!strcmp(what, "retry"))
		retry(atoi(argv[4]), argv[5]);
	else if (!strcmp(what, "only"))
		only(argv[4], atoi(argv[5]));
	else
		printf("%s: no such case\n", what);
	printf("end\n");
	return 0;
}
