/*
 * What bench_connect and bench_udp share: where to, and what took how long.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Any family: what nat64 is measured against is the like over IPv6. */
static union {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
} to;
static socklen_t len;

static inline void address(const char *addr, const char *port)
{
	memset(&to, 0, sizeof to);
	if (strchr(addr, ':')) {
		to.in6.sin6_family = AF_INET6;
		to.in6.sin6_port = htons(atoi(port));
		inet_pton(AF_INET6, addr, &to.in6.sin6_addr);
		len = sizeof to.in6;
	} else {
		to.in.sin_family = AF_INET;
		to.in.sin_port = htons(atoi(port));
		inet_aton(addr, &to.in.sin_addr);
		len = sizeof to.in;
	}
}

static inline double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static inline int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* report prints how many of n failed, the mean of all since began, and the 50th, 90th and 99th percentile of what each took. */
static inline void report(int failed, double began, double *took, int n)
{
	double cycle = (now_us() - began) / n;
	qsort(took, n, sizeof *took, by_value);
	printf("%d %.3f %.3f %.3f %.3f\n", failed, cycle, took[n / 2], took[n * 9 / 10], took[n * 99 / 100]);
}
