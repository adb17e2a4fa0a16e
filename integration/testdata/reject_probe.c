// reject_probe CASE REFUSED-ADDRESS PORT ...: connecting to a destination that is refused with ENETUNREACH. See swap.h.
#include "swap.h"
#include <linux/netlink.h>
#include <sys/un.h>

enum { NUMBER = 100 };

static struct sockaddr_in6 mapped(struct sockaddr_in *sa) {
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = sa->sin_port};
	six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
	memcpy(six.sin6_addr.s6_addr + 12, &sa->sin_addr, 4);
	return six;
}

static int conn6_to(int fd, struct sockaddr_in *sa, socklen_t length) {
	struct sockaddr_in6 six = mapped(sa);
	return connect(fd, (struct sockaddr *)&six, length);
}

static void nonblock(int fd, int on) { fcntl(fd, F_SETFL, on ? O_NONBLOCK : 0); }

static void unspec(int fd) {
	struct sockaddr sa = {AF_UNSPEC};
	connect(fd, &sa, sizeof sa);
}

static int fast(int fd, int flags) { return sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL | flags, (struct sockaddr *)&dst, sizeof dst); }

static struct sockaddr_in open_, closed, dropped;

// underway is a socket that is connecting, or has: to ready, then until that has an end, or to nowhere.
static int underway(struct sockaddr_in *sa, int ready) {
	int fd = sock(SOCK_NONBLOCK);
	if (conn_to(fd, sa) == 0 || errno != EINPROGRESS)
		die("connect");
	if (ready)
		wait_for(fd, POLLOUT);
	return fd;
}

// states: what there is to say before it comes to the destination is said.
static void states(void) {
	struct sockaddr_in6 six = mapped(&dst);
	int fd, one = 1;
	for (int flags = 0; flags <= SOCK_NONBLOCK; flags += SOCK_NONBLOCK) {
		fd = sock(flags);
		conn("idle", fd);
		conn("idle again", fd);
		nonblock(fd, 0);
		result("then elsewhere", conn_to(fd, &open_));
		nonblock(fd, flags);
		conn("connected", fd);
		result("connected, MSG_FASTOPEN", fast(fd, 0));
		unspec(fd);
		conn("disconnected", fd);
		close(fd);

		fd = sock(flags);
		result("listen", listen(fd, 1));
		conn("listening", fd);
		close(fd);
		fd = underway(&dropped, 0);
		conn("connecting", fd);
		result("connecting, MSG_FASTOPEN", fast(fd, 0));
		nonblock(fd, 0);
		result("connecting, MSG_FASTOPEN, MSG_DONTWAIT", fast(fd, MSG_DONTWAIT));
		close(fd);

		fd = underway(&open_, 1);
		nonblock(fd, flags);
		conn("has connected", fd);
		conn("has connected again", fd);
		close(fd);
		fd = underway(&open_, 1);
		nonblock(fd, flags);
		result("has connected, MSG_FASTOPEN", fast(fd, 0));
		greeting(fd);
		close(fd);
		fd = underway(&closed, 1);
		nonblock(fd, flags);
		conn("has failed", fd);
		conn("has failed again", fd);
		close(fd);
		fd = underway(&closed, 1);
		nonblock(fd, flags);
		so_error(fd);
		conn("has failed, SO_ERROR", fd);
		conn("has failed, SO_ERROR, again", fd);
		close(fd);
		fd = sock(flags);
		result("idle, MSG_FASTOPEN", fast(fd, 0));
		close(fd);

		fd = socket(AF_INET6, SOCK_STREAM | flags, 0);
		conn("AF_INET6, AF_INET address", fd);
		result("AF_INET6, AF_INET address, long", connect(fd, (struct sockaddr *)&dst, 28));
		result("AF_INET6", conn6_to(fd, &dst, sizeof six));
		result("AF_INET6, short", conn6_to(fd, &dst, 24));
		nonblock(fd, 0);
		result("AF_INET6, elsewhere", conn6_to(fd, &open_, sizeof six));
		nonblock(fd, flags);
		result("AF_INET6, connected", conn6_to(fd, &dst, sizeof six));
		close(fd);
		fd = socket(AF_INET6, SOCK_STREAM | flags, 0);
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
		result("IPV6_V6ONLY", conn6_to(fd, &dst, sizeof six));
		close(fd);
		fd = sock(flags);
		result("AF_INET, AF_INET6 address", conn6_to(fd, &dst, sizeof six));
		close(fd);
		fd = socket(AF_INET, SOCK_STREAM | flags, IPPROTO_MPTCP);
		if (fd >= 0) {
			conn("MPTCP", fd);
			nonblock(fd, 0);
			result("MPTCP elsewhere", conn_to(fd, &open_));
			nonblock(fd, flags);
			conn("MPTCP connected", fd);
			close(fd);
		}
	}
	conn("no descriptor", -1);
	conn("closed descriptor", 77);
	conn("a file", 1);
	conn("O_PATH", open("/", O_PATH));
	conn("AF_UNIX", socket(AF_UNIX, SOCK_STREAM, 0));
	conn("AF_UNIX, SOCK_DGRAM", socket(AF_UNIX, SOCK_DGRAM, 0));
	conn("AF_NETLINK", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	conn("AF_PACKET", socket(AF_PACKET, SOCK_RAW, 0));
}

static int waiting_tid;

static void in_connect(int tid) {
	char path[64], text[16];
	snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
	for (;;) {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof text - 1);
		close(fd);
		if (n > 0 && atoi(text) == SYS_connect && memcmp(text, "running", 7))
			return;
		usleep(1000);
	}
}

