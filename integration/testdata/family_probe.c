/*
 * family_probe names|options|sharing|again ADDR PORT [CLOSED-PORT]
 *
 * Says what a connected AF_INET socket looks like to a program, in every way that there is to ask; only its own address and
 * port are left out. The same is to come out wherever the connection really goes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*name_call)(int, struct sockaddr *, socklen_t *);

static const char *result(int r)
{
	static char text[64];

	snprintf(text, sizeof text, "%d %s", r, r < 0 ? strerrorname_np(errno) : "");
	return text;
}

static struct sockaddr_in to;

static int connected(void)
{
	int s = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(s, (struct sockaddr *)&to, sizeof to) < 0) {
		perror("connect");
		exit(1);
	}
	return s;
}

/* hide takes out what differs from machine to machine: the own port and address. */
static void hide(unsigned char *name, int n, int own)
{
	if (!own)
		return;
	if (n >= 4 && (name[2] | name[3])) {
		name[2] = 'p';
		name[3] = 'p';
	}
	if (n >= 8 && (name[4] | name[5] | name[6] | name[7]))
		memcpy(name + 4, "addr", 4);
}

static void one(const char *what, name_call call, int s, void *at, socklen_t *len, unsigned char *show, int own)
{
	int r = call(s, at, len);

	printf("  %s: %s", what, result(r));
	if (len && (size_t)len > 4096)
		printf(" length %d", (int)*len);
	if (show) {
		hide(show, 16, own);
		printf(" ");
		for (int i = 0; i < 32; i++)
			printf("%02x", show[i]);
	}
	printf("\n");
}

static void names(const char *title, name_call call, int s, int own)
{
	static const int lengths[] = { 0, 1, 2, 3, 8, 15, 16, 17, 28, 128, 4096, -1, INT_MIN, INT_MAX };
	unsigned char buf[4096];
	socklen_t len;
	char what[64];
	unsigned char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *readonly = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(page + 4096, 4096);
	printf("%s\n", title);
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		memset(buf, 0xaa, sizeof buf);
		len = lengths[i];
		snprintf(what, sizeof what, "length %d", lengths[i]);
		one(what, call, s, buf, &len, own && lengths[i] < 8 && lengths[i] > 2 ? NULL : buf, own);
	}
	len = 16;
	one("NULL", call, s, NULL, &len, NULL, own);
	len = 0;
	one("NULL, length 0", call, s, NULL, &len, NULL, own);
	len = -1;
	one("NULL, length -1", call, s, NULL, &len, NULL, own);
	memset(buf, 0xaa, sizeof buf);
	one("length NULL", call, s, buf, NULL, buf, own);
	one("length nowhere", call, s, buf, (socklen_t *)8, buf, own);
	one("length read-only", call, s, buf, (socklen_t *)readonly, buf, own);
	len = 16;
	one("nowhere", call, s, (void *)16, &len, NULL, own);
	len = 16;
	one("read-only", call, s, readonly, &len, NULL, own);
	len = 16;
	memset(page, 0xaa, 4096);
	one("half in nothing", call, s, page + 4090, &len, NULL, own);
	printf("  left %02x %02x\n", page[4090], page[4091]);
	*(socklen_t *)(page + 4092) = 16;
	one("length at the end of a page", call, s, page, (socklen_t *)(page + 4092), page, own);
	len = 16;
	one("no descriptor", call, -1, buf, &len, NULL, own);
	one("unknown descriptor", call, 999, buf, &len, NULL, own);
	one("a file", call, 0, buf, &len, NULL, own);
	munmap(page, 4096);
	munmap(readonly, 4096);
}

