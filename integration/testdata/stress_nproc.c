// usage: stress_nproc ADDR TCP-PORT UDP-PORT CLOSED-PORT
//
// Has as many threads as RLIMIT_NPROC lets it have, and then talks over TCP and UDP, to the server and to 127.0.0.1, while one
// of the threads waits for datagrams.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int shared;

static void *idle(void *unused)
{
	for (;;)
		pause();
	return NULL;
}

static void *receive(void *unused)
{
	char data[100];
	struct sockaddr_in from;
	for (;;) {
		socklen_t length = sizeof from;
		recvfrom(shared, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	}
	return NULL;
}

static int good(const char *what, int is)
{
	if (!is)
		perror(what);
	return is;
}

static int asks(int fd, struct sockaddr_in *udp)
{
	struct pollfd p = {fd, POLLIN, 0};
	return good("ask", sendto(fd, "echo", 4, 0, (struct sockaddr *)udp, sizeof *udp) == 4) && poll(&p, 1, 20000) == 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in server = {.sin_family = AF_INET}, udp, closed, here, from;
	struct epoll_event ev = {.events = EPOLLOUT};
	socklen_t length = sizeof here;
	char data[100];
	pthread_attr_t small;
	pthread_t thread;
	int count = 0, all = 0;
	if (argc != 5 || inet_pton(AF_INET, argv[1], &server.sin_addr) != 1)
		return 2;
	udp = closed = here = server;
	server.sin_port = htons(atoi(argv[2]));
	udp.sin_port = htons(atoi(argv[3]));
	closed.sin_port = htons(atoi(argv[4]));
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	here.sin_port = 0;
	alarm(50);
	int at = socket(AF_INET, SOCK_DGRAM, 0);
	shared = socket(AF_INET, SOCK_DGRAM, 0);
	if (bind(at, (struct sockaddr *)&here, sizeof here) || getsockname(at, (struct sockaddr *)&here, &length))
		return 1;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 16);
	pthread_create(&thread, &small, receive, NULL);
	while ((errno = pthread_create(&thread, &small, idle, NULL)) == 0)
		count++;
	if (errno != EAGAIN || count < 2) {
		fprintf(stderr, "%d threads: %m\n", count);
		return 1;
	}
	printf("no more\n");
	fflush(stdout);
	for (int i = 0; i < 200; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), ep = epoll_create1(0), other = socket(AF_INET, SOCK_STREAM, 0), ask = socket(AF_INET, SOCK_DGRAM, 0);
		epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
		length = sizeof from;
		all += good("connect", connect(fd, (struct sockaddr *)&server, sizeof server) == 0) &&
			good("refused", connect(other, (struct sockaddr *)&closed, sizeof closed) == -1 && errno == ECONNREFUSED) &&
			good("sendto", sendto(shared, "echo", 4, 0, (struct sockaddr *)(i % 2 ? &udp : &here), sizeof udp) == 4) &&
			(asks(ask, &udp) || asks(ask, &udp) || good("poll", asks(ask, &udp))) && // a NAT64 may lose one
			good("recvfrom", recvfrom(ask, data, sizeof data, 0, (struct sockaddr *)&from, &length) == 4);
		close(fd);
		close(ep);
		close(other);
		close(ask);
	}
	printf("%d\n", all);
	fflush(stdout);
	_exit(0);
}
