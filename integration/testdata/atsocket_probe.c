/*
 * atsocket_probe WHAT ADDR PORT: what a program finds with AF_INET stream sockets, for --swap-at socket.
 * With SOCKETCALL it makes its calls through socketcall(2).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef SOCKETCALL
static long call(int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long f) {
	unsigned long args[] = {a, b, c, d, e, f};
	return syscall(SYS_socketcall, what, args);
}
#define socket(a, b, c) call(1, a, b, c, 0, 0, 0)
#define bind(a, b, c) call(2, a, (unsigned long)(b), c, 0, 0, 0)
#define connect(a, b, c) call(3, a, (unsigned long)(b), c, 0, 0, 0)
#define listen(a, b) call(4, a, b, 0, 0, 0, 0)
#define sendto(a, b, c, d, e, f) call(11, a, (unsigned long)(b), c, d, (unsigned long)(e), f)
#endif

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static struct sockaddr_in dst;

static int result(const char *what, long r) {
	if (r < 0)
		printf("%s: -1 %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	return r;
}

static struct sockaddr_in at(const char *addr, int port) {
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_pton(AF_INET, addr, &sa.sin_addr);
	return sa;
}

static int port_of(int fd) {
	struct sockaddr_in sa = {0};
	socklen_t length = sizeof sa;
	getsockname(fd, (struct sockaddr *)&sa, &length);
	return ntohs(sa.sin_port);
}

static unsigned long long number(int fd, int option) {
	unsigned long long n = 0;
	socklen_t length = sizeof n;
	getsockopt(fd, SOL_SOCKET, option, &n, &length);
	return n;
}

/* here says whether a socket is of the namespace that the program is in. AF_INET6 ones always are. */
static void here(int fd) {
	int other = socket(AF_INET6, SOCK_STREAM, 0);
	printf("here: %d\n", number(fd, SO_NETNS_COOKIE) == number(other, SO_NETNS_COOKIE));
	close(other);
}

static void greeting(int fd) {
	char text[100];
	struct pollfd p = {fd, POLLIN, 0};
	poll(&p, 1, 30000);
	int n = read(fd, text, sizeof text - 1);
	if (n < 0)
		result("read", n);
	else
		printf("greeting: %.*s", n, text);
}

static void flags(void) {
	static const int all[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
	for (int i = 0; i < 8; i++) {
		int hole = dup(1), upper = dup(1);
		close(hole);
		int fd = socket(AF_INET, (i < 4 ? SOCK_STREAM : SOCK_DGRAM) | all[i % 4], 0);
		struct stat st;
		fstat(fd, &st);
		printf("the lowest: %d F_GETFL %x F_GETFD %x mode %o owner %d %d\n", fd == hole, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), st.st_mode, st.st_uid, st.st_gid);
		close(fd);
		close(upper);
	}
	if (setegid(12345) == 0 && seteuid(12346) == 0)
		for (int i = 0; i < 2; i++) {
			int fd = socket(AF_INET, i ? SOCK_DGRAM : SOCK_STREAM, 0);
			struct stat st;
			fstat(fd, &st);
			printf("owner %d %d\n", st.st_uid, st.st_gid);
			close(fd);
		}
}

static void limit(void) {
	struct rlimit before, now;
	int fd = dup(1);
	close(fd);
	getrlimit(RLIMIT_NOFILE, &before);
	now = before;
	now.rlim_cur = fd;
	setrlimit(RLIMIT_NOFILE, &now);
	for (int i = 0; i < 3; i++)
		result("no room", socket(AF_INET, i == 1 ? SOCK_DGRAM : SOCK_STREAM, 0));
	now.rlim_cur = fd + 1;
	setrlimit(RLIMIT_NOFILE, &now);
	for (int i = 0; i < 2; i++) {
		int got = socket(AF_INET, i == 1 ? SOCK_DGRAM : SOCK_STREAM, 0);
		printf("room for one: %d\n", got == fd);
		result("no room again", socket(AF_INET, SOCK_STREAM, 0));
		close(got);
	}
	setrlimit(RLIMIT_NOFILE, &before);
}