static const struct option {
	const char *label;
	int level, name;
} options[] = {
#define O(level, name) { #name, level, name }
	O(SOL_SOCKET, SO_DOMAIN), O(SOL_SOCKET, SO_TYPE), O(SOL_SOCKET, SO_PROTOCOL), O(SOL_SOCKET, SO_ERROR),
	O(SOL_SOCKET, SO_ACCEPTCONN), O(SOL_SOCKET, SO_KEEPALIVE), O(SOL_SOCKET, SO_LINGER), O(SOL_SOCKET, SO_PEERNAME),
	O(SOL_SOCKET, SO_PEERCRED), O(SOL_SOCKET, SO_GET_FILTER), O(SOL_SOCKET, SO_LOCK_FILTER), O(SOL_SOCKET, SO_REUSEADDR),
	O(SOL_SOCKET, SO_SNDTIMEO), O(SOL_SOCKET, SO_OOBINLINE), O(SOL_SOCKET, SO_PRIORITY),
	O(IPPROTO_IP, IP_TOS), O(IPPROTO_IP, IP_TTL), O(IPPROTO_IP, IP_MTU_DISCOVER), O(IPPROTO_IP, IP_OPTIONS),
	O(IPPROTO_IP, IP_RECVERR), O(IPPROTO_IP, IP_FREEBIND), O(IPPROTO_IP, IP_MINTTL), O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
	{ "unknown of IP", IPPROTO_IP, 999 },
	{ "IPV6_V6ONLY", IPPROTO_IPV6, 26 }, { "IPV6_TCLASS", IPPROTO_IPV6, 67 }, { "unknown of IPv6", IPPROTO_IPV6, 999 },
	O(IPPROTO_TCP, TCP_NODELAY), O(IPPROTO_TCP, TCP_CORK), O(IPPROTO_TCP, TCP_KEEPIDLE), O(IPPROTO_TCP, TCP_KEEPINTVL),
	O(IPPROTO_TCP, TCP_KEEPCNT), O(IPPROTO_TCP, TCP_SYNCNT), O(IPPROTO_TCP, TCP_LINGER2), O(IPPROTO_TCP, TCP_USER_TIMEOUT),
	O(IPPROTO_TCP, TCP_CONGESTION), O(IPPROTO_TCP, TCP_NOTSENT_LOWAT), { "unknown of TCP", IPPROTO_TCP, 999 },
};

static void show(int s)
{
	static const int lengths[] = { 64, 16, 4, 3, 1, 0, -1 };
	unsigned char value[64];
	socklen_t len;

	for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
		const struct option *opt = &options[o];
		for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
			memset(value, 0xaa, sizeof value);
			len = lengths[i];
			int r = getsockopt(s, opt->level, opt->name, value, &len);
			printf("  %s, length %d: %s, %d:", opt->label, lengths[i], result(r), (int)len);
			for (int j = 0; j < 24; j++)
				printf("%02x", value[j]);
			printf("\n");
		}
		len = 4;
		printf("  %s, NULL: %s\n", opt->label, result(getsockopt(s, opt->level, opt->name, NULL, &len)));
		printf("  %s, no length: %s\n", opt->label, result(getsockopt(s, opt->level, opt->name, value, NULL)));
	}
	struct tcp_info info = { 0 };
	len = sizeof info;
	int r = getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &len);
	printf("  TCP_INFO: %s state %d length %d mss %d rtt %d\n", result(r), info.tcpi_state, (int)len, info.tcpi_snd_mss > 0, info.tcpi_rtt > 0);
}

static void put(int s, const char *label, int level, int name, const void *value, socklen_t len)
{
	printf("  set %s: %s\n", label, result(setsockopt(s, level, name, value, len)));
}

static void set_all(int s)
{
	static const int values[] = { 0, 1, 2, 16, 33, 77, 255, 256, -1, INT_MAX };
	int on = 1;
	char label[64];

	for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
		const struct option *opt = &options[o];
		if (opt->level == SOL_SOCKET && (opt->name == SO_GET_FILTER || opt->name == SO_LOCK_FILTER || opt->name == SO_LINGER))
			continue;
		if (opt->level == IPPROTO_IP && opt->name == IP_OPTIONS)
			continue; /* taken and forgotten: IPv6 has no such options */
		for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
			snprintf(label, sizeof label, "%s to %d", opt->label, values[i]);
			put(s, label, opt->level, opt->name, &values[i], sizeof values[i]);
			int now = -7;
			socklen_t len = sizeof now;
			int r = getsockopt(s, opt->level, opt->name, &now, &len);
			printf("  then %s %d\n", result(r), now);
		}
		snprintf(label, sizeof label, "%s, length 1", opt->label);
		put(s, label, opt->level, opt->name, &on, 1);
		snprintf(label, sizeof label, "%s, length 0", opt->label);
		put(s, label, opt->level, opt->name, &on, 0);
		snprintf(label, sizeof label, "%s, length -1", opt->label);
		put(s, label, opt->level, opt->name, &on, -1);
		snprintf(label, sizeof label, "%s, nowhere", opt->label);
		put(s, label, opt->level, opt->name, (void *)8, 4);
	}
	put(s, "TCP_CONGESTION", IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	put(s, "TCP_CONGESTION, unknown", IPPROTO_TCP, TCP_CONGESTION, "nonesuch", 8);
}

