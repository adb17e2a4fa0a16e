// Restricts itself with Landlock to connect(2) to one TCP port, and says which ports it reaches then.
//
//	landlock_probe ADDRESS ALLOWED DENIED WHAT...
//
// Something accepts at both ports of the address. WHAT are words, each of which is a part of the probe and has a process of
// its own; see main. If the first is exec, it restricts itself and executes the rest.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef LANDLOCK_ACCESS_NET_CONNECT_TCP // headers older than Linux 6.7
#define LANDLOCK_RULE_NET_PORT 2
#define LANDLOCK_ACCESS_NET_BIND_TCP (1ULL << 0)
#define LANDLOCK_ACCESS_NET_CONNECT_TCP (1ULL << 1)
#endif

static const char *host;
static int allowed, denied;

struct ruleset {
	unsigned long long fs, net, scoped;
};

struct rule {
	unsigned long long access, port;
} __attribute__((packed));

static void die(const char *what)
{
	perror(what);
	exit(2);
}

// restrictTo gives up some accesses to all TCP ports but one, for the calling thread and what it starts.
static void restrictTo(unsigned long long access, int port)
{
	struct ruleset set = {.net = access};
	struct rule rule = {access, port};
	int fd = syscall(SYS_landlock_create_ruleset, &set, sizeof set, 0);
	if (fd < 0 || syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_NET_PORT, &rule, 0))
		die("landlock");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_landlock_restrict_self, fd, 0))
		die("landlock_restrict_self");
	close(fd);
}

static void restrictConnect(void) { restrictTo(LANDLOCK_ACCESS_NET_CONNECT_TCP, allowed); }

// drop closes a socket without leaving its port in TIME_WAIT, where the next one could need it.
static void drop(int fd)
{
	struct linger now = {1, 0};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	close(fd);
}

