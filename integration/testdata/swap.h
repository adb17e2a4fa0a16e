// What the swap_*.c programs share. Each is called CASE ADDRESS PORT [ARG...] and prints what came of it, the same natively
// and under upconv; the last line is "end".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in dst;

static inline void die(const char *what) {
	printf("%s: %s\n", what, strerrorname_np(errno));
	exit(3);
}

// result prints what a call returned.
static inline long result(const char *what, long r) {
	int e = errno;
	if (r < 0)
		printf("%s: %ld %s\n", what, r, strerrorname_np(e) ? strerrorname_np(e) : "?");
	else
		printf("%s: %ld\n", what, r);
	errno = e;
	return r;
}

static inline int sock(int flags) {
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static inline struct sockaddr_in address(const char *host, const char *port) {
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	if (inet_pton(AF_INET, host, &sa.sin_addr) != 1) {
		printf("%s is not an address\n", host);
		exit(2);
	}
	return sa;
}

static inline void destination(char **argv) {
	setvbuf(stdout, NULL, _IOLBF, 0);
	dst = address(argv[2], argv[3]);
}

static inline int conn_to(int fd, struct sockaddr_in *sa) { return connect(fd, (struct sockaddr *)sa, sizeof *sa); }

static inline int conn(const char *what, int fd) { return result(what, conn_to(fd, &dst)); }

static inline int set(int fd, int level, int option, int value) { return setsockopt(fd, level, option, &value, sizeof value); }

static inline int get(int fd, int level, int option) {
	int value = -1;
	socklen_t length = sizeof value;
	return getsockopt(fd, level, option, &value, &length) ? -1 : value;
}

static inline unsigned long cookie(int fd) {
	unsigned long value = 0;
	socklen_t length = sizeof value;
	getsockopt(fd, SOL_SOCKET, 57 /* SO_COOKIE */, &value, &length);
	return value;
}

static inline int so_error(int fd) {
	int e = get(fd, SOL_SOCKET, SO_ERROR);
	printf("SO_ERROR: %s\n", e == -1 ? "none" : e ? strerrorname_np(e) : "0");
	return e;
}

// wait_for polls until events or an error are there, for ten seconds at most.
static inline int wait_for(int fd, int events) {
	struct pollfd p = {fd, events, 0};
	while (poll(&p, 1, 10000) < 0 && errno == EINTR)
		;
	return p.revents;
}

// greeting prints what the server has to say.
static inline void greeting(int fd) {
	char buffer[256];
	ssize_t n;
	int flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK & ~O_ASYNC);
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		printf("greeting: %.*s", (int)n, buffer);
	if (n < 0)
		result("read", n);
	fcntl(fd, F_SETFL, flags);
}

static inline const char *tcp_state(int fd) {
	static const char *names[] = {"0", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
		"ESTABLISHED" /* CLOSE_WAIT: the server may have said all it has to say, or not */, "LAST_ACK", "LISTEN", "CLOSING"};
	struct tcp_info info = {0};
	socklen_t length = sizeof info;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		return "none";
	return names[info.tcpi_state];
}

static inline void print_name(const char *what, int r, struct sockaddr_storage *ss) {
	char text[INET6_ADDRSTRLEN] = "";
	if (r < 0) {
		result(what, r);
		return;
	}
	if (ss->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)ss)->sin6_addr, text, sizeof text);
	else
		inet_ntop(AF_INET, &((struct sockaddr_in *)ss)->sin_addr, text, sizeof text);
	printf("%s: family %d address %s\n", what, ss->ss_family, text);
}

// ends prints the state and both ends, without ports.
static inline void ends(int fd) {
	struct sockaddr_storage ss;
	socklen_t length = sizeof ss;
	printf("state: %s F_GETFL %o F_GETFD %d\n", tcp_state(fd), fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
	int r = getpeername(fd, (struct sockaddr *)&ss, &length);
	print_name("peer", r, &ss);
	length = sizeof ss;
	r = getsockname(fd, (struct sockaddr *)&ss, &length);
	print_name("local", r, &ss);
}
