// swap_epoll CASE ADDRESS PORT: sockets that are in epoll sets before they are connected. The server echoes. See swap.h.
#include "swap.h"
#include <sys/eventfd.h>

#define DATA 0x123456789abcdef0UL

static int number_of(int ep) { // of registrations
	char path[64], line[256];
	int n = 0;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", ep);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		n += !strncmp(line, "tfd:", 4);
	if (f)
		fclose(f);
	return n;
}

// contents prints what is in a set, without inodes. Order is the kernel's: by file, so numbers are sorted here.
static void contents(const char *what, int ep) {
	char path[64], line[256];
	struct entry {
		int tfd;
		unsigned events;
		unsigned long data;
	} all[64], one;
	int n = 0;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", ep);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (n < 64 && sscanf(line, "tfd: %d events: %x data: %lx", &one.tfd, &one.events, &one.data) == 3) {
			// A one-shot place that has fired comes back for errors and hang-ups: epoll_ctl(2) always adds these.
			if ((one.events & EPOLLONESHOT) && (one.events & 0xfffffff) == (EPOLLERR | EPOLLHUP))
				one.events &= 0xf0000000;
			all[n++] = one;
		}
	if (f)
		fclose(f);
	for (int i = 1; i < n; i++)
		for (int j = i; j > 0 && (all[j].tfd < all[j - 1].tfd || (all[j].tfd == all[j - 1].tfd && all[j].data < all[j - 1].data)); j--)
			one = all[j], all[j] = all[j - 1], all[j - 1] = one;
	for (int i = 0; i < n; i++)
		printf("%s: tfd %d events %x data %lx\n", what, all[i].tfd, all[i].events, all[i].data);
	if (n == 0)
		printf("%s: empty\n", what);
}

// events takes what is there, or what comes within ms, and prints it in the order of the data.
static int events(const char *what, int ep, int ms) {
	struct epoll_event ev[16], one;
	int n = epoll_wait(ep, ev, 16, ms);
	if (n < 0)
		result(what, n);
	for (int i = 1; i < n; i++)
		for (int j = i; j > 0 && ev[j].data.u64 < ev[j - 1].data.u64; j--)
			one = ev[j], ev[j] = ev[j - 1], ev[j - 1] = one;
	for (int i = 0; i < n; i++)
		printf("%s: %x %lx\n", what, ev[i].events, (unsigned long)ev[i].data.u64);
	if (n == 0)
		printf("%s: none\n", what);
	return n;
}

enum { PATIENCE = 100, LONG = 1000, NOTHING = 4 }; // ms to wait for what must be there, for what must come, and for what must not

static int ctl(const char *what, int ep, int op, int fd, unsigned mode, unsigned long data) {
	struct epoll_event ev = {.events = mode, .data.u64 = data};
	int r = epoll_ctl(ep, op, fd, &ev);
	if (what)
		result(what, r);
	return r;
}

static const struct {
	const char *name;
	unsigned events;
} modes[] = {
	{"level", EPOLLIN | EPOLLOUT | EPOLLRDHUP}, {"level, reading", EPOLLIN}, {"nothing but errors", 0},
	{"edge", EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET}, {"edge, writing", EPOLLOUT | EPOLLET},
	{"one-shot", EPOLLIN | EPOLLOUT | EPOLLONESHOT}, {"one-shot, edge", EPOLLIN | EPOLLOUT | EPOLLONESHOT | EPOLLET},
	{"exclusive", EPOLLIN | EPOLLOUT | EPOLLEXCLUSIVE}, {"exclusive, edge", EPOLLIN | EPOLLOUT | EPOLLEXCLUSIVE | EPOLLET},
	{"odd bits", EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDNORM | EPOLLWRBAND | EPOLLMSG | EPOLLRDHUP | EPOLLET},
};

