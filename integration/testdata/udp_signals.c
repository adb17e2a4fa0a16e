/*
 * udp_signals RESTART DIRECTED ADDR PORT
 *
 * Has a thread wait for the answers of a server, again and again, while signals come: to that thread, or (DIRECTED 0) to the process,
 * of which it is the only thread that takes them. With RESTART the handler has SA_RESTART. Says what the thread was told.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in to;
static volatile long answers, interrupted, wrong, handled;

static void handler(int sig)
{
	handled++;
}

static void *receiver(void *arg)
{
	int s = *(int *)arg;
	char data[100];

	for (;;) {
		struct sockaddr_in from = {0};
		socklen_t length = sizeof from;
		long n = recvfrom(s, data, sizeof data, 0, (struct sockaddr *)&from, &length);
		if (n < 0 && errno == EINTR) {
			interrupted++;
		} else if (n < 0 || from.sin_family != AF_INET || from.sin_addr.s_addr != to.sin_addr.s_addr || from.sin_port != to.sin_port) {
			printf("recvfrom: %ld errno %d family %d\n", n, n < 0 ? errno : 0, from.sin_family);
			wrong++;
		} else {
			answers++;
			if (n >= 4 && memcmp(data, "stop", 4) == 0)
				return NULL;
		}
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = atoi(argv[1]) ? SA_RESTART : 0 };
	int directed = atoi(argv[2]);
	sigset_t usr1;
	pthread_t thread;
	unsigned seed = 1;
	long sent = 0, signals = 0;
	struct timespec began, now;

	to.sin_family = AF_INET;
	to.sin_addr.s_addr = inet_addr(argv[3]);
	to.sin_port = htons(atoi(argv[4]));
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	sigaction(SIGUSR1, &action, NULL);
	if (sendto(s, "first", 5, 0, (struct sockaddr *)&to, sizeof to) == 5)
		sent++;
	pthread_create(&thread, NULL, receiver, &s);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	clock_gettime(CLOCK_MONOTONIC, &began);
	do {
		if (rand_r(&seed) % 4 == 0) {
			if (sendto(s, "data", 4, 0, (struct sockaddr *)&to, sizeof to) == 4)
				sent++;
		} else {
			signals++;
			if (directed)
				pthread_kill(thread, SIGUSR1);
			else
				kill(getpid(), SIGUSR1);
		}
		usleep(rand_r(&seed) % 3000);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - began.tv_sec < 3);
	usleep(200000);
	for (int i = 0; i < 50; i++) {
		struct timespec limit;
		sendto(s, "stop", 4, 0, (struct sockaddr *)&to, sizeof to);
		clock_gettime(CLOCK_REALTIME, &limit);
		limit.tv_sec++;
		if (pthread_timedjoin_np(thread, NULL, &limit) == 0) {
			printf("sent %ld answers %ld signals %ld handled %ld interrupted %ld wrong %ld\n", sent + 1, answers, signals, handled, interrupted, wrong);
			return 0;
		}
	}
	printf("the thread does not end\n");
	return 1;
}