static const char *name(int result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

// aim fills in the address of a port, IPv4-mapped for AF_INET6, and returns its length.
static socklen_t aim(int family, int port, struct sockaddr_storage *to)
{
	memset(to, 0, sizeof *to);
	if (family == AF_INET) {
		struct sockaddr_in *in = (void *)to;
		*in = (struct sockaddr_in){AF_INET, htons(port)};
		inet_pton(AF_INET, host, &in->sin_addr);
		return sizeof *in;
	}
	struct sockaddr_in6 *in6 = (void *)to;
	char mapped[64];
	snprintf(mapped, sizeof mapped, "::ffff:%s", host);
	*in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
	inet_pton(AF_INET6, mapped, &in6->sin6_addr);
	return sizeof *in6;
}

// finish waits for a non-blocking connect(2) and returns what has become of it.
static int finish(int fd, int result)
{
	if (result == 0 || errno != EINPROGRESS)
		return result;
	struct pollfd p = {fd, POLLOUT};
	int error = ETIMEDOUT;
	socklen_t length = sizeof error;
	if (poll(&p, 1, 10000) == 1)
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	errno = error;
	return error ? -1 : 0;
}

static int connectTo(int fd, int family, int port)
{
	struct sockaddr_storage to;
	socklen_t length = aim(family, port, &to);
	return finish(fd, connect(fd, (void *)&to, length));
}

// reach connects a fresh socket to a port, says what came of it, and returns the socket.
static int reach(const char *who, int family, int type, int port)
{
	int fd = socket(family, SOCK_STREAM | type, 0);
	int result = connectTo(fd, family, port);
	printf("%s, %s%s, %s port: %s\n", who, family == AF_INET ? "AF_INET" : "AF_INET6", type ? ", non-blocking" : "",
	       port == allowed ? "allowed" : "denied", name(result));
	fflush(stdout);
	return fd;
}

static void both(const char *who)
{
	drop(reach(who, AF_INET, 0, denied));
	drop(reach(who, AF_INET, 0, allowed));
}

// plain does not restrict itself.
static void plain(void) { both("plain"); }

// fresh: sockets of both families, blocking and not; and one socket that is refused first and connected then.
static void fresh(void)
{
	restrictConnect();
	for (int family = 0; family < 2; family++)
		for (int type = 0; type < 2; type++) {
			drop(reach("fresh", family ? AF_INET6 : AF_INET, type ? SOCK_NONBLOCK : 0, allowed));
			drop(reach("fresh", family ? AF_INET6 : AF_INET, type ? SOCK_NONBLOCK : 0, denied));
		}
	int fd = reach("the same socket", AF_INET, 0, denied);
	printf("once more: %s\n", name(connectTo(fd, AF_INET, denied)));
	printf("then the allowed port: %s\n", name(connectTo(fd, AF_INET, allowed)));
	printf("and again: %s\n", name(connectTo(fd, AF_INET, allowed)));
	drop(fd);
	for (int fd = 3; fd < 40; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("descriptor %d is open\n", fd);
}

// after: sockets that were connected before it restricted itself, and that are connected to elsewhere.
static void after(void)
{
	int before = reach("before", AF_INET, 0, denied);
	int idle = socket(AF_INET, SOCK_STREAM, 0), opt = 1;
	setsockopt(idle, SOL_SOCKET, SO_KEEPALIVE, &opt, sizeof opt);
	restrictConnect();
	both("after");
	printf("a socket from before: %s\n", name(connectTo(idle, AF_INET, denied)));
	printf("then the allowed port: %s\n", name(connectTo(idle, AF_INET, allowed)));
	printf("a connected socket still sends: %s\n", name(send(before, "x", 1, MSG_NOSIGNAL)));
	struct sockaddr none = {AF_UNSPEC};
	printf("disconnected: %s\n", name(connect(before, &none, sizeof none)));
	printf("connected to the denied port: %s\n", name(connectTo(before, AF_INET, denied)));
	printf("connected to the allowed port: %s\n", name(connectTo(before, AF_INET, allowed)));
	drop(before);
	drop(idle);
}

static void *inThread(void *run)
{
	((void (*)(void))run)();
	return NULL;
}

static void aside(void (*run)(void))
{
	pthread_t thread;
	pthread_create(&thread, NULL, inThread, run);
	pthread_join(thread, NULL);
}

static void inner(void) { both("a thread of a restricted thread"); }
static void later(void) { both("a later thread of the others"); }

static void restrictedThread(void)
{
	restrictConnect();
	both("the restricted thread");
	aside(inner);
}

// threads: only one thread restricts itself.
static void threads(void)
{
	aside(restrictedThread);
	both("the other thread");
	aside(later);
}

static void inChild(void (*run)(void))
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		run();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

static void child(void) { both("a child"); }

static int done[2];

// orphan says something only when its parent is gone.
static void orphan(void)
{
	pid_t parent = getpid();
	if (fork() == 0) {
		while (getppid() == parent)
			sched_yield();
		both("an orphan");
		fflush(stdout);
		write(done[1], "", 1);
		_exit(0);
	}
}

static void restrictedChild(void)
{
	restrictConnect();
	both("a restricted child");
	inChild(child);
}

// children: of a process that has not restricted itself, one that has; then itself, its children and an orphan.
static void children(void)
{
	char c;
	pipe(done);
	inChild(restrictedChild);
	both("the parent of a restricted child");
	inChild(child);
	inChild(orphan);
	read(done[0], &c, 1);
	restrictConnect();
	inChild(child);
	inChild(orphan);
	read(done[0], &c, 1);
}

// opens: sends with MSG_FASTOPEN, by all calls that can.
static void opens(void)
{
	restrictConnect();
	for (int i = 0; i < 6; i++) {
		struct sockaddr_storage to;
		int fd = socket(AF_INET, SOCK_STREAM, 0), port = i & 1 ? denied : allowed;
		struct iovec part = {"hello", 5};
		struct mmsghdr m = {{&to, aim(AF_INET, port, &to), &part, 1}};
		int n = i / 2 == 0   ? sendto(fd, "hello", 5, MSG_FASTOPEN, (void *)&to, m.msg_hdr.msg_namelen)
			: i / 2 == 1 ? sendmsg(fd, &m.msg_hdr, MSG_FASTOPEN)
				     : sendmmsg(fd, &m, 1, MSG_FASTOPEN);
		printf("%s with MSG_FASTOPEN, %s port: %s\n", i / 2 == 0 ? "sendto" : i / 2 == 1 ? "sendmsg" : "sendmmsg",
		       i & 1 ? "denied" : "allowed", name(n));
		drop(fd);
	}
}

// binds: gives up binding to all ports but one.
static void binds(void)
{
	restrictTo(LANDLOCK_ACCESS_NET_BIND_TCP, allowed);
	for (int i = 0; i < 2; i++) {
		struct sockaddr_in own = {AF_INET, htons(i ? allowed : denied)};
		int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		printf("bind to the %s port: %s\n", i ? "allowed" : "denied", name(bind(fd, (void *)&own, sizeof own)));
		printf("connect: %s\n", name(connectTo(fd, AF_INET, denied)));
		drop(fd);
	}
}

// own: a server of the program's own namespace, before and after a socket was moved.
static void own(void)
{
	struct sockaddr_in here = {AF_INET};
	socklen_t length = sizeof here;
	int server = socket(AF_INET, SOCK_STREAM, 0);
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	bind(server, (void *)&here, sizeof here);
	listen(server, 9);
	getsockname(server, (void *)&here, &length);
	int reached = reach("elsewhere", AF_INET, 0, denied);
	restrictConnect();
	for (int i = 0; i < 2; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		printf("the program's own server: %s\n", name(connect(fd, (void *)&here, sizeof here)));
		drop(fd);
	}
	drop(reached);
}

static struct sockaddr_storage flipped;
static volatile int stop;

// flip changes the port of an address for as long as there is somebody to be fooled.
static void *flip(void *unused)
{
	volatile struct sockaddr_in *in = (void *)&flipped;
	while (!stop) {
		in->sin_port = htons(denied);
		in->sin_port = htons(allowed);
	}
	return unused;
}

// race: another thread changes the port while connect(2) is decided. The server at the denied port counts.
static void race(void)
{
	pthread_t thread;
	int counts[3] = {0};
	socklen_t length = aim(AF_INET, allowed, &flipped);
	restrictConnect();
	pthread_create(&thread, NULL, flip, NULL);
	for (int i = 0; i < 250; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		int result = connect(fd, (void *)&flipped, length);
		counts[result == 0 ? 0 : errno == EACCES ? 1 : 2]++;
		drop(fd);
	}
	stop = 1;
	pthread_join(thread, NULL);
	fprintf(stderr, "race: %d connected, %d refused, %d else\n", counts[0], counts[1], counts[2]);
	printf("some connected: %d, some refused: %d\n", counts[0] > 0, counts[1] > 0);
}

static void ignore(int unused) {}

// signals: handlers run all the while. Nothing but the usual errors may come of it.
static void signals(void)
{
	struct sigaction act = {.sa_handler = ignore, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 300}, {0, 300}}, never = {0};
	int bad = 0;
	sigset_t before = {0}, now = {0};
	restrictConnect();
	sigaction(SIGALRM, &act, NULL);
	sigprocmask(SIG_SETMASK, NULL, &before);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 150; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		int port = i & 1 ? denied : allowed;
		int result = connectTo(fd, AF_INET, port);
		if (i & 1 ? result == 0 || errno != EACCES : result && errno != EINTR) {
			fprintf(stderr, "port %d: %s\n", port, name(result));
			bad++;
		}
		drop(fd);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	sigprocmask(SIG_SETMASK, NULL, &now);
	printf("something else than usual: %d; the signal mask has changed: %d\n", bad, memcmp(&before, &now, sizeof now) != 0);
}

// stops: the process is stopped and continued all the while.
static void stops(void)
{
	pid_t target = getpid();
	int counts[2] = {0}, status;
	restrictConnect();
	pid_t pid = fork();
	if (pid == 0) {
		for (int i = 0; i < 100; i++) {
			kill(target, SIGSTOP);
			kill(target, SIGCONT);
			usleep(500);
		}
		_exit(0);
	}
	while (waitpid(pid, &status, WNOHANG) == 0)
		for (int i = 0; i < 2; i++) {
			int fd = socket(AF_INET, SOCK_STREAM, 0);
			int result = connectTo(fd, AF_INET, i ? denied : allowed);
			if (i ? result == 0 || errno != EACCES : result)
				fprintf(stderr, "port %d: %s\n", i ? denied : allowed, name(result)), counts[i]++;
			drop(fd);
		}
	printf("something else than usual: %d, %d\n", counts[0], counts[1]);
}

// multipath: MPTCP.
static void multipath(void)
{
	restrictConnect();
	for (int i = 0; i < 2; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
		printf("MPTCP, %s port: %s\n", i ? "denied" : "allowed", name(connectTo(fd, AF_INET, i ? denied : allowed)));
		drop(fd);
	}
}

// traced: somebody else traces the program, so upconv cannot ask.
static void traced(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		restrictConnect();
		both("a traced child");
		fflush(stdout);
		_exit(0);
	}
	int status;
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
		ptrace(PTRACE_CONT, pid, 0, 0);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *word;
		void (*run)(void);
	} parts[] = {{"plain", plain}, {"fresh", fresh}, {"after", after}, {"threads", threads}, {"children", children}, {"opens", opens}, {"binds", binds},
		     {"own", own}, {"race", race}, {"signals", signals}, {"stops", stops}, {"multipath", multipath}, {"traced", traced}};
	host = argv[1];
	allowed = atoi(argv[2]);
	denied = atoi(argv[3]);
	if (!strcmp(argv[4], "exec")) {
		restrictConnect();
		execvp(argv[5], argv + 5);
		die(argv[5]);
	}
	for (int i = 4; i < argc; i++)
		for (int part = 0; part < sizeof parts / sizeof *parts; part++)
			if (!strcmp(argv[i], parts[part].word))
				inChild(parts[part].run);
	return 0;
}