// use has the server echo a byte, and prints what the set says of that.
static void use(int fd, int ep) {
	char c = 'x';
	int flags = fcntl(fd, F_GETFL);
	if (write(fd, &c, 1) != 1)
		result("write", -1);
	else if (!(wait_for(fd, POLLIN) & POLLIN))
		printf("no echo\n");
	events("after an echo", ep, NOTHING);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	if (read(fd, &c, 1) != 1)
		result("read", -1);
	fcntl(fd, F_SETFL, flags);
}

// matrix: every mode, blocking and not, looked at before or not, and registered under which number.
static void matrix(int nonblock) {
	static const char *numbers[] = {"its number, while it has another", "another number", "another number, closed", "its number, connected by another",
		"a number that is closed then", "its only number"};
	for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
		for (int looked = 0; looked < 2; looked++)
			for (int number = 0; number < 6; number++) {
				printf("%s, %s, by %s\n", modes[m].name, looked ? "looked at before" : "not looked at", numbers[number]);
				int ep = epoll_create1(0), fd = sock(nonblock ? SOCK_NONBLOCK : 0), other = dup(fd);
				int reg = number == 1 || number == 2 ? other : fd, by = number == 3 || number == 4 ? other : fd, use_it = by;
				if (number == 5)
					close(other);
				ctl("ADD", ep, EPOLL_CTL_ADD, reg, modes[m].events, DATA + m);
				if (looked)
					events("before", ep, 0);
				if (number == 2)
					close(other);
				if (number == 4)
					close(fd);
				int r = conn_to(by, &dst);
				if (r && errno != EINPROGRESS)
					result("connect", r);
				contents("set", ep);
				int comes = (modes[m].events & (EPOLLIN | EPOLLOUT)) != 0 && (modes[m].events & EPOLLOUT);
				if (looked && (modes[m].events & EPOLLONESHOT))
					comes = 0;
				if (nonblock)
					wait_for(by, POLLOUT);
				events("connected", ep, comes ? PATIENCE : NOTHING);
				events("once more", ep, modes[m].events & (EPOLLET | EPOLLONESHOT) ? NOTHING : 0);
				use(use_it, ep);
				contents("set", ep);
				if (!(modes[m].events & EPOLLEXCLUSIVE) && number != 2 && number != 4) {
					ctl("MOD", ep, EPOLL_CTL_MOD, reg, EPOLLOUT, 77);
					events("after MOD", ep, PATIENCE);
				}
				ctl("ADD again", ep, EPOLL_CTL_ADD, reg, EPOLLIN, 78);
				ctl("DEL", ep, EPOLL_CTL_DEL, reg, 0, 0);
				ctl("DEL again", ep, EPOLL_CTL_DEL, reg, 0, 0);
				printf("left: %d\n", number_of(ep));
				close(fd);
				if (number != 2 && number != 5)
					close(other);
				events("closed", ep, 0);
				printf("left: %d\n", number_of(ep));
				close(ep);
			}
}

static void several(int nonblock) {
	int ep[4], fd = sock(nonblock ? SOCK_NONBLOCK : 0);
	for (int i = 0; i < 4; i++) {
		ep[i] = epoll_create1(i % 2 ? EPOLL_CLOEXEC : 0);
		ctl("ADD", ep[i], EPOLL_CTL_ADD, fd, modes[i * 2].events | EPOLLOUT, DATA + i);
	}
	int moved = fcntl(ep[3], F_DUPFD, 500); // and its first number is closed
	close(ep[3]);
	ep[3] = moved;
	conn("connect", fd);
	for (int i = 0; i < 4; i++) {
		contents("set", ep[i]);
		events("connected", ep[i], PATIENCE);
		events("once more", ep[i], NOTHING);
	}
	for (int i = 0; i < 4; i++) {
		ctl("MOD", ep[i], EPOLL_CTL_MOD, fd, EPOLLOUT, i);
		events("after MOD", ep[i], PATIENCE);
		ctl("DEL", ep[i], EPOLL_CTL_DEL, fd, 0, 0);
	}
}

