// connect_probe CASE ADDRESS PORT [ARG...] makes connections in one way or another and prints what came of it.
// Natively and under upconv it prints the same.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in dst;
static atomic_int handled, handled_elsewhere;
static pid_t main_tid;

static void die(const char *what) {
	printf("%s: %s\n", what, strerrorname_np(errno));
	exit(3);
}

static long now(void) { // ms
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

// result prints what a call returned.
static int result(const char *what, long r) {
	int e = errno;
	if (r < 0)
		printf("%s: %ld %s\n", what, r, strerrorname_np(e) ? strerrorname_np(e) : "?");
	else
		printf("%s: %ld\n", what, r);
	errno = e;
	return r;
}

// conn connects and prints how it went, and whether it took long.
static int conn(const char *what, int fd) {
	long began = now();
	int r = connect(fd, (struct sockaddr *)&dst, sizeof dst), e = errno;
	long took = now() - began;
	errno = e;
	result(what, r);
	if (took >= 900)
		printf("%s: waited\n", what);
	errno = e;
	return r;
}

// CLOSE_WAIT is shown as ESTABLISHED: the server may have said all it has to say by then, or not.
static const char *states[] = {"0", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "ESTABLISHED",
	"LAST_ACK", "LISTEN", "CLOSING"};

static int tcp_state(int fd) {
	struct tcp_info info = {0};
	socklen_t length = sizeof info;
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) ? 0 : info.tcpi_state;
}

static void so_error(int fd) {
	int e = -1;
	socklen_t length = sizeof e;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &length))
		die("SO_ERROR");
	printf("SO_ERROR: %s\n", e ? strerrorname_np(e) : "0");
}

static void name(const char *what, int r, struct sockaddr_storage *ss) {
	char text[INET6_ADDRSTRLEN] = "";
	if (r < 0) {
		result(what, r);
		return;
	}
	if (ss->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)ss)->sin6_addr, text, sizeof text);
	else if (ss->ss_family == AF_INET)
		inet_ntop(AF_INET, &((struct sockaddr_in *)ss)->sin_addr, text, sizeof text);
	printf("%s: family %d address %s\n", what, ss->ss_family, text);
}

// state prints everything about the socket. It does not fetch SO_ERROR.
static void state(int fd) {
	struct sockaddr_storage ss;
	socklen_t length = sizeof ss;
	printf("state: %s F_GETFL %o F_GETFD %d\n", states[tcp_state(fd)], fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
	int r = getpeername(fd, (struct sockaddr *)&ss, &length);
	name("peer", r, &ss);
	length = sizeof ss;
	r = getsockname(fd, (struct sockaddr *)&ss, &length);
	name("local", r, &ss);
}

// partly reports whether a wait has seen only a part of a reset, as one does that looks while it arrives. By the time
// partly returns all of it is to be seen, because TCP_INFO waits for the socket's lock.
static int partly(int fd, unsigned events) {
	if (!(events & POLLERR) || (events & (POLLOUT | POLLHUP)) == (POLLOUT | POLLHUP))
		return 0;
	tcp_state(fd);
	return 1;
}

static void ready(int fd, int timeout) {
	struct pollfd p = {fd, POLLOUT, 0};
	int n = poll(&p, 1, timeout);
	if (partly(fd, p.revents))
		n = poll(&p, 1, 0);
	printf("poll: %d %s%s%s%s\n", n, p.revents & POLLOUT ? "OUT " : "", p.revents & POLLERR ? "ERR " : "", p.revents & POLLHUP ? "HUP " : "",
		p.revents & POLLNVAL ? "NVAL" : "");
}

static void greeting(int fd) {
	char buffer[256];
	ssize_t n;
	int flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		printf("greeting: %.*s", (int)n, buffer);
	if (n < 0)
		result("read", n);
	fcntl(fd, F_SETFL, flags);
}

static int sock(int flags) {
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static void set(int fd, int level, int option, int value) {
	if (setsockopt(fd, level, option, &value, sizeof value))
		die("setsockopt");
}

static void set_time(int fd, int option, int ms) {
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	if (setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv))
		die("setsockopt");
}

static void descriptors(const char *what, int except) {
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	printf("%s:", what);
	for (int n = 0; n < 1000; n++) {
		char path[32], target[200];
		snprintf(path, sizeof path, "/proc/self/fd/%d", n);
		ssize_t length = n == except || n == dirfd(dir) ? -1 : readlink(path, target, sizeof target - 1);
		if (length > 0) {
			target[length] = 0;
			if (!strncmp(target, "socket:", 7))
				strcpy(target, "socket");
			else if (!strncmp(target, "pipe:", 5))
				strcpy(target, "pipe");
			printf(" %d=%s/%d", n, target, fcntl(n, F_GETFD));
		}
	}
	(void)entry;
	closedir(dir);
	printf("\n");
}

static void handler(int sig) {
	if (syscall(SYS_gettid) == main_tid)
		handled++;
	else
		handled_elsewhere++;
}

static void handle(int sig, int flags) {
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};
	sigaction(sig, &sa, NULL);
}