static atomic_int handled;

static void on_signal(int sig) { handled++; }

static void *telling(void *arg) {
	in_connect(waiting_tid);
	if (arg)
		syscall(SYS_tgkill, getpid(), waiting_tid, SIGUSR1);
	else
		printf("now\n");
	return NULL;
}

// waits: a blocking socket that is connecting has the call wait for that.
static void waits(struct sockaddr_in *late) {
	pthread_t thread;
	waiting_tid = syscall(SYS_gettid);
	int fd = underway(late, 0);
	nonblock(fd, 0);
	pthread_create(&thread, NULL, telling, NULL);
	conn("until it is there", fd);
	pthread_join(thread, NULL);
	conn("once more", fd);
	greeting(fd);
	close(fd);

	fd = underway(&dropped, 0);
	nonblock(fd, 0);
	struct timeval tv = {0, 300000};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	conn("SO_SNDTIMEO", fd);
	close(fd);

	fd = underway(&dropped, 0);
	nonblock(fd, 0);
	set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500);
	conn("until it fails", fd);
	conn("and then", fd);
	close(fd);

	for (int restart = 0; restart < 2; restart++) {
		struct sigaction act = {.sa_handler = on_signal, .sa_flags = restart ? SA_RESTART : 0};
		sigaction(SIGUSR1, &act, NULL);
		fd = underway(&dropped, 0);
		nonblock(fd, 0);
		set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500);
		pthread_create(&thread, NULL, telling, "");
		conn(restart ? "signal, restart" : "signal", fd);
		pthread_join(thread, NULL);
		printf("handled %d\n", handled);
		close(fd);
	}
}

static atomic_int stop, errnos[200], calls;
static int fast_open, inet6;

static void *connecting(void *arg) {
	struct sockaddr_in6 six = mapped(&dst);
	while (!stop) {
		errno = 0;
		if (fast_open)
			fast(NUMBER, 0);
		else if (inet6)
			connect(NUMBER, (struct sockaddr *)&six, sizeof six);
		else
			conn_to(NUMBER, &dst);
		errnos[errno < 200 ? errno : 0]++;
		calls++;
	}
	return NULL;
}