static void filters(int s)
{
	struct sock_filter code[] = { { 6, 0, 0, 0x40000 }, { 6, 0, 0, 0x30000 } }, bad[] = { { 0xffff, 0, 0, 0 } }, got[64];
	struct sock_fprog program = { 1, code }, longer = { 2, code }, wrong = { 1, bad }, none = { 0, code };
	socklen_t len;

#define GET(n) do { len = n; memset(got, 0, sizeof got); int r = getsockopt(s, SOL_SOCKET, SO_GET_FILTER, got, &len); \
	printf("  filter, room for %d: %s, %d, %x %x\n", n, result(r), (int)len, got[0].k, got[1].k); } while (0)
	GET(64);
	put(s, "SO_DETACH_FILTER", SOL_SOCKET, SO_DETACH_FILTER, code, 4);
	put(s, "SO_ATTACH_FILTER", SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
	GET(64); GET(1); GET(0);
	put(s, "SO_ATTACH_FILTER, two", SOL_SOCKET, SO_ATTACH_FILTER, &longer, sizeof longer);
	GET(64); GET(2); GET(1); GET(0);
	put(s, "SO_ATTACH_FILTER, wrong", SOL_SOCKET, SO_ATTACH_FILTER, &wrong, sizeof wrong);
	put(s, "SO_ATTACH_FILTER, empty", SOL_SOCKET, SO_ATTACH_FILTER, &none, sizeof none);
	put(s, "SO_ATTACH_FILTER, short", SOL_SOCKET, SO_ATTACH_FILTER, &program, 3);
	put(s, "SO_ATTACH_FILTER, nowhere", SOL_SOCKET, SO_ATTACH_FILTER, (void *)8, sizeof program);
	GET(64);
	put(s, "SO_DETACH_FILTER", SOL_SOCKET, SO_DETACH_FILTER, code, 4);
	put(s, "SO_DETACH_FILTER", SOL_SOCKET, SO_DETACH_FILTER, code, 4);
	GET(64);
	put(s, "SO_ATTACH_FILTER", SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
	int on = 1, off = 0;
	put(s, "SO_LOCK_FILTER", SOL_SOCKET, SO_LOCK_FILTER, &on, 4);
	put(s, "SO_LOCK_FILTER off", SOL_SOCKET, SO_LOCK_FILTER, &off, 4);
	put(s, "SO_DETACH_FILTER, locked", SOL_SOCKET, SO_DETACH_FILTER, code, 4);
	put(s, "SO_ATTACH_FILTER, locked", SOL_SOCKET, SO_ATTACH_FILTER, &longer, sizeof longer);
	GET(64);
}

static void peer(const char *who, int s)
{
	struct sockaddr_in name = { 0 };
	socklen_t len = sizeof name;
	int r = getpeername(s, (struct sockaddr *)&name, &len);

	printf("  %s: %s family %d %s port %s\n", who, result(r), name.sin_family, inet_ntoa(name.sin_addr),
	       name.sin_port == to.sin_port ? "right" : "wrong");
	fflush(stdout);
}

static void child(const char *who, int s, char **exec)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (exec) {
			execv("/proc/self/exe", exec);
			_exit(9);
		}
		peer(who, s);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

static void sharing(int s, char **argv)
{
	int pair[2], got = -1;
	char number[16], data = 'x', control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &data, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };

	peer("itself", s);
	peer("dup", dup(s));
	child("fork", s, NULL);
	snprintf(number, sizeof number, "%d", s);
	child("exec", s, (char *[]) { argv[0], "inherited", argv[2], argv[3], number, NULL });
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	pid_t pid = fork();
	if (pid == 0) {
		close(s);
		if (recvmsg(pair[1], &message, 0) < 1)
			_exit(1);
		memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
		peer("SCM_RIGHTS", got);
		_exit(0);
	}
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &s, sizeof s);
	sendmsg(pair[0], &message, 0);
	waitpid(pid, NULL, 0);
	peer("socketpair", pair[0]);
}