// Sets in sets.
static void nested(int nonblock) {
	for (int edge = 0; edge < 2; edge++) {
		unsigned et = edge ? EPOLLET : 0;
		int inner = epoll_create1(0), middle = epoll_create1(0), outer = epoll_create1(0), side = epoll_create1(0), fd = sock(nonblock ? SOCK_NONBLOCK : 0);
		ctl("fd in inner", inner, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | et, DATA);
		ctl("inner in middle", middle, EPOLL_CTL_ADD, inner, EPOLLIN | et, DATA + 1);
		ctl("middle in outer", outer, EPOLL_CTL_ADD, middle, EPOLLIN | et, DATA + 2);
		ctl("inner in another", side, EPOLL_CTL_ADD, inner, EPOLLIN, DATA + 3);
		int inner_only = dup(inner);
		close(inner); // it lives in the sets and under another number
		conn("connect", fd);
		if (nonblock)
			wait_for(fd, POLLOUT);
		events("outer", outer, PATIENCE);
		events("outer once more", outer, NOTHING);
		events("middle", middle, NOTHING);
		events("another", side, PATIENCE);
		events("inner", inner_only, PATIENCE);
		events("outer then", outer, NOTHING);
		use(fd, inner_only);
		events("outer after an echo", outer, NOTHING);
		contents("inner", inner_only);
		contents("middle", middle);
		ctl("DEL", inner_only, EPOLL_CTL_DEL, fd, 0, 0);
	}
}

// Sets that another process has too, by fork: the parent connects, the child waits. (The other way round the new socket is
// the child's alone.)
static void inherited(int nonblock) {
	for (int child_connects = 0; child_connects < 1; child_connects++) {
		int ep = epoll_create1(0), fd = sock(nonblock ? SOCK_NONBLOCK : 0), go[2], back[2];
		if (pipe(go) || pipe(back))
			die("pipe");
		ctl("ADD", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLIN | EPOLLET, DATA);
		events("before", ep, 0);
		fflush(stdout);
		pid_t pid = fork();
		int connects = (pid == 0) == child_connects;
		if (connects) {
			conn(child_connects ? "the child's connect" : "connect", fd);
			fflush(stdout);
			if (write(pid ? go[1] : back[1], "x", 1) != 1)
				die("write");
		} else {
			char c;
			if (read(pid ? back[0] : go[0], &c, 1) != 1)
				die("read");
			events(child_connects ? "the parent sees" : "the child sees", ep, LONG);
			contents("set", ep);
		}
		if (pid == 0) {
			fflush(stdout);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		close(fd);
		close(ep);
	}
}

static atomic_int waiter_tid;

struct waiter {
	int ep, ms, n;
	struct epoll_event ev[4];
};

static void *wait_in_set(void *arg) {
	struct waiter *w = arg;
	waiter_tid = syscall(SYS_gettid);
	w->n = epoll_wait(w->ep, w->ev, 4, w->ms);
	return NULL;
}

// asleep waits until a thread sleeps in a system call.
static void asleep(pid_t tid) {
	char path[64], text[64];
	long number = -1;
	snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
	while (number != SYS_epoll_wait && number != SYS_epoll_pwait) {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof text - 1);
		close(fd);
		text[n > 0 ? n : 0] = 0;
		number = n > 0 && text[0] >= '0' && text[0] <= '9' ? atol(text) : -1;
	}
}