static void protocols(void) {
	static const int domains[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, 99};
	static const int protos[] = {0, 1, 2, 6, 17, 33, 99, 132, 136, 255, 256, 262, 263, -1};
	for (int d = 0; d < 5; d++)
		for (int type = 0; type < 12; type++)
			for (int p = 0; p < 14; p++) {
				int fd = socket(domains[d], type, protos[p]), proto = 0, kind = 0, domain = 0;
				printf("%d %d %d: ", domains[d], type, protos[p]);
				if (fd < 0) {
					puts(strerrorname_np(errno));
					continue;
				}
				socklen_t length = sizeof proto;
				getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &length);
				getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length);
				getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
				printf("%d %d %d\n", domain, kind, proto);
				close(fd);
			}
	result("flags unknown", socket(AF_INET, SOCK_STREAM | 0x100, 0));
	result("more flags", socket(AF_INET, SOCK_STREAM | 0x40000000, 0));
}

/* client: nothing is swapped in a connect. */
static void client(void) {
	for (int how = 0; how < 5; how++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0), copy = dup(fd), status;
		unsigned long long cookie = number(fd, SO_COOKIE);
		struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u64 = 0x123456789abcdef0};
		result("EPOLL_CTL_ADD", epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
		if (how == 1)
			fcntl(fd, F_SETFL, O_NONBLOCK);
		if (how == 2) {
			struct sockaddr_in any = at("0.0.0.0", 0);
			result("bind", bind(fd, (struct sockaddr *)&any, sizeof any));
		}
		fflush(stdout);
		if (how == 3) {
			if (!fork())
				_exit(connect(fd, (struct sockaddr *)&dst, sizeof dst) != 0);
			wait(&status);
			result("connect in the child", WEXITSTATUS(status));
		} else {
			long r = how == 4 ? sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&dst, sizeof dst) : connect(fd, (struct sockaddr *)&dst, sizeof dst);
			result("connect", r);
		}
		struct pollfd p = {fd, POLLOUT, 0};
		poll(&p, 1, 30000);
		struct epoll_event now = {0};
		result("epoll_wait", epoll_wait(set, &now, 1, 30000));
		printf("out %d data %llx\n", !!(now.events & EPOLLOUT), (unsigned long long)now.data.u64);
		printf("the same socket: %d %d\n", number(fd, SO_COOKIE) == cookie, number(copy, SO_COOKIE) == cookie);
		result("again", connect(fd, (struct sockaddr *)&dst, sizeof dst));
		greeting(copy);
		close(fd);
		close(copy);
		close(set);
	}
}

static void executed(char **argv) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (argv[4]) {
		int given = atoi(argv[4]);
		printf("closed: %d\n", fcntl(given + 1, F_GETFD) < 0 || fd == given + 1);
		result("connect what was given", connect(given, (struct sockaddr *)&dst, sizeof dst));
		greeting(given);
		return;
	}
	char text[20];
	sprintf(text, "%d", fd);
	execl("/proc/self/exe", argv[0], "exec", argv[2], argv[3], text, NULL);
	result("exec", -1);
}

