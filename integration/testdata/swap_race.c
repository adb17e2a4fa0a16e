// swap_race CASE ADDRESS PORT MS prints counts of what went wrong, or right, while threads got in each other's way. See swap.h.
#include "swap.h"
#include <dirent.h>
#include <sys/mman.h>

enum { NUMBER = 100 };

static atomic_int stop, connects, connected, refreshed;

static long now_us(void) {
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static unsigned seed = 12345;

static int chance(int n) {
	seed = seed * 1103515245 + 12345;
	return (seed >> 16) % n;
}

static void spin(long us) {
	long end = now_us() + us;
	while (now_us() < end)
		;
}

// brief is a socket whose connection leaves nothing behind.
static int brief(int flags) {
	struct linger linger = {1, 0};
	int fd = sock(flags);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	return fd;
}

static int open_numbers(void) {
	int n = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

// connecting connects whatever is under the number, all the time.
static void *connecting(void *arg) {
	while (!stop) {
		if (!refreshed) {
			sched_yield();
			continue;
		}
		int r = conn_to(NUMBER, &dst);
		connects++;
		connected += r == 0;
		if (r < 0 && (errno == ENOTSOCK || errno == EBADF || errno == EISCONN || errno == EINVAL))
			refreshed = 0; // until there is a new socket
	}
	return NULL;
}

// numbers: while others connect NUMBER, this thread, which alone decides what is under it, puts something else there. Nobody
// may take that away or put back what was there.
static void numbers(const char *how, int ms) {
	enum { THREADS = 2 };
	pthread_t threads[THREADS];
	struct stat mine, is;
	int file = memfd_create("mine", 0), pair[2], rounds = 0, wrong = 0, again = 0, taken = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		die("socketpair");
	int over = !strcmp(how, "socket over it") ? pair[0] : file;
	fstat(over, &mine);
	int before = open_numbers();
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, connecting, NULL);
	for (long end = now_us() + ms * 1000L; now_us() < end; rounds++) {
		int fd = brief(rounds % 3 ? 0 : SOCK_NONBLOCK), n;
		dup2(fd, NUMBER);
		close(fd);
		refreshed = 1;
		int made = connects;
		for (long wait = now_us() + 2000; connects == made && chance(4) && now_us() < wait;)
			; // in the middle of a call, or somewhere before it
		spin(chance(150));
		if (!strcmp(how, "close")) {
			close(NUMBER);
			for (long check = now_us() + 300; now_us() < check;)
				if (fcntl(NUMBER, F_GETFD) >= 0) {
					again++;
					close(NUMBER);
				}
			continue;
		}
		if (!strcmp(how, "close and open")) {
			close(NUMBER);
			n = fcntl(over, F_DUPFD, NUMBER); // the lowest from there on
			if (n != NUMBER) {
				taken++;
				close(n);
				dup2(over, NUMBER);
			}
		} else
			dup2(over, NUMBER);
		for (long check = now_us() + 300; now_us() < check;)
			if (fstat(NUMBER, &is) || is.st_ino != mine.st_ino || is.st_dev != mine.st_dev) {
				wrong++;
				break;
			}
	}
	stop = 1;
	refreshed = 1;
	close(NUMBER);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	close(NUMBER);
	printf("rounds %d connects %d connected %d\n", rounds, connects, connected);
	printf("wrong %d\nopen again %d\ntaken %d\nnumbers %+d\n", wrong, again, taken, open_numbers() - before);
}

static atomic_int mod_failed, mods, paused;
static int the_set;

static void *modifying(void *arg) {
	struct epoll_event ev = {.data.u64 = 1};
	while (!stop) {
		if (!refreshed) {
			paused = 1;
			continue;
		}
		paused = 0;
		if (!refreshed)
			continue; // paused may have been read while it was true
		ev.events = EPOLLIN | EPOLLOUT | (mods % 2 ? EPOLLET : 0);
		mod_failed += epoll_ctl(the_set, EPOLL_CTL_MOD, NUMBER, &ev) != 0;
		mods++;
	}
	return NULL;
}

// registrations: a thread changes the place of a socket in a set while another connects it.
static void registrations(int ms) {
	pthread_t thread;
	int rounds = 0, lost = 0, early = 0;
	the_set = epoll_create1(0);
	dup2(brief(SOCK_NONBLOCK), NUMBER);
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT};
	epoll_ctl(the_set, EPOLL_CTL_ADD, NUMBER, &ev);
	refreshed = 1;
	pthread_create(&thread, NULL, modifying, NULL);
	for (long end = now_us() + ms * 1000L; now_us() < end; rounds++) {
		int r = conn_to(NUMBER, &dst);
		if (r && errno != EINPROGRESS)
			result("connect", r);
		int n = epoll_wait(the_set, &ev, 1, 20000);
		lost += n == 0;
		early += n > 0 && ev.events & EPOLLHUP;
		int fd = brief(SOCK_NONBLOCK);
		refreshed = 0;
		while (!paused)
			sched_yield();
		epoll_ctl(the_set, EPOLL_CTL_DEL, NUMBER, &ev);
		dup2(fd, NUMBER);
		close(fd);
		ev.events = EPOLLIN | EPOLLOUT;
		epoll_ctl(the_set, EPOLL_CTL_ADD, NUMBER, &ev);
		refreshed = 1;
	}
	stop = 1;
	pthread_join(thread, NULL);
	printf("rounds %d changes %d\nfailed %d\nlost %d\nhung up %d\n", rounds, mods, mod_failed, lost, early);
}

static atomic_int handled;

static void on_signal(int sig) { handled++; }

// storm: a thousand signals a second, with a handler that does not restart what it interrupts. It lasts until there were
// a thousand, too: on a busy machine many are one.
static void storm(int ms) {
	struct sigaction act = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &act, NULL);
	struct sigevent se = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	se._sigev_un._tid = syscall(SYS_gettid);
	timer_t timer;
	if (timer_create(CLOCK_MONOTONIC, &se, &timer))
		die("timer_create");
	struct itimerspec every = {{0, 1000000}, {0, 1000000}};
	timer_settime(timer, 0, &every, NULL);
	int rounds = 0, interrupted[2] = {0}, elsewhere = 0, failed = 0;
	for (long end = now_us() + ms * 1000L; now_us() < end || (handled < 1000 && now_us() < end + 30000000); rounds++) {
		int nonblock = rounds % 2;
		int fd = brief(nonblock ? SOCK_NONBLOCK : 0);
		if (conn_to(fd, &dst) && errno != EINPROGRESS) {
			interrupted[nonblock] += errno == EINTR;
			failed += errno != EINTR;
		}
		elsewhere += close(fd) != 0;
		int ep = epoll_create1(0); // one of the calls that may be stopped
		elsewhere += ep < 0;
		close(ep);
	}
	printf("rounds %d signals %d\n", rounds, handled);
	printf("blocking connect with EINTR %d\nnon-blocking connect with EINTR %d\nothers with EINTR %d\nother errors %d\n", interrupted[0], interrupted[1],
		elsewhere, failed);
}

int main(int argc, char **argv) {
	destination(argv);
	const char *what = argv[1];
	int ms = atoi(argv[4]);
	if (!strcmp(what, "storm"))
		storm(ms);
	else if (!strcmp(what, "registrations"))
		registrations(ms);
	else
		numbers(what, ms);
	printf("end\n");
	return 0;
}