// A thread waits in the set while another connects: what does it see, and when?
static void waiting(const char *mode, int nonblock, int ms) {
	int ep = epoll_create1(0), fd = sock(nonblock ? SOCK_NONBLOCK : 0);
	unsigned bits = !strcmp(mode, "edge") ? EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET : EPOLLIN | EPOLLOUT | EPOLLONESHOT;
	ctl("ADD", ep, EPOLL_CTL_ADD, fd, bits, DATA);
	events("before", ep, 0);
	set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 900);
	struct waiter w = {ep, ms};
	pthread_t thread;
	waiter_tid = 0;
	pthread_create(&thread, NULL, wait_in_set, &w);
	while (!waiter_tid)
		;
	asleep(waiter_tid);
	conn("connect", fd);
	pthread_join(thread, NULL);
	printf("the waiting thread sees %d: %x %lx\n", w.n, w.n > 0 ? w.ev[0].events : 0, w.n > 0 ? (unsigned long)w.ev[0].data.u64 : 0);
	if (nonblock)
		printf("state: %s\n", tcp_state(fd));
	events("then", ep, NOTHING);
	contents("set", ep);
	so_error(fd);
	close(fd);
	close(ep);
}

static void never_early(void) {
	for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
		for (int looked = 0; looked < 2; looked++) {
			printf("%s, %s\n", modes[m].name, looked ? "looked at before" : "not looked at");
			int ep = epoll_create1(0), fd = sock(SOCK_NONBLOCK);
			ctl("ADD", ep, EPOLL_CTL_ADD, fd, modes[m].events, DATA + m);
			if (looked)
				events("before", ep, 0);
			conn("connect", fd);
			events("early", ep, 20);
			printf("state: %s\n", tcp_state(fd));
			contents("set", ep);
			close(fd);
			close(ep);
		}
}

static int compare_lines(const void *a, const void *b) { return strcmp(a, b); }

// crowd: the others in a large set are as they were, with their order of arrival.
static void crowd(void) {
	enum { N = 2000 };
	static char lines[2][N + 8][160];
	int ep = epoll_create1(0), n[2], fd = -1;
	int counter = eventfd(0, EFD_NONBLOCK);
	for (int i = 0; i < N; i++) {
		if (i == N / 2) {
			fd = sock(SOCK_NONBLOCK);
			ctl("ADD", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLET, DATA);
		}
		ctl(NULL, ep, EPOLL_CTL_ADD, dup(counter), EPOLLIN | (i % 3 ? 0 : EPOLLET) | (i % 5 ? 0 : EPOLLONESHOT), i * 0x100000001UL);
	}
	for (int after = 0; after < 2; after++) {
		char path[64];
		if (after)
			conn("connect", fd);
		snprintf(path, sizeof path, "/proc/self/fdinfo/%d", ep);
		FILE *f = fopen(path, "r");
		n[after] = 0;
		while (fgets(lines[after][n[after]], 160, f)) {
			char *line = lines[after][n[after]];
			if (!strncmp(line, "tfd:", 4) && !strstr(line, "123456789abcdef0"))
				n[after]++;
			else if (!strncmp(line, "tfd:", 4))
				*strstr(line, "pos:") = 0, printf("%s\n", line);
		}
		fclose(f);
		qsort(lines[after], n[after], 160, compare_lines);
	}
	int same = 0;
	for (int i = 0; i < n[0] && i < n[1]; i++)
		same += !strcmp(lines[0][i], lines[1][i]);
	printf("%d others before, %d after, %d the same\n", n[0], n[1], same);
	wait_for(fd, POLLOUT);
	events("connected", ep, PATIENCE);
	unsigned long one = 1;
	if (write(counter, &one, 8) != 8)
		die("write");
	struct epoll_event ev[N + 8];
	printf("all at once: %d\n", epoll_wait(ep, ev, N + 8, 0));
}