static void server(void) {
	static const char *addrs[] = {"127.0.0.1", "127.0.0.2", "0.0.0.0", "0.0.0.0", NULL};
	for (int i = 0; i < 5; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
		result("SO_REUSEADDR", setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
		struct sockaddr_in sa = at(addrs[i] ? addrs[i] : "127.0.0.1", i == 3 ? 23999 : 0);
		if (addrs[i])
			result("bind", bind(fd, (struct sockaddr *)&sa, sizeof sa));
		int port = port_of(fd);
		result("listen", listen(fd, 5));
		printf("the same port: %d, F_GETFL %x F_GETFD %x\n", !addrs[i] || port_of(fd) == port, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
		here(fd);
		result("bind again", bind(fd, (struct sockaddr *)&sa, sizeof sa));
		result("listen again", listen(fd, 6));
		fflush(stdout);
		sa = at(i == 1 ? "127.0.0.2" : "127.0.0.1", port_of(fd));
		if (!fork()) {
			int to = socket(AF_INET, SOCK_STREAM, 0);
			result("connect", connect(to, (struct sockaddr *)&sa, sizeof sa));
			greeting(to);
			fflush(stdout);
			_exit(0);
		}
		int from = accept(fd, NULL, NULL);
		int n = write(from, "from here\n", 10);
		wait(NULL);
		result("write", n);
		close(from);
		close(fd);
	}
}

static void binds(void) {
	static const char *addrs[] = {"127.0.0.1", "192.0.2.1", "203.0.113.10", "198.51.100.77", "224.0.0.1", "255.255.255.255", "169.254.1.1", "0.0.0.0"};
	for (int i = 0; i < 8; i++)
		for (int type = 0; type < 2; type++) {
			int fd = socket(AF_INET, type ? SOCK_DGRAM : SOCK_STREAM, 0);
			struct sockaddr_in sa = at(addrs[i], i == 7 ? 23998 : 0);
			result(addrs[i], bind(fd, (struct sockaddr *)&sa, sizeof sa));
			here(fd);
			close(fd);
		}
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in any = at("0.0.0.0", 0);
	result("short", bind(fd, (struct sockaddr *)&any, 15));
	result("long", bind(fd, (struct sockaddr *)&any, 200));
	result("bad", bind(fd, (struct sockaddr *)1, 16));
	any.sin_family = AF_INET6;
	result("AF_INET6", bind(fd, (struct sockaddr *)&any, sizeof any));
	any.sin_family = AF_UNSPEC;
	result("AF_UNSPEC", bind(fd, (struct sockaddr *)&any, sizeof any));
	result("again", bind(fd, (struct sockaddr *)&any, sizeof any));
	result("a bad descriptor", bind(999, (struct sockaddr *)&any, sizeof any));
	result("a file", bind(1, (struct sockaddr *)&any, sizeof any));
	result("listen on a bad descriptor", listen(999, 1));
	result("listen on a file", listen(1, 1));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	result("listen on a datagram socket", listen(fd, 1));
}

/* back: a socket that has been used for an interface is as good as new. */
static void back(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0), value;
	struct ifreq lo = {.ifr_name = "lo"};
	result("SIOCGIFFLAGS", ioctl(fd, SIOCGIFFLAGS, &lo));
	static const int options[] = {SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_REUSEADDR, SO_BUF_LOCK};
	for (int i = 0; i < 5; i++) {
		socklen_t length = sizeof value;
		getsockopt(fd, SOL_SOCKET, options[i], &value, &length);
		printf("option %d: %d\n", options[i], value);
	}
	struct pollfd p = {fd, POLLIN | POLLOUT, 0};
	poll(&p, 1, 0);
	printf("port %d, poll %x\n", port_of(fd), p.revents);
	result("connect", connect(fd, (struct sockaddr *)&dst, sizeof dst));
	greeting(fd);
}

/* interfaces: each of them. */
static void interfaces(void) {
	for (int type = 0; type < 2; type++) {
		int fd = socket(AF_INET, type ? SOCK_DGRAM : SOCK_STREAM, 0);
		struct ifreq list[20], one = {.ifr_name = "lo"};
		struct ifconf conf = {.ifc_len = sizeof list, .ifc_req = list};
		result("SIOCGIFCONF", ioctl(fd, SIOCGIFCONF, &conf));
		for (int i = 0; i < conf.ifc_len / (int)sizeof *list; i++) {
			result(list[i].ifr_name, ioctl(fd, SIOCGIFFLAGS, &list[i]));
			printf("flags %x\n", list[i].ifr_flags & ~IFF_RUNNING); // which a veth gets some time later
		}
		result("SIOCGIFADDR", ioctl(fd, SIOCGIFADDR, &one));
		for (int i = 1; i < 20; i++) {
			struct ifreq named = {.ifr_ifindex = i};
			if (ioctl(fd, SIOCGIFNAME, &named) == 0)
				printf("%d %s\n", i, named.ifr_name);
		}
		result("SO_BINDTODEVICE", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
		result("SO_BINDTODEVICE", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "none", 4));
		here(fd);
	}
}

/* refused: nothing that is only in the egress can be connected to. */
static void refused(void) {
	struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = dst.sin_port};
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
	struct sockaddr_in there = dst, unspec = {.sin_family = AF_UNSPEC};
	there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	result("mapped", connect(fd, (struct sockaddr *)&mapped, sizeof mapped));
	result("AF_UNSPEC", connect(fd, (struct sockaddr *)&unspec, sizeof unspec));
	result("short", connect(fd, (struct sockaddr *)&there, 15));
	result("long", connect(fd, (struct sockaddr *)&there, 200));
	result("bad", connect(fd, (struct sockaddr *)1, 16));
	result("loopback", connect(fd, (struct sockaddr *)&there, sizeof there));
	here(fd);
	result("and again", connect(fd, (struct sockaddr *)&there, sizeof there));
	there.sin_addr.s_addr = 0;
	fd = socket(AF_INET, SOCK_STREAM, 0);
	result("any", connect(fd, (struct sockaddr *)&there, sizeof there));
	there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	result("MSG_FASTOPEN", sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&there, sizeof there));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	result("MSG_FASTOPEN, mapped", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&mapped, sizeof mapped));
	result("MSG_FASTOPEN, bad", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)1, 16));
	result("MSG_FASTOPEN", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&there, sizeof there));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	result("MSG_FASTOPEN, no header", sendmsg(fd, (struct msghdr *)1, MSG_FASTOPEN | MSG_NOSIGNAL));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	result("datagrams, bad", connect(fd, (struct sockaddr *)1, 16));
	result("datagrams, mapped", connect(fd, (struct sockaddr *)&mapped, sizeof mapped));
	result("datagrams", connect(fd, (struct sockaddr *)&there, sizeof there));
	here(fd);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	result("datagrams, sendto", sendto(fd, "x", 1, 0, (struct sockaddr *)&there, sizeof there));
	here(fd);
}

