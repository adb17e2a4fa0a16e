// swap_again CASE ADDRESS PORT [ARG...]: one socket that is connected more than once. See swap.h.
#include "swap.h"

static void set_options(int fd) {
	set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set(fd, IPPROTO_IP, IP_TOS, 0x28);
	set(fd, SOL_SOCKET, SO_SNDBUF, 30000);
}

static void options(int fd) {
	printf("options: %d %d %d %x %d F_GETFL %o F_GETFD %d\n", get(fd, SOL_SOCKET, SO_KEEPALIVE), get(fd, IPPROTO_TCP, TCP_NODELAY),
		get(fd, IPPROTO_TCP, TCP_KEEPIDLE), get(fd, IPPROTO_IP, IP_TOS), get(fd, SOL_SOCKET, SO_SNDBUF), fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
}

static int unspec(int fd) {
	struct sockaddr sa = {AF_UNSPEC};
	return result("AF_UNSPEC", connect(fd, &sa, sizeof sa));
}

// steps ADDRESS PORT inet|inet6 blocking|non-blocking STEP...: a step is an address and a port to connect to, or a word. The socket
// has options, another number, and a place in an epoll set; all of that must still be so after each step.
static void steps(int argc, char **argv) {
	int inet6 = !strcmp(argv[0], "inet6"), nonblock = !strcmp(argv[1], "non-blocking");
	int fd = socket(inet6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0), 0), other = fcntl(fd, F_DUPFD, 50);
	int ep = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u64 = 0x123456789abcdef0};
	set_options(fd);
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	epoll_wait(ep, &ev, 1, 0);
	for (int i = 2; i < argc; i++) {
		int r = 0;
		printf("%s\n", argv[i]);
		if (!strcmp(argv[i], "unspec"))
			unspec(fd);
		else if (!strcmp(argv[i], "shutdown"))
			result("shutdown", shutdown(fd, SHUT_RDWR));
		else {
			struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[i + 1]))};
			struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
			char text[80];
			if (!inet6)
				inet_pton(AF_INET, argv[i], &four.sin_addr);
			else {
				snprintf(text, sizeof text, "%s%s", strchr(argv[i], ':') ? "" : "::ffff:", argv[i]);
				inet_pton(AF_INET6, text, &six.sin6_addr);
			}
			i++;
			// By each number in turn.
			struct sockaddr *sa = inet6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;
			socklen_t length = inet6 ? sizeof six : sizeof four;
			r = connect(i % 4 ? fd : other, sa, length);
			if (r && errno == ECONNABORTED) { // the end of the attempt before, if that one did not wait
				printf("connect: ECONNABORTED at first\n");
				r = connect(fd, sa, length);
			}
			int e = errno;
			if (r && e == EINPROGRESS) {
				struct pollfd p = {fd, POLLOUT, 0};
				if (poll(&p, 1, 50) == 0) {
					printf("connect: pending\n");
					continue;
				}
				e = get(fd, SOL_SOCKET, SO_ERROR);
				r = e ? -1 : 0;
				if (!e) { // fetches the result
					r = connect(other, sa, length);
					e = errno;
				}
			}
			errno = e;
			result("connect", r);
			int n = epoll_wait(ep, &ev, 1, 0);
			if (r == 0)
				printf("epoll: %d %x\n", n, n > 0 && ev.data.u64 == 0x123456789abcdef0 ? ev.events & EPOLLOUT : 0);
			if (r == 0) {
				greeting(fd);
				ends(fd);
			}
		}
		options(fd);
		printf("the other number: %s\n", cookie(other) == cookie(fd) ? "the same socket" : "another socket");
		ev.events = EPOLLIN | EPOLLOUT | EPOLLET;
		ev.data.u64 = 0x123456789abcdef0;
		if (epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev))
			result("EPOLL_CTL_MOD", -1);
		epoll_wait(ep, &ev, 1, 0);
	}
}

static void retry(const char *closed) {
	for (int nonblock = 0; nonblock < 2; nonblock++)
		for (int bound = 0; bound < 2; bound++) {
			struct sockaddr_in nobody = dst, me = {.sin_family = AF_INET}, now = {0};
			socklen_t length = sizeof me;
			nobody.sin_port = htons(atoi(closed));
			int fd = sock(nonblock ? SOCK_NONBLOCK : 0);
			set_options(fd);
			if (bound) {
				result("bind", bind(fd, (struct sockaddr *)&me, sizeof me));
				getsockname(fd, (struct sockaddr *)&me, &length);
			}
			for (int i = 0; i < 3; i++) {
				int r = conn_to(fd, &nobody);
				if (nonblock) {
					wait_for(fd, POLLOUT);
					so_error(fd);
				} else
					result("refused", r);
				options(fd);
				length = sizeof now;
				getsockname(fd, (struct sockaddr *)&now, &length);
				printf("port: %s\n", bound ? now.sin_port == me.sin_port ? "the bound one" : "another" : now.sin_port ? "some" : "none");
			}
			int r = conn_to(fd, &dst);
			if (nonblock)
				wait_for(fd, POLLOUT);
			else
				result("connect", r);
			length = sizeof now;
			getsockname(fd, (struct sockaddr *)&now, &length);
			printf("port: %s\n", bound ? now.sin_port == me.sin_port ? "the bound one" : "another" : now.sin_port ? "some" : "none");
			options(fd);
			conn("connect once more", fd);
			greeting(fd);
			conn("connect at the end", fd);
			ends(fd);
			unspec(fd);
			ends(fd);
			length = sizeof now;
			getsockname(fd, (struct sockaddr *)&now, &length);
			if (bound) // else it is a number that the kernel has not forgotten, of a port that is given up
				printf("port: %s\n", now.sin_port == me.sin_port ? "the bound one" : "another");
			options(fd);
		}
}

