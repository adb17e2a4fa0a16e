/*
 * udp_blocked COUNT ADDR UDP-PORT TCP-PORT
 *
 * Has COUNT threads wait for an answer each, on a UDP socket of their own, and meanwhile connects with TCP. Says how long that
 * takes without and with those that wait, and how many answers there were.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in udp, tcp;
static int sent, good, *fds;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double connects(void)
{
	double took[200];
	for (int i = 0; i < 200; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		double began = now();
		if (connect(fd, (struct sockaddr *)&tcp, sizeof tcp) < 0) {
			perror("connect");
			exit(1);
		}
		took[i] = now() - began;
		close(fd);
	}
	qsort(took, 200, sizeof took[0], by_size);
	return took[100];
}

static void *wait_for_it(void *arg)
{
	long i = (long)arg;
	int fd = fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
	char ask[20];
	sprintf(ask, "delay %ld", 4000 + 2 * i); /* so many answers at a time would be too much for a NAT64 */
	if (sendto(fd, ask, strlen(ask), 0, (struct sockaddr *)&udp, sizeof udp) < 0)
		printf("sendto: %s\n", strerrorname_np(errno));
	__atomic_add_fetch(&sent, 1, __ATOMIC_SEQ_CST);
	char data[20] = "";
	struct sockaddr_in from = {0};
	socklen_t length = sizeof from;
	struct timeval limit = {20, 0};
	if (i % 2)
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	long n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	if (n == 7 && memcmp(data, "delayed", 7) == 0 && from.sin_family == AF_INET && from.sin_addr.s_addr == udp.sin_addr.s_addr && from.sin_port == udp.sin_port)
		__atomic_add_fetch(&good, 1, __ATOMIC_SEQ_CST);
	else
		printf("recvfrom: %ld %s\n", n, n < 0 ? strerrorname_np(errno) : data);
	fds[i] = -1;
	return NULL;
}

int main(int argc, char **argv)
{
	int count = atoi(argv[1]);
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	udp.sin_family = tcp.sin_family = AF_INET;
	udp.sin_addr.s_addr = tcp.sin_addr.s_addr = inet_addr(argv[2]);
	udp.sin_port = htons(atoi(argv[3]));
	tcp.sin_port = htons(atoi(argv[4]));
	double before = connects();
	fds = calloc(count, sizeof *fds);
	pthread_t *ids = calloc(count, sizeof *ids);
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 16);
	double began = now();
	for (long i = 0; i < count; i++)
		if (pthread_create(&ids[i], &small, wait_for_it, (void *)i)) {
			printf("pthread_create: %ld threads\n", i);
			return 1;
		}
	while (__atomic_load_n(&sent, __ATOMIC_SEQ_CST) < count)
		usleep(1000);
	usleep(100000);
	double with = connects();
	printf("connect: %.0f us, with %d that wait %.0f us, %.1f s after their start; %d answers\n", before, count, with, (now() - began) / 1e6, good);
	struct timespec end;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 30;
	int stuck = 0, lost = 0;
	for (int i = 0; i < count; i++)
		if (pthread_timedjoin_np(ids[i], NULL, &end)) {
			struct pollfd p = { fds[i], POLLIN };
			stuck += poll(&p, 1, 0) == 1; /* there is an answer, and the thread does not see it */
			lost += p.revents == 0;
		}
	printf("answers: %d, lost: %d, not seen: %d\n", good, lost, stuck);
	return 0;
}