static struct sockaddr_in shared;
static volatile int stop;

static void *change(void *unused) {
	volatile sa_family_t *family = &shared.sin_family;
	while (!stop) {
		*family = AF_INET6;
		*family = AF_INET;
	}
	return NULL;
}

/* changing: nor when another thread changes the address. */
static void changing(void) {
	pthread_t other;
	int in = 0;
	shared = dst;
	shared.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	pthread_create(&other, NULL, change, NULL);
	for (int i = 0; i < 3000; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		in += connect(fd, (struct sockaddr *)&shared, sizeof shared) == 0;
		close(fd);
	}
	stop = 1;
	pthread_join(other, NULL);
	printf("connected: %d\n", in);
}

static void outside(int type) {
	int fd = socket(AF_INET, type, 0), from = fd;
	struct sockaddr_in any = at("0.0.0.0", 23997), peer;
	socklen_t length = sizeof peer;
	bind(fd, (struct sockaddr *)&any, sizeof any);
	listen(fd, 1);
	puts("ready");
	if (type == SOCK_STREAM)
		from = accept(fd, NULL, NULL);
	char data[10];
	long n = recvfrom(from, data, sizeof data, 0, (struct sockaddr *)&peer, &length);
	length = sizeof peer;
	if (type == SOCK_STREAM)
		getpeername(from, (struct sockaddr *)&peer, &length);
	printf("from %s\n", inet_ntoa(peer.sin_addr));
	sendto(from, data, n, 0, type == SOCK_STREAM ? NULL : (struct sockaddr *)&peer, type == SOCK_STREAM ? 0 : sizeof peer);
}

static void stream(void) { outside(SOCK_STREAM); }
static void datagram(void) { outside(SOCK_DGRAM); }

static void unshared(void) {
	here(socket(AF_INET6, SOCK_STREAM, 0));
	result("unshare", unshare(CLONE_NEWNET));
	here(socket(AF_INET, SOCK_STREAM, 0));
	here(socket(AF_INET, SOCK_DGRAM, 0));
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IOLBF, 0);
	dst = at(argv[2], atoi(argv[3]));
	if (!strcmp(argv[1], "exec")) {
		executed(argv);
	} else {
		static const struct {
			const char *name;
			void (*run)(void);
		} all[] = {{"flags", flags}, {"limit", limit}, {"protocols", protocols}, {"client", client}, {"server", server},
			{"binds", binds}, {"interfaces", interfaces}, {"back", back}, {"refused", refused}, {"unshared", unshared}, {"changing", changing}, {"stream", stream}, {"datagram", datagram}};
		for (int i = 0; i < (int)(sizeof all / sizeof *all); i++)
			if (!strcmp(argv[1], all[i].name))
				all[i].run();
	}
	puts("end");
	return 0;
}