// race: threads connect whatever is under the number, and this one puts things there: one that has another answer than the
// refusal, and one that would connect.
static void race(const char *what, int ms) {
	enum { THREADS = 2 };
	pthread_t threads[THREADS];
	struct timespec now;
	struct linger linger = {1, 0};
	int busy, domain = inet6 ? AF_INET6 : AF_INET, type = SOCK_STREAM | (strstr(what, "non-blocking") ? SOCK_NONBLOCK : 0);
	if (!strncmp(what, "connected", 9)) {
		busy = sock(0);
		conn_to(busy, &open_);
		nonblock(busy, type & SOCK_NONBLOCK);
	} else if (!strncmp(what, "connecting", 10)) {
		busy = underway(&dropped, 0);
		nonblock(busy, type & SOCK_NONBLOCK);
	} else if (!strcmp(what, "listening"))
		listen(busy = sock(0), 1);
	else if (!strcmp(what, "other family"))
		busy = socket(inet6 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
	else if (!strcmp(what, "unix"))
		busy = socket(AF_UNIX, SOCK_STREAM, 0);
	else if (!strcmp(what, "unix datagrams"))
		busy = socket(AF_UNIX, SOCK_DGRAM, 0);
	else if (!strcmp(what, "UDP"))
		busy = socket(AF_INET, SOCK_DGRAM, 0);
	else if (!strcmp(what, "file"))
		busy = 1;
	else if (!strcmp(what, "IPV6_V6ONLY"))
		set(busy = socket(AF_INET6, SOCK_STREAM, 0), IPPROTO_IPV6, IPV6_V6ONLY, 1);
	else
		busy = -1; // nothing; or the same socket, connected and disconnected
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, connecting, NULL);
	clock_gettime(CLOCK_MONOTONIC, &now);
	for (long end = now.tv_sec * 1000 + now.tv_nsec / 1000000 + ms; now.tv_sec * 1000 + now.tv_nsec / 1000000 < end; clock_gettime(CLOCK_MONOTONIC, &now)) {
		int fd = socket(domain, type, 0);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
		dup2(fd, NUMBER);
		if (!strncmp(what, "disconnected", 12))
			for (int i = 0; i < 5; i++) {
				inet6 ? conn6_to(fd, &open_, sizeof(struct sockaddr_in6)) : conn_to(fd, &open_);
				unspec(fd);
			}
		close(fd);
		for (int before = calls, i = 0; i < 50 && calls == before; i++)
			sched_yield();
		if (!strcmp(what, "connecting")) { // a new one: they wait for it
			shutdown(busy, SHUT_RDWR);
			close(busy);
			nonblock(busy = underway(&dropped, 0), 0);
		}
		if (!strcmp(what, "nothing"))
			close(NUMBER);
		else if (busy >= 0)
			dup2(busy, NUMBER);
		for (int before = calls, i = 0; i < 50 && calls == before; i++)
			sched_yield();
	}
	if (busy > 2)
		shutdown(busy, SHUT_RDWR); // whoever waits for it
	close(NUMBER);
	stop = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("calls %d\n", calls);
	for (int e = 0; e < 200; e++)
		if (errnos[e])
			printf("%s %d\n", e ? strerrorname_np(e) : "success", errnos[e]);
}

int main(int argc, char **argv) {
	destination(argv);
	open_ = address(argv[4], argv[5]);
	closed = address(argv[4], argv[6]);
	dropped = address(argv[7], "80");
	if (!strcmp(argv[1], "states"))
		states();
	else if (!strcmp(argv[1], "waits")) {
		struct sockaddr_in late = address(argv[8], argv[5]);
		waits(&late);
	} else {
		fast_open = !!strstr(argv[9], "sendto");
		inet6 = !!strstr(argv[9], "mapped");
		race(argv[1], atoi(argv[8]));
	}
	printf("end\n");
	return 0;
}