// in_connect reports whether the main thread sits in connect(2), on a socket on its way.
static int in_connect(int pid, int fd) {
	char path[64], text[512] = "";
	int state_file, n;
	snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", pid, main_tid);
	if ((state_file = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return 0;
	n = read(state_file, text, sizeof text - 1);
	close(state_file);
	if (n <= 0)
		return 0;
	text[n] = 0;
	long nr = strtol(text, NULL, 10);
	if (nr != SYS_connect
#ifdef SYS_socketcall
		&& nr != SYS_socketcall
#endif
	)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, main_tid);
	if ((state_file = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return 0;
	n = read(state_file, text, sizeof text - 1);
	close(state_file);
	char *s = n > 0 ? (text[n] = 0, strrchr(text, ')')) : NULL;
	return s && (s[2] == 'S' || s[2] == 'D') && tcp_state(fd) == TCP_SYN_SENT;
}

static void wait_in_connect(int pid, int fd) {
	long deadline = now() + 30000;
	for (int seen = 0; seen < 5; seen = in_connect(pid, fd) ? seen + 1 : 0) {
		if (now() > deadline) {
			printf("never seen in connect\n");
			return;
		}
		usleep(2000);
	}
}

struct watch {
	int fd, sig, times, directed, report;
};

// watcher is a thread that sends signals when the main thread sits in connect(2).
static void *watcher(void *arg) {
	struct watch *w = arg;
	for (int i = 0; i < w->times; i++) {
		wait_in_connect(getpid(), w->fd);
		int before = handled + handled_elsewhere;
		if (w->directed)
			kill(getpid(), w->sig);
		else
			syscall(SYS_tgkill, getpid(), main_tid, w->sig);
		long deadline = now() + 30000;
		struct sigaction sa;
		sigaction(w->sig, NULL, &sa);
		while (sa.sa_handler == handler && handled + handled_elsewhere == before && now() < deadline)
			usleep(1000);
	}
	if (w->report) {
		if (w->times == 0)
			wait_in_connect(getpid(), w->fd);
		printf("now\n");
		fflush(stdout);
	}
	return NULL;
}

static pthread_t watch(struct watch *w, int blocked) {
	pthread_t thread;
	sigset_t set, old;
	sigfillset(&set);
	if (blocked) // in the thread
		pthread_sigmask(SIG_BLOCK, &set, &old);
	pthread_create(&thread, NULL, watcher, w);
	if (blocked)
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	return thread;
}

// fork_watcher does the same from another process, so that this one has a single thread.
static pid_t fork_watcher(struct watch *w) {
	pid_t parent = getpid();
	fflush(stdout);
	pid_t pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0); // shares the descriptors
	if (pid)
		return pid;
	for (int i = 0; i < w->times; i++) {
		wait_in_connect(parent, w->fd);
		kill(parent, w->sig);
		usleep(20000);
	}
	if (w->report && write(1, "now\n", 4) != 4)
		_exit(1);
	_exit(0);
}

static void bad(int fd, const char *what, const void *sa, unsigned length) {
	errno = 0;
	result(what, syscall(SYS_connect, fd, sa, length));
}

int main(int argc, char **argv) {
	const char *what = argv[1], *extra = argc > 4 ? argv[4] : "";
	int fd, r;

	main_tid = syscall(SYS_gettid);
	signal(SIGPIPE, SIG_IGN);
	dst.sin_family = AF_INET;
	dst.sin_port = htons(atoi(argv[3]));
	inet_pton(AF_INET, argv[2], &dst.sin_addr);

	if (!strcmp(what, "blocking")) {
		fd = sock(0);
		if (!strcmp(extra, "user-timeout"))
			set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1200);
		if (!strcmp(extra, "syncnt"))
			set(fd, IPPROTO_TCP, TCP_SYNCNT, 1);
		conn("connect", fd);
		if (strcmp(extra, "icmp")) { // a second message may or may not have come
			so_error(fd);
			state(fd);
			ready(fd, 0);
		}
		if (tcp_state(fd) != TCP_CLOSE)
			greeting(fd);
		if (!*extra)
			conn("connect again", fd);
		state(fd);
	} else if (!strcmp(what, "flags")) {
		for (int i = 0; i < 4; i++) {
			fd = sock((i & 1 ? SOCK_NONBLOCK : 0) | (i & 2 ? SOCK_CLOEXEC : 0));
			int other = fcntl(fd, F_DUPFD, 50);
			close(fd);
			fd = dup3(other, 20 + i, i & 2 ? O_CLOEXEC : 0);
			close(other);
			int asynchronous = fcntl(fd, F_GETFL);
			printf("before: F_GETFL %o F_GETFD %d\n", asynchronous, fcntl(fd, F_GETFD));
			descriptors("before", fd);
			conn("connect", fd);
			printf("after: F_GETFL %o F_GETFD %d\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
			descriptors("after", fd);
			ready(fd, 30000);
			so_error(fd);
			state(fd);
		}
	} else if (!strcmp(what, "nonblocking")) {
		fd = sock(SOCK_NONBLOCK);
		conn("connect", fd);
		if (!strcmp(extra, "poll"))
			ready(fd, 30000);
		else if (!strcmp(extra, "select")) {
			fd_set w, e;
			FD_ZERO(&w);
			FD_ZERO(&e);
			FD_SET(fd, &w);
			FD_SET(fd, &e);
			struct timeval tv = {30, 0};
			r = select(fd + 1, NULL, &w, &e, &tv);
			printf("select: %d writable %d exceptional %d\n", r, !!FD_ISSET(fd, &w), !!FD_ISSET(fd, &e));
		} else {
			int ep = epoll_create1(0);
			struct epoll_event ev = {EPOLLOUT, {.u64 = 0x123456789abcdef}};
			result("EPOLL_CTL_ADD", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
			memset(&ev, 0, sizeof ev);
			r = epoll_wait(ep, &ev, 1, 30000);
			if (partly(fd, ev.events))
				r = epoll_wait(ep, &ev, 1, 0);
			printf("epoll: %d %x %llx\n", r, ev.events, (long long)ev.data.u64);
		}
		so_error(fd);
		state(fd);
		so_error(fd);
		conn("connect again", fd);
		if (tcp_state(fd) == TCP_ESTABLISHED || tcp_state(fd) == TCP_CLOSE_WAIT) {
			conn("connect once more", fd);
			greeting(fd);
		}
	} else if (!strcmp(what, "epoll-before")) { // registered before it is connected
		int ep = epoll_create1(0);
		struct epoll_event ev = {EPOLLOUT | EPOLLET, {.u64 = 0x123456789abcdef}};
		fd = sock(SOCK_NONBLOCK);
		result("EPOLL_CTL_ADD", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
		while (epoll_wait(ep, &ev, 1, 0) > 0)
			;
		conn("connect", fd);
		do
			r = epoll_wait(ep, &ev, 1, 30000);
		while (r == 1 && !(ev.events & EPOLLOUT && tcp_state(fd) != TCP_SYN_SENT));
		printf("epoll: %d %x\n", r, ev.events & (EPOLLOUT | EPOLLERR | EPOLLHUP));
		so_error(fd);
		result("EPOLL_CTL_MOD", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev));
		result("EPOLL_CTL_DEL", epoll_ctl(ep, EPOLL_CTL_DEL, fd, &ev));
	} else if (!strcmp(what, "result-by-connect")) { // the second connect(2) fetches the result of the first
		fd = sock(SOCK_NONBLOCK);
		if (*extra)
			set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, atoi(extra));
		conn("connect", fd);
		ready(fd, 30000);
		conn("connect, for the result", fd);
		state(fd);
		so_error(fd);
	} else if (!strcmp(what, "pending")) {
		fd = sock(SOCK_NONBLOCK);
		conn("connect", fd);
		conn("connect again", fd);
		ready(fd, 30);
		so_error(fd);
		state(fd);
		struct sockaddr_in other = dst;
		other.sin_addr.s_addr++;
		bad(fd, "connect elsewhere", &other, sizeof other);
		struct sockaddr none = {AF_UNSPEC};
		bad(fd, "AF_UNSPEC", &none, sizeof none);
		state(fd);
		conn("connect anew", fd);
		state(fd);
	} else if (!strcmp(what, "signal")) { // signal RESTART|EINTR SNDTIMEO-ms SINGLE|THREAD|PROCESS
		int restart = !strcmp(extra, "restart"), timeo = atoi(argv[5]);
		const char *mode = argv[6];
		fd = sock(0);
		set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500);
		if (timeo)
			set_time(fd, SO_SNDTIMEO, timeo);
		handle(SIGUSR1, restart ? SA_RESTART : 0);
		struct watch w = {fd, SIGUSR1, 1, !strcmp(mode, "process"), 0};
		pthread_t thread = 0;
		if (!strcmp(mode, "single"))
			fork_watcher(&w);
		else
			thread = watch(&w, 1);
		conn("connect", fd);
		if (!strcmp(mode, "single"))
			while (wait(NULL) < 0 && errno == EINTR)
				;
		else
			pthread_join(thread, NULL);
		printf("handled: %d elsewhere %d\n", handled, handled_elsewhere);
		fcntl(fd, F_SETFL, O_NONBLOCK);
		printf("state: %s\n", states[tcp_state(fd)]);
		if (tcp_state(fd) == TCP_SYN_SENT) {
			ready(fd, 0);
			conn("connect again", fd);
			ready(fd, 30000);
			so_error(fd);
		}
	} else if (!strcmp(what, "signals-in-a-row")) {
		fd = sock(0);
		set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500);
		handle(SIGUSR1, SA_RESTART);
		struct watch w = {fd, SIGUSR1, 10, 0, 0};
		pthread_t thread = watch(&w, 1);
		conn("connect", fd);
		pthread_join(thread, NULL);
		printf("handled: %d\n", handled);
	} else if (!strcmp(what, "signal-not-for-it")) { // ignored, or blocked here and taken by another thread; with SO_SNDTIMEO
		fd = sock(0);
		if (atoi(argv[5]))
			set_time(fd, SO_SNDTIMEO, atoi(argv[5]));
		else
			set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1200);
		struct watch w = {fd, SIGUSR1, 2, 1, 0};
		if (!strcmp(extra, "ignored"))
			signal(SIGUSR1, SIG_IGN);
		else if (!strcmp(extra, "default")) {
			w.sig = SIGCHLD;
			signal(SIGCHLD, SIG_DFL);
		} else
			handle(SIGUSR1, 0);
		pthread_t thread = watch(&w, !strcmp(extra, "blocked"));
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		if (!strcmp(extra, "elsewhere") || !strcmp(extra, "blocked"))
			pthread_sigmask(SIG_BLOCK, &set, NULL);
		conn("connect", fd);
		printf("handled: %d elsewhere %d\n", handled, handled_elsewhere);
		(void)thread;
		printf("state: %s\n", states[tcp_state(fd)]);
	} else if (!strcmp(what, "late")) { // the server answers only when it has been told "now"
		const char *mode = extra;
		int timeo = atoi(argv[5]);
		fd = sock(0);
		if (timeo)
			set_time(fd, SO_SNDTIMEO, timeo);
		struct watch w = {fd, SIGUSR1, 1, 0, 1};
		if (!strcmp(mode, "plain"))
			w.times = 0;
		handle(SIGUSR1, !strcmp(mode, "restart") ? SA_RESTART : 0);
		pthread_t thread = watch(&w, 1);
		r = connect(fd, (struct sockaddr *)&dst, sizeof dst);
		int e = errno;
		pthread_join(thread, NULL);
		errno = e;
		result("connect", r);
		printf("handled: %d\n", handled);
		if (r < 0) {
			if (argc > 6) { // connect again while it is on its way: waits
				handle(SIGUSR1, SA_RESTART);
				r = connect(fd, (struct sockaddr *)&dst, sizeof dst);
				result("connect again", r);
			} else {
				ready(fd, 30000);
				result("connect again", connect(fd, (struct sockaddr *)&dst, sizeof dst));
			}
		}
		result("connect once more", connect(fd, (struct sockaddr *)&dst, sizeof dst));
		so_error(fd);
		greeting(fd);
	} else if (!strcmp(what, "sndtimeo")) {
		int ms = atoi(extra);
		fd = sock(0);
		set_time(fd, SO_SNDTIMEO, ms);
		for (int i = 0; i < 3; i++) {
			long began = now();
			r = connect(fd, (struct sockaddr *)&dst, sizeof dst);
			int e = errno;
			long took = now() - began;
			errno = e;
			result("connect", r);
			if (r < 0 && (e == EINPROGRESS || e == EALREADY))
				printf(took >= ms - 5 && took < ms + 700 ? "on time\n" : "after %ld ms\n", took);
			printf("state: %s F_GETFL %o\n", states[tcp_state(fd)], fcntl(fd, F_GETFL));
			if (tcp_state(fd) != TCP_SYN_SENT)
				break;
		}
		if (tcp_state(fd) == TCP_ESTABLISHED || tcp_state(fd) == TCP_CLOSE_WAIT)
			greeting(fd);
		so_error(fd);
	} else if (!strcmp(what, "bad")) {
		char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mprotect(page + 4096, 4096, PROT_NONE);
		fd = sock(0);
		struct sockaddr_storage big = {0};
		memcpy(&big, &dst, sizeof dst);
		bad(fd, "NULL", NULL, sizeof dst);
		bad(fd, "low pointer", (void *)8, sizeof dst);
		bad(fd, "pointer into nothing", page + 4096, sizeof dst);
		memcpy(page + 4096 - 8, &dst, 8);
		bad(fd, "half in nothing", page + 4096 - 8, sizeof dst);
		bad(fd, "kernel pointer", (void *)-4096L, sizeof dst);
		for (unsigned *length = (unsigned[]){0, 1, 2, 8, 15, 129, 4096, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff0, 77}; *length != 77; length++) {
			char text[40];
			snprintf(text, sizeof text, "length %u", *length);
			bad(fd, text, &big, *length);
			bad(fd, text, NULL, *length);
		}
		memcpy(page + 4096 - 16, &dst, 16);
		bad(-1, "fd -1", &dst, sizeof dst);
		bad(999, "fd 999", &dst, sizeof dst);
		bad(1 << 30, "large fd", &dst, sizeof dst);
		bad(open("/dev/null", O_RDWR), "a device", &dst, sizeof dst);
		bad(open("/", O_RDONLY), "a directory", &dst, sizeof dst);
		bad(open("/", O_PATH), "O_PATH", &dst, sizeof dst);
		int ends[2];
		r = pipe(ends);
		bad(ends[0], "a pipe", &dst, sizeof dst);
		bad(epoll_create1(0), "an epoll", &dst, sizeof dst);
		bad(socket(AF_UNIX, SOCK_STREAM, 0), "a Unix socket", &dst, sizeof dst);
		bad(socket(AF_NETLINK, SOCK_RAW, 0), "a netlink socket", &dst, sizeof dst);
		for (int *family = (int[]){AF_UNIX, AF_INET6, AF_NETLINK, 99, 0xffff, 0}; *family; family++) {
			char text[40];
			struct sockaddr_storage other = big;
			other.ss_family = *family;
			snprintf(text, sizeof text, "family %d", *family);
			bad(sock(0), text, &other, 16);
			bad(sock(0), text, &other, 28);
			bad(sock(0), text, &other, 110);
		}
		struct sockaddr none = {AF_UNSPEC};
		bad(sock(0), "AF_UNSPEC", &none, sizeof none);
		state(fd);
		bad(fd, "in the end", &dst, sizeof dst);
		bad(sock(0), "length 17", &big, 17);
		bad(sock(0), "length 128", &big, 128);
		bad(sock(0), "to the last byte of a page", page + 4096 - 16, 16);
		int listening = sock(0);
		listen(listening, 1);
		bad(listening, "a listening socket", &dst, sizeof dst);
		state(listening);
	} else if (!strcmp(what, "other")) { // as it is where there is no IPv4
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		conn("UDP", fd);
		state(fd);
		fd = socket(AF_INET6, SOCK_DGRAM, 0);
		conn("IPv6 UDP with sockaddr_in", fd);
		fd = socket(AF_INET6, SOCK_STREAM, 0);
		conn("IPv6 TCP with sockaddr_in", fd);
		state(fd);
		fd = socket(AF_INET, SOCK_RAW, 255);
		conn("raw", fd);
	} else if (!strcmp(what, "inet6")) { // IPv4-mapped; and IPv6 only
		for (int only = 0; only < 2; only++) {
			struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_port = dst.sin_port};
			inet_pton(AF_INET6, "::ffff:0.0.0.0", &sa.sin6_addr);
			memcpy(&sa.sin6_addr.s6_addr[12], &dst.sin_addr, 4);
			fd = socket(AF_INET6, SOCK_STREAM, 0);
			if (only)
				set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
			bad(fd, "mapped", &sa, sizeof sa);
			state(fd);
			if (tcp_state(fd) != TCP_CLOSE)
				greeting(fd);
			fd = socket(AF_INET6, SOCK_STREAM, 0);
			bad(fd, "mapped, short", &sa, 24);
			fd = socket(AF_INET6, SOCK_STREAM, 0);
			bad(fd, "mapped, too short", &sa, 23);
			fd = sock(0);
			bad(fd, "on AF_INET", &sa, sizeof sa);
		}
	} else if (!strcmp(what, "connected")) {
		fd = sock(0);
		conn("connect", fd);
		conn("connect again", fd);
		struct sockaddr_in other = dst;
		other.sin_port++;
		bad(fd, "connect elsewhere", &other, sizeof other);
		greeting(fd);
		conn("connect at the end", fd);
		struct sockaddr none = {AF_UNSPEC};
		bad(fd, "AF_UNSPEC", &none, sizeof none);
		state(fd);
		conn("connect anew", fd);
		greeting(fd);
		shutdown(fd, SHUT_RDWR);
		conn("connect after shutdown", fd);
	} else if (!strcmp(what, "then")) { // refused at first, then elsewhere, on one socket
		fd = sock(0);
		conn("connect", fd);
		dst.sin_port = htons(atoi(extra));
		conn("connect elsewhere", fd);
		state(fd);
		if (tcp_state(fd) != TCP_CLOSE)
			greeting(fd);
	} else if (!strcmp(what, "options")) {
		static const struct { const char *name; int level, option, value; } options[] = {
			{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1}, {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1},
			{"SO_REUSEPORT", SOL_SOCKET, SO_REUSEPORT, 1}, {"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1},
			{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 3}, {"SO_MARK", SOL_SOCKET, SO_MARK, 77},
			{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 30000}, {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 40000},
			{"SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, 0}, {"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 5},
			{"IP_TOS", IPPROTO_IP, IP_TOS, 0x28}, {"IP_TTL", IPPROTO_IP, IP_TTL, 33},
			{"IP_RECVERR", IPPROTO_IP, IP_RECVERR, 0}, {"IP_MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT},
			{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 1}, {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 77},
			{"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 11}, {"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 3},
			{"TCP_SYNCNT", IPPROTO_TCP, TCP_SYNCNT, 2}, {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, 4321},
		};
		int n = sizeof options / sizeof *options;
		for (int one = -2; one < n; one++) { // none, all, each
			fd = sock(0);
			for (int i = 0; i < n; i++)
				if (one == -1 || one == i)
					set(fd, options[i].level, options[i].option, options[i].value);
			struct linger linger = {1, 5};
			if (one == -1) {
				setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
				set_time(fd, SO_RCVTIMEO, 7654);
				set_time(fd, SO_SNDTIMEO, 8765);
			}
			conn("connect", fd);
			for (int i = 0; i < n; i++) {
				int value = -1;
				socklen_t length = sizeof value;
				getsockopt(fd, options[i].level, options[i].option, &value, &length);
				if (one < 0 || one == i)
					printf("%s: %d\n", options[i].name, value);
			}
			if (one < 0) {
				struct timeval tv;
				socklen_t length = sizeof linger;
				getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length);
				printf("SO_LINGER: %d %d\n", linger.l_onoff, linger.l_linger);
				length = sizeof tv;
				getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &length);
				printf("SO_RCVTIMEO: %ld %ld\n", (long)tv.tv_sec, (long)tv.tv_usec);
				length = sizeof tv;
				getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, &length);
				printf("SO_SNDTIMEO: %ld %ld\n", (long)tv.tv_sec, (long)tv.tv_usec);
			}
			close(fd);
		}
	} else if (!strcmp(what, "bound")) {
		for (int kind = 0; kind < 3; kind++) { // a port; a port, reusable; no port
			struct sockaddr_in me = {.sin_family = AF_INET};
			socklen_t length = sizeof me;
			fd = sock(0);
			if (kind == 1)
				set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
			me.sin_port = kind < 2 ? htons(atoi(extra) + kind) : 0;
			result("bind", bind(fd, (struct sockaddr *)&me, sizeof me));
			getsockname(fd, (struct sockaddr *)&me, &length);
			int port = me.sin_port;
			conn("connect", fd);
			length = sizeof me;
			getsockname(fd, (struct sockaddr *)&me, &length);
			printf("port: %s\n", me.sin_port == port ? "the same" : "another");
			state(fd);
			greeting(fd);
		}
	} else if (!strcmp(what, "fastopen")) {
		fd = sock(0);
		set(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
		conn("connect", fd);
		result("write", write(fd, "x", 1));
		greeting(fd);
		int nonblocking = sock(SOCK_NONBLOCK);
		set(nonblocking, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
		conn("connect", nonblocking);
	}
#ifdef __x86_64__
	else if (!strcmp(what, "garbage")) { // in the upper halves of the registers of int arguments
		for (int i = 1; i < 8; i++) {
			long ret;
			fd = sock(0);
			unsigned long high = 0xdeadbeef00000000, nr = SYS_connect, a = fd | (i & 1 ? high : 0), c = 16 | (i & 2 ? high : 0);
			register long r10 asm("r10") = -1, r8 asm("r8") = -1, r9 asm("r9") = -1;
			if (i & 4)
				nr |= 0x1234567800000000;
			asm volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(&dst), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
			printf("garbage %d: %ld\n", i, ret);
			state(fd);
		}
		for (int *nr = (int[]){SYS_connect | 0x40000000, -1, 0}; *nr; nr++) { // x32 and nothing
			fd = sock(0);
			result("odd number", syscall(*nr, fd, &dst, 16));
			state(fd);
		}
	} else if (!strcmp(what, "int80")) { // the i386 calls, from a 64-bit program
		struct sockaddr_in *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		unsigned *args = (unsigned *)(low + 1);
		*low = dst;
		for (int i = 0; i < 4; i++) {
			long ret;
			fd = sock(0);
			args[0] = fd;
			args[1] = (unsigned)(unsigned long)low;
			args[2] = 16;
			if (i == 2)
				args = (unsigned *)8;
			if (i == 0)
				asm volatile("int $0x80" : "=a"(ret) : "a"(362), "b"((long)fd), "c"((long)low), "d"(16L) : "memory", "r8", "r9", "r10", "r11");
			else
				asm volatile("int $0x80" : "=a"(ret) : "a"(102), "b"(3L), "c"((long)args), "d"(-1L) : "memory", "r8", "r9", "r10", "r11");
			printf("int80 %d: %d\n", i, (int)ret);
			state(fd);
			if (i == 2)
				args = (unsigned *)(low + 1);
		}
	}
#endif
#ifdef __i386__
	else if (!strcmp(what, "socketcall")) {
		fd = sock(0);
		unsigned long args[] = {fd, (unsigned long)&dst, sizeof dst};
		result("socketcall", syscall(SYS_socketcall, 3, args));
		state(fd);
		greeting(fd);
		fd = sock(0);
		args[0] = fd;
		args[2] = 8;
		result("socketcall, short", syscall(SYS_socketcall, 3, args));
		args[2] = 500;
		result("socketcall, long", syscall(SYS_socketcall, 3, args));
		args[1] = 8;
		args[2] = 16;
		result("socketcall, bad pointer", syscall(SYS_socketcall, 3, args));
		result("socketcall, bad arguments", syscall(SYS_socketcall, 3, 8));
		result("socketcall 99", syscall(SYS_socketcall, 99, args));
		fd = sock(SOCK_NONBLOCK | SOCK_CLOEXEC);
		args[0] = fd;
		args[1] = (unsigned long)&dst;
		result("socketcall", syscall(SYS_socketcall, 3, args));
		ready(fd, 30000);
		so_error(fd);
		state(fd);
	}
#endif
	else if (!strcmp(what, "io_uring")) {
		char params[256] = {0};
		result("io_uring_setup", syscall(425, 4, params));
	} else {
		printf("%s: no such case\n", what);
		return 2;
	}
	printf("end\n");
	return 0;
}