// twice: under two numbers in one set; and a number that has been two files.
static void twice(void) {
	int ep = epoll_create1(0), fd = sock(SOCK_NONBLOCK), other = dup(fd);
	ctl("ADD", ep, EPOLL_CTL_ADD, fd, EPOLLOUT, DATA);
	ctl("ADD", ep, EPOLL_CTL_ADD, other, EPOLLOUT | EPOLLET, DATA + 1);
	conn("connect", other);
	contents("set", ep);
	wait_for(fd, POLLOUT);
	events("connected", ep, PATIENCE);
	events("once more", ep, NOTHING);
	ctl("MOD", ep, EPOLL_CTL_MOD, fd, EPOLLOUT, 1);
	ctl("MOD", ep, EPOLL_CTL_MOD, other, EPOLLOUT, 2);
	events("after MOD", ep, PATIENCE);
	ctl("DEL", ep, EPOLL_CTL_DEL, fd, 0, 0);
	events("after DEL", ep, PATIENCE);
	ctl("DEL", ep, EPOLL_CTL_DEL, other, 0, 0);
	close(fd);
	close(other);

	fd = sock(SOCK_NONBLOCK);
	other = dup(fd);
	ctl("ADD", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLONESHOT, DATA + 2);
	int stranger = sock(SOCK_NONBLOCK);
	dup2(stranger, fd); // the first one's place in the set stays, since other has it open
	close(stranger);
	ctl("ADD", ep, EPOLL_CTL_ADD, fd, EPOLLRDHUP, DATA + 3);
	conn("connect", other);
	contents("set", ep);
	wait_for(other, POLLOUT);
	events("connected", ep, PATIENCE);
	ctl("DEL", ep, EPOLL_CTL_DEL, fd, 0, 0); // the stranger's
	contents("set", ep);
	int again = dup(other);
	dup2(other, fd); // back under the number it was registered by
	ctl("MOD", ep, EPOLL_CTL_MOD, fd, EPOLLOUT, 5);
	events("after MOD", ep, PATIENCE);
	close(again);
	close(other);
	close(fd);
	printf("left: %d\n", number_of(ep));
}

// refused: the error arrives as an event, and the place in the set is good for the next attempt.
static void refused(const char *closed, int nonblock) {
	struct sockaddr_in nobody = dst;
	nobody.sin_port = htons(atoi(closed));
	for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
		printf("%s\n", modes[m].name);
		int ep = epoll_create1(0), fd = sock(nonblock ? SOCK_NONBLOCK : 0);
		ctl("ADD", ep, EPOLL_CTL_ADD, fd, modes[m].events, DATA + m);
		int r = conn_to(fd, &nobody);
		if (!nonblock)
			result("connect", r);
		wait_for(fd, POLLERR);
		events("refused", ep, PATIENCE);
		events("once more", ep, NOTHING);
		so_error(fd);
		contents("set", ep);
		r = conn_to(fd, &dst);
		if (r && errno == ECONNABORTED) // the first attempt's end, natively too
			r = conn_to(fd, &dst);
		if (!nonblock)
			result("connect elsewhere", r);
		wait_for(fd, POLLOUT);
		events("connected", ep, NOTHING);
		use(fd, ep);
		contents("set", ep);
		ctl("DEL", ep, EPOLL_CTL_DEL, fd, 0, 0);
		close(fd);
		close(ep);
	}
}

int main(int argc, char **argv) {
	destination(argv);
	const char *what = argv[1], *extra = argc > 4 ? argv[4] : "";
	int nonblock = !strcmp(extra, "non-blocking");
	if (!strcmp(what, "matrix"))
		matrix(nonblock);
	else if (!strcmp(what, "several"))
		several(nonblock);
	else if (!strcmp(what, "nested"))
		nested(nonblock);
	else if (!strcmp(what, "inherited"))
		inherited(nonblock);
	else if (!strcmp(what, "waiting")) // waiting ADDRESS PORT blocking|non-blocking edge|one-shot MS
		waiting(argv[5], nonblock, atoi(argv[6]));
	else if (!strcmp(what, "never-early"))
		never_early();
	else if (!strcmp(what, "crowd"))
		crowd();
	else if (!strcmp(what, "twice"))
		twice();
	else if (!strcmp(what, "refused")) // refused ADDRESS PORT blocking|non-blocking CLOSED-PORT
		refused(argv[5], nonblock);
	else
		printf("%s: no such case\n", what);
	printf("end\n");
	return 0;
}
