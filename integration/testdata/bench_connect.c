/*
 * bench_connect tcp ADDR PORT N
 * bench_connect unix PATH N
 * bench_connect trap N
 *
 * N times: socket, connect, close (with a reset, so that no port waits in TIME_WAIT). Prints, in
 * microseconds, the mean of the whole cycle and percentiles of connect(2) alone. "trap" connects a
 * descriptor that does not exist: what it costs that the call is stopped at all.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_un un;
	} to = { 0 };
	socklen_t len;
	int n, failed = 0, trap = 0;

	if (argc == 5 && !strcmp(argv[1], "tcp")) {
		to.in.sin_family = AF_INET;
		to.in.sin_port = htons(atoi(argv[3]));
		inet_aton(argv[2], &to.in.sin_addr);
		len = sizeof to.in;
	} else if (argc == 4 && !strcmp(argv[1], "unix")) {
		to.un.sun_family = AF_UNIX;
		strncpy(to.un.sun_path, argv[2], sizeof to.un.sun_path - 1);
		len = sizeof to.un;
	} else if (argc == 3 && !strcmp(argv[1], "trap")) {
		to.in.sin_family = AF_INET;
		len = sizeof to.in;
		trap = 1;
	} else {
		fprintf(stderr, "usage: bench_connect tcp ADDR PORT N | unix PATH N | trap N\n");
		return 2;
	}
	n = atoi(argv[argc - 1]);
	double *took = malloc(n * sizeof *took), began = now_us();
	struct linger reset = { 1, 0 };

	for (int i = 0; i < n; i++) {
		int s = trap ? -1 : socket(to.any.sa_family, SOCK_STREAM, 0);
		double t = now_us();
		int rc = connect(s, &to.any, len);
		took[i] = now_us() - t;
		if (trap)
			continue;
		failed += rc != 0;
		if (to.any.sa_family == AF_INET)
			setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(s);
	}
	double cycle = (now_us() - began) / n;
	qsort(took, n, sizeof *took, by_value);
	printf("%d %.3f %.3f %.3f %.3f\n", failed, cycle, took[n / 2], took[n * 9 / 10], took[n * 99 / 100]);
	return failed != 0;
}
