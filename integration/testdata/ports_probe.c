/*
 * ports_probe zero PROTO LOCAL COUNT ADDR PORT
 * ports_probe scan PROTO FROM ADDR PORT
 * ports_probe cycles PROTO FROM COUNT ADDR PORT
 * ports_probe bind PROTO FROM ADDR PORT
 * ports_probe threads PROTO FROM ADDR PORT
 * ports_probe stranger PROTO FROM ADDR PORT
 * ports_probe refused PROTO FROM CLOSED ADDR PORT
 *
 * What programs do that bind a socket before they connect it. PROTO is tcp or udp.
 *
 * "zero" binds COUNT sockets, open at a time, to LOCAL (an address) and port 0, and connects them. It prints how many failed, and on
 * its standard error how many have got another port than they were told.
 * "scan" makes three connections, open at a time: each tries port after port from FROM on until bind(2) is content. It prints
 * the ports, counted from FROM, and what connect(2) said.
 * "cycles" COUNT times binds to a port of a thousand from FROM on, connects, and closes with a reset. It prints what goes wrong first,
 * or "done". For every line on its standard input it does it all once more.
 * "bind" prints what bind(2) says for combinations of options and addresses, beside a connection that has the port and after that.
 * "threads" has four threads scan the same ports at a time, and prints whether any connect(2) failed or any port was used twice.
 * "stranger" uses the port FROM once, prints "ready" and waits for a line. Then it tells what becomes of the port as that of a client,
 * and as that of a server.
 * "refused" connects to the port CLOSED first. It prints whether the socket keeps a port that it has asked for, one that it has not,
 * and what a second connect(2) says.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int type, from;
static struct sockaddr_in to;

static const char *result(int rc) { return rc ? strerrorname_np(errno) : "ok"; }

static struct sockaddr_in local(const char *addr, int port)
{
	struct sockaddr_in a = { AF_INET, htons(port) };

	inet_pton(AF_INET, addr, &a.sin_addr);
	return a;
}

static int bind_port(int s, int port)
{
	struct sockaddr_in a = local("0.0.0.0", port);

	return bind(s, (struct sockaddr *)&a, sizeof a);
}

static int connect_there(int s) { return connect(s, (struct sockaddr *)&to, sizeof to); }

static int port_of(int s)
{
	struct sockaddr_in a;
	socklen_t size = sizeof a;

	return getsockname(s, (struct sockaddr *)&a, &size) ? -1 : ntohs(a.sin_port);
}

/* The next close resets the connection, so that nothing waits in TIME_WAIT. */
static void reset(int s)
{
	struct linger now = { 1, 0 };

	setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static void zero(const char *addr, int count)
{
	int failed = 0, moved = 0;
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < count; i++) {
		int s = socket(AF_INET, type, 0), told, rc;
		struct sockaddr_in a = local(addr, 0);

		rc = bind(s, (struct sockaddr *)&a, sizeof a);
		told = port_of(s);
		if (rc || told <= 0 || connect_there(s)) {
			if (!failed++)
				printf("socket %d: %s\n", i, result(-1));
			continue;
		}
		moved += port_of(s) != told;
	}
	printf("%d failed\n", failed);
	fprintf(stderr, "%d have another port than they were told\n", moved);
}

/* Returns the port, and the socket with it. */
static int first_free(int *s)
{
	*s = socket(AF_INET, type, 0);
	for (int port = from; port < from + 400; port++) {
		if (!bind_port(*s, port))
			return port;
		if (errno != EADDRINUSE) {
			printf("bind: %s\n", result(-1));
			exit(1);
		}
	}
	printf("no port\n");
	exit(1);
}

static void scan(void)
{
	for (int i = 0; i < 3; i++) {
		int s, port = first_free(&s), rc = connect_there(s);

		printf("port %d: %s\n", port - from, result(rc));
		if (!rc && port_of(s) != port)
			printf("but it is %d\n", port_of(s) - from);
	}
}

static void cycles(int count)
{
	for (int i = 0; i < count; i++) {
		int s = socket(AF_INET, type, 0), rc = bind_port(s, from + i % 1000);

		if (rc || (rc = connect_there(s))) {
			printf("cycle %d: %s\n", i, result(rc));
			exit(1);
		}
		reset(s);
		close(s);
	}
	printf("done\n");
	fflush(stdout);
}

