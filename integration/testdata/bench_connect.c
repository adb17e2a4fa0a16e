/*
 * bench_connect tcp ADDR PORT N
 * bench_connect unix PATH N
 * bench_connect trap N
 * bench_connect epoll ADDR PORT N
 * bench_connect many DESCRIPTORS REGISTRATIONS ADDR PORT N
 * bench_connect threads COUNT ADDR PORT N
 * bench_connect names ADDR PORT N
 * bench_connect bound ADDR PORT N
 *
 * N times: socket, connect, close (with a reset, so that no port waits in TIME_WAIT). Prints, in
 * microseconds, the mean of the whole cycle and percentiles of connect(2) alone. "trap" connects a
 * descriptor that does not exist: what it costs that the call is stopped at all. "epoll" registers a
 * non-blocking socket before it connects, and times until it is reported writable. "many" is the same in a
 * process with many other descriptors, of which the first so many are in its set, but times connect(2) alone. "threads" is "tcp" in several threads
 * at once; the cycle is the time in which one of them gets one done. "names" connects once, and times
 * getpeername(2). "bound" is "tcp" with a bind(2) to port 0 before each connect(2), which is timed with it.
 */
#include "bench.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

static int n, trap, names, bound, set = -1, many;

static void crowd(int descriptors, int registrations)
{
	struct rlimit limit;
	struct epoll_event event = { .events = EPOLLIN };

	set = epoll_create1(EPOLL_CLOEXEC);
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit)) {
		perror("setrlimit");
		exit(2);
	}
	for (int i = 0; i < descriptors; i++) {
		int fd = i < registrations ? eventfd(0, EFD_CLOEXEC) : open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (i < registrations && epoll_ctl(set, EPOLL_CTL_ADD, fd, &event))) {
			perror("crowd");
			exit(2);
		}
	}
}

struct result {
	double *took;
	int failed;
};

static void *run(void *arg)
{
	struct result *r = arg;
	struct linger reset = { 1, 0 };

	for (int i = 0; i < n; i++) {
		int s = trap ? -1 : socket(to.any.sa_family, SOCK_STREAM | (set >= 0 ? SOCK_NONBLOCK : 0), 0);
		struct epoll_event event = { .events = EPOLLOUT, .data.fd = s };
		if (set >= 0)
			epoll_ctl(set, EPOLL_CTL_ADD, s, &event);
		double t = now_us();
		if (names && i > 0) {
			struct sockaddr_storage name;
			socklen_t size = sizeof name;
			close(s);
			t = now_us();
			r->failed += getpeername(names, (struct sockaddr *)&name, &size) != 0;
			r->took[i] = now_us() - t;
			continue;
		}
		struct sockaddr_in any = { .sin_family = AF_INET };
		int rc = bound && bind(s, (struct sockaddr *)&any, sizeof any);
		rc = rc ? rc : connect(s, &to.any, len);
		if (many)
			r->took[i] = now_us() - t;
		if (set >= 0) {
			int error = 0;
			socklen_t size = sizeof error;
			if (rc && errno == EINPROGRESS && epoll_wait(set, &event, 1, 1000) == 1 &&
			    !getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size) && event.events == EPOLLOUT)
				rc = error;
		}
		if (!many)
			r->took[i] = now_us() - t;
		if (trap)
			continue;
		r->failed += rc != 0;
		if (names) {
			names = s;
			continue;
		}
		if (to.any.sa_family != AF_UNIX)
			setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(s);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = 1, failed = 0;

	if (argc == 5 && !strcmp(argv[1], "tcp")) {
		address(argv[2], argv[3]);
	} else if (argc == 5 && !strcmp(argv[1], "names")) {
		address(argv[2], argv[3]);
		names = 1;
	} else if (argc == 5 && !strcmp(argv[1], "bound")) {
		address(argv[2], argv[3]);
		bound = 1;
	} else if (argc == 5 && !strcmp(argv[1], "epoll")) {
		address(argv[2], argv[3]);
		set = epoll_create1(EPOLL_CLOEXEC);
	} else if (argc == 7 && !strcmp(argv[1], "many")) {
		address(argv[4], argv[5]);
		many = 1;
		crowd(atoi(argv[2]), atoi(argv[3]));
	} else if (argc == 6 && !strcmp(argv[1], "threads")) {
		address(argv[3], argv[4]);
		threads = atoi(argv[2]);
	} else if (argc == 4 && !strcmp(argv[1], "unix")) {
		to.un.sun_family = AF_UNIX;
		strncpy(to.un.sun_path, argv[2], sizeof to.un.sun_path - 1);
		len = sizeof to.un;
	} else if (argc == 3 && !strcmp(argv[1], "trap")) {
		to.in.sin_family = AF_INET;
		len = sizeof to.in;
		trap = 1;
	} else {
		fprintf(stderr, "usage: see the top of bench_connect.c\n");
		return 2;
	}
	n = atoi(argv[argc - 1]);
	struct result results[threads];
	pthread_t ids[threads];
	double *took = malloc((size_t)threads * n * sizeof *took), began = now_us();

	for (int i = 0; i < threads; i++) {
		results[i] = (struct result){ took + (size_t)i * n, 0 };
		if (i > 0)
			pthread_create(&ids[i], NULL, run, &results[i]);
	}
	run(&results[0]);
	for (int i = 0; i < threads; i++) {
		if (i > 0)
			pthread_join(ids[i], NULL);
		failed += results[i].failed;
	}
	n *= threads;
	report(failed, began, took, n);
	return failed != 0;
}