// What shutdown(2) says and does before connect(2). The server reads, and is silent.
static void shut(void) {
	for (int how = SHUT_RD; how <= SHUT_RDWR; how++)
		for (int nonblock = 0; nonblock < 2; nonblock++) {
			int fd = sock(nonblock ? SOCK_NONBLOCK : 0);
			printf("shutdown %d\n", how);
			result("shutdown", shutdown(fd, how));
			int r = conn_to(fd, &dst);
			if (r && errno == EINPROGRESS) {
				wait_for(fd, POLLOUT);
				so_error(fd);
			} else
				result("connect", r);
			printf("poll: %x\n", wait_for(fd, POLLIN | POLLOUT | POLLRDHUP));
			printf("state: %s\n", tcp_state(fd));
			char c;
			result("recv", recv(fd, &c, 1, MSG_DONTWAIT));
			result("send", send(fd, "x", 1, MSG_NOSIGNAL));
			close(fd);
		}
}

static void shut_connected(void) {
	int fd = sock(0);
	conn("connect", fd);
	greeting(fd);
	result("shutdown", shutdown(fd, SHUT_RDWR));
	conn("connect after shutdown", fd);
	unspec(fd);
	conn("connect anew", fd);
	greeting(fd);
	ends(fd);
}

// pending: no answer; and meanwhile.
static void pending(const char *host, const char *port) {
	struct sockaddr_in good = address(host, port);
	int fd = sock(SOCK_NONBLOCK);
	set_options(fd);
	conn("connect", fd);
	conn("again", fd);
	result("elsewhere", conn_to(fd, &good));
	printf("state: %s\n", tcp_state(fd));
	result("shutdown", shutdown(fd, SHUT_WR));
	printf("state: %s\n", tcp_state(fd));
	so_error(fd);
	unspec(fd);
	printf("state: %s\n", tcp_state(fd));
	options(fd);
	result("elsewhere", conn_to(fd, &good));
	wait_for(fd, POLLOUT);
	result("elsewhere again", conn_to(fd, &good));
	result("elsewhere once more", conn_to(fd, &good));
	greeting(fd);
	ends(fd);
}

static void elsewhere(const char *port) {
	int fd = sock(0);
	conn("connect", fd);
	dst.sin_port = htons(atoi(port));
	conn("connect elsewhere", fd);
	greeting(fd);
}

static void on_signal(int sig) {}

// interrupted: a blocking connect that a signal ends goes on by itself; poll tells how. The server is silent here.
static void interrupted(void) {
	struct sigaction act = {.sa_handler = on_signal};
	sigaction(SIGALRM, &act, NULL);
	int fd = sock(0), ep = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLOUT | EPOLLET, .data.u64 = 5};
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 900);
	struct itimerval soon = {{0, 0}, {0, 50000}};
	setitimer(ITIMER_REAL, &soon, NULL);
	conn("connect", fd);
	printf("state: %s F_GETFL %o\n", tcp_state(fd), fcntl(fd, F_GETFL));
	struct pollfd p = {fd, POLLOUT, 0};
	printf("poll: %d\n", poll(&p, 1, 0));
	setitimer(ITIMER_REAL, &soon, NULL);
	conn("connect", fd); // waits for the same one, and is interrupted too
	printf("poll: %d", poll(&p, 1, 30000));
	printf(" %x\n", p.revents);
	int n = epoll_wait(ep, &ev, 1, 0);
	printf("epoll: %d %x\n", n, n > 0 ? ev.events : 0);
	so_error(fd);
	ends(fd);
}

int main(int argc, char **argv) {
	destination(argv);
	const char *what = argv[1];
	if (!strcmp(what, "steps"))
		steps(argc - 4, argv + 4);
	else if (!strcmp(what, "retry"))
		retry(argv[4]);
	else if (!strcmp(what, "shutdown"))
		shut();
	else if (!strcmp(what, "shutdown-connected"))
		shut_connected();
	else if (!strcmp(what, "pending"))
		pending(argv[4], argv[5]);
	else if (!strcmp(what, "elsewhere"))
		elsewhere(argv[4]);
	else if (!strcmp(what, "interrupted"))
		interrupted();
	else
		printf("%s: no such case\n", what);
	printf("end\n");
	return 0;
}