static void name_of(const char *title, name_call call, int s)
{
	unsigned char buf[32] = { 0 };
	socklen_t len = sizeof buf;

	one(title, call, s, buf, &len, buf, call == getsockname);
}

static void again(int s, int closed)
{
	struct sockaddr_in nobody = to;
	struct sockaddr unspecified = { AF_UNSPEC };

	printf("  connect again: %s\n", result(connect(s, (struct sockaddr *)&to, sizeof to)));
	if (!closed)
		return; /* a Unix socket cannot be disconnected */
	nobody.sin_port = htons(closed);
	printf("  disconnect: %s\n", result(connect(s, &unspecified, sizeof to)));
	name_of("peer", getpeername, s);
	name_of("own", getsockname, s);
	printf("  connect anew: %s\n", result(connect(s, (struct sockaddr *)&to, sizeof to)));
	name_of("peer", getpeername, s);
	s = socket(AF_INET, SOCK_STREAM, 0);
	int tos = 0x10;
	setsockopt(s, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
	printf("  refused: %s\n", result(connect(s, (struct sockaddr *)&nobody, sizeof nobody)));
	name_of("peer", getpeername, s);
	name_of("own", getsockname, s);
	printf("  refused: %s\n", result(connect(s, (struct sockaddr *)&nobody, sizeof nobody)));
	nobody.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	printf("  refused by itself: %s\n", result(connect(s, (struct sockaddr *)&nobody, sizeof nobody)));
	printf("  connect: %s\n", result(connect(s, (struct sockaddr *)&to, sizeof to)));
	socklen_t len = sizeof tos;
	getsockopt(s, IPPROTO_IP, IP_TOS, &tos, &len);
	printf("  IP_TOS %x\n", tos);
	name_of("peer", getpeername, s);
	printf("  connect elsewhere: %s\n", result(connect(s, (struct sockaddr *)&nobody, sizeof nobody)));
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(20077) };
	s = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &(int) { 1 }, sizeof(int));
	printf("  bind: %s\n", result(bind(s, (struct sockaddr *)&any, sizeof any)));
	printf("  connect, bound: %s\n", result(connect(s, (struct sockaddr *)&to, sizeof to)));
	len = sizeof any;
	getsockname(s, (struct sockaddr *)&any, &len);
	printf("  port %d\n", ntohs(any.sin_port));
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);
	close(0);
	open("/dev/null", O_RDONLY);
	to.sin_family = AF_INET;
	to.sin_addr.s_addr = inet_addr(argv[2]);
	to.sin_port = htons(atoi(argv[3]));
	if (strcmp(argv[1], "inherited") == 0) {
		peer("exec", atoi(argv[4]));
		return 0;
	}
	int fresh = socket(AF_INET, SOCK_STREAM, 0), s;
	if (strcmp(argv[1], "names") == 0) {
		s = connected();
		names("getpeername", getpeername, s, 0);
		names("getsockname", getsockname, s, 1);
		names("getpeername, not connected", getpeername, fresh, 0);
		names("getsockname, not connected", getsockname, fresh, 1);
	} else if (strcmp(argv[1], "options") == 0) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		int v = 1;
		setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &v, sizeof v);
		setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &v, sizeof v);
		setsockopt(s, IPPROTO_IP, IP_RECVERR, &v, sizeof v);
		v = 77;
		setsockopt(s, IPPROTO_TCP, TCP_KEEPIDLE, &v, sizeof v);
		setsockopt(s, IPPROTO_IP, IP_TTL, &v, sizeof v);
		v = 0x10;
		setsockopt(s, IPPROTO_IP, IP_TOS, &v, sizeof v);
		printf("connect: %s\n", result(connect(s, (struct sockaddr *)&to, sizeof to)));
		show(s);
		set_all(s);
		show(s);
		peer("peer", s);
		printf("a fresh one\n");
		show(fresh);
		s = connected();
		filters(s);
		peer("peer", s);
	} else if (strcmp(argv[1], "sharing") == 0) {
		sharing(connected(), argv);
	} else {
		again(connected(), argc > 4 ? atoi(argv[4]) : 0);
	}
	printf("end\n");
	return 0;
}
