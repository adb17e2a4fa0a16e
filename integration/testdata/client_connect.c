// usage: client_connect HOW ADDR PORT
//
// Connects to an IPv4 address and copies what it reads to standard output. HOW is connect, socketcall
// (i386 only), or what a non-blocking connect is waited for with: poll, select, epoll.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void await(const char *how, int fd)
{
	if (!strcmp(how, "poll")) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		if (poll(&p, 1, 10000) != 1)
			fail("poll");
	} else if (!strcmp(how, "select")) {
		fd_set set;
		struct timeval tv = {.tv_sec = 10};
		FD_ZERO(&set);
		FD_SET(fd, &set);
		if (select(fd + 1, NULL, &set, NULL, &tv) != 1)
			fail("select");
	} else if (!strcmp(how, "epoll")) {
		struct epoll_event e = {.events = EPOLLOUT, .data.fd = fd};
		int ep = epoll_create1(EPOLL_CLOEXEC);
		if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
			fail("epoll_ctl");
		if (epoll_wait(ep, &e, 1, 10000) != 1 || e.data.fd != fd)
			fail("epoll_wait");
	} else {
		fprintf(stderr, "%s?\n", how);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
	if (inet_pton(AF_INET, argv[2], &sa.sin_addr) != 1)
		return 2;
	alarm(30);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0)
		fail("socket");
	if (!strcmp(argv[1], "connect")) {
		if (connect(fd, (struct sockaddr *)&sa, sizeof sa))
			fail("connect");
#ifdef __i386__
	} else if (!strcmp(argv[1], "socketcall")) {
		unsigned long args[3] = {fd, (unsigned long)&sa, sizeof sa};
		if (syscall(SYS_socketcall, 3 /* SYS_CONNECT */, args))
			fail("connect");
#endif
	} else {
		if (fcntl(fd, F_SETFL, O_NONBLOCK))
			fail("fcntl");
		if (connect(fd, (struct sockaddr *)&sa, sizeof sa)) {
			if (errno != EINPROGRESS)
				fail("connect");
			await(argv[1], fd);
			int err;
			socklen_t len = sizeof err;
			if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len))
				fail("getsockopt");
			errno = err;
			if (err)
				fail("SO_ERROR");
		}
		if (!(fcntl(fd, F_GETFL) & O_NONBLOCK)) {
			fprintf(stderr, "O_NONBLOCK was lost\n");
			return 1;
		}
		fcntl(fd, F_SETFL, 0);
	}
	char buf[4096];
	ssize_t n;
	while ((n = read(fd, buf, sizeof buf)) > 0)
		if (write(1, buf, n) != n)
			fail("write");
	if (n < 0)
		fail("read");
	return 0;
}