static void bind_beside(void)
{
	static const struct { const char *name, *addr; int first, second, option, v6; } cases[] = {
		{ "no options", "0.0.0.0", 0, 0, SO_REUSEADDR, 0 },
		{ "SO_REUSEADDR on the first", "0.0.0.0", 1, 0, SO_REUSEADDR, 0 },
		{ "SO_REUSEADDR on the second", "0.0.0.0", 0, 1, SO_REUSEADDR, 0 },
		{ "SO_REUSEADDR on both", "0.0.0.0", 1, 1, SO_REUSEADDR, 0 },
		{ "SO_REUSEPORT on the second", "0.0.0.0", 0, 1, SO_REUSEPORT, 0 },
		{ "SO_REUSEPORT on both", "0.0.0.0", 1, 1, SO_REUSEPORT, 0 },
		{ "127.0.0.1", "127.0.0.1", 0, 0, SO_REUSEADDR, 0 },
		{ "nobody's address", "198.51.100.99", 0, 0, SO_REUSEADDR, 0 },
		{ "AF_INET6", "::", 0, 0, SO_REUSEADDR, 1 },
		{ "AF_INET6, IPv4-mapped", "::ffff:0.0.0.0", 0, 0, SO_REUSEADDR, 1 },
		{ "AF_INET6, only", "::", 0, 0, SO_REUSEADDR, 2 },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++, from++) {
		int a = socket(AF_INET, type, 0), b = socket(cases[i].v6 ? AF_INET6 : AF_INET, type, 0), rc;
		int one = 1;

		setsockopt(a, SOL_SOCKET, cases[i].option, &cases[i].first, sizeof(int));
		setsockopt(b, SOL_SOCKET, cases[i].option, &cases[i].second, sizeof(int));
		if ((rc = bind_port(a, from)) || (rc = connect_there(a))) {
			printf("%s: the first: %s\n", cases[i].name, result(rc));
			continue;
		}
		if (cases[i].v6) {
			struct sockaddr_in6 name = { AF_INET6, htons(from) };

			inet_pton(AF_INET6, cases[i].addr, &name.sin6_addr);
			if (cases[i].v6 == 2)
				setsockopt(b, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
			rc = bind(b, (struct sockaddr *)&name, sizeof name);
		} else {
			struct sockaddr_in name = local(cases[i].addr, from);

			rc = bind(b, (struct sockaddr *)&name, sizeof name);
		}
		printf("%s: %s", cases[i].name, result(rc));
		if (!rc)
			printf(", again: %s", result(bind_port(b, from)));
		close(b);
		reset(a);
		close(a);
		b = socket(AF_INET, type, 0);
		printf("; after close: %s\n", result(bind_port(b, from)));
		close(b);
	}
}

struct scanner {
	pthread_t id;
	int sockets[50], ports[50];
	const char *failed;
};

static void *scan_many(void *arg)
{
	struct scanner *me = arg;

	for (int i = 0; i < 50; i++) {
		me->ports[i] = first_free(&me->sockets[i]);
		if (connect_there(me->sockets[i]))
			me->failed = result(-1);
	}
	return NULL;
}

static void threads(void)
{
	static struct scanner all[4];
	int used[1024] = { 0 }, twice = 0;

	for (int i = 0; i < 4; i++)
		pthread_create(&all[i].id, NULL, scan_many, &all[i]);
	for (int i = 0; i < 4; i++) {
		pthread_join(all[i].id, NULL);
		if (all[i].failed)
			printf("a thread: %s\n", all[i].failed);
		for (int k = 0; k < 50; k++)
			twice += used[all[i].ports[k] - from]++ != 0;
	}
	printf("%d ports used twice\n", twice);
}

static void stranger(void)
{
	int s = socket(AF_INET, type, 0), rc = bind_port(s, from);

	if (rc || (rc = connect_there(s))) {
		printf("before: %s\n", result(rc));
		exit(1);
	}
	reset(s);
	close(s);
	printf("ready\n");
	fflush(stdout);
	getchar();
	s = socket(AF_INET, type, 0);
	printf("bind: %s\n", result(bind_port(s, from)));
	printf("connect: %s\n", result(connect_there(s)));
	close(s);
	s = socket(AF_INET, type, 0);
	printf("bind: %s\n", result(bind_port(s, from)));
	printf("listen: %s\n", result(listen(s, 1)));
}

/* Tells whether another socket can have the port, and connect with it. */
static void is_free(int port)
{
	int s = socket(AF_INET, type, 0), rc = bind_port(s, port);

	printf(rc ? "kept: %s\n" : "given up: %s\n", result(rc ? rc : connect_there(s)));
	reset(s);
	close(s);
}

static void refused(int closed)
{
	struct sockaddr_in nobody = to;

	nobody.sin_port = htons(closed);
	for (int asked = 0; asked < 2; asked++) {
		int s = socket(AF_INET, type, 0), port;

		printf("bind to %s: %s\n", asked ? "a port" : "port 0", result(bind_port(s, asked ? from : 0)));
		port = port_of(s);
		printf("connect: %s\n", result(connect(s, (struct sockaddr *)&nobody, sizeof nobody)));
		is_free(port);
		printf("connect: %s\n", result(connect_there(s)));
		close(s);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 5 ? argv[1] : "";

	if (argc > 5) {
		to = local(argv[argc - 2], atoi(argv[argc - 1]));
		type = strcmp(argv[2], "udp") ? SOCK_STREAM : SOCK_DGRAM;
		from = atoi(argv[3]);
	}
	if (argc == 7 && !strcmp(what, "zero")) {
		zero(argv[3], atoi(argv[4]));
	} else if (argc == 7 && !strcmp(what, "cycles")) {
		do
			cycles(atoi(argv[4]));
		while (getchar() != EOF);
	} else if (argc == 7 && !strcmp(what, "refused")) {
		refused(atoi(argv[4]));
	} else if (argc == 6 && !strcmp(what, "scan")) {
		scan();
	} else if (argc == 6 && !strcmp(what, "bind")) {
		bind_beside();
	} else if (argc == 6 && !strcmp(what, "threads")) {
		threads();
	} else if (argc == 6 && !strcmp(what, "stranger")) {
		stranger();
	} else {
		fprintf(stderr, "usage: see the top of ports_probe.c\n");
		return 2;
	}
	return 0;
}
