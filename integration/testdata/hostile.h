// What hostile.c is made of: the memory that its threads and processes share, the destinations, and
// sockets of the egress for its attackers to put under the number of somebody else's call.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum {
	CONTESTED = 100, // the number of the descriptor that calls are about
	BATCH = 4,       // messages of a sendmmsg(2)
	ROUND = 100,     // tries between two looks at the time, with one attacker
};

// Destinations: three are routed to the egress, two must not be reached, and one is a Unix socket.
static struct in_addr allowed, closed, silent, rejected, loop4, linked;
static in_port_t port, own_port; // in network order; own_port is what the program binds to
static uint64_t origin;          // SO_NETNS_COOKIE of the program's own namespace

// The arena is what a call reads and an attacker changes, wherever the two run.
struct arena {
	struct sockaddr_in name, other;
	struct sockaddr_in6 name6;
	struct iovec vector[2];
	struct mmsghdr message[BATCH];
	long args[6]; // of socketcall(2)
	char data[64];
	atomic_int stop, caller;
	long tries, reached, outcomes[200];
	struct in_addr good, bad;
};
static struct arena *a;

static void die(const char *what)
{
	printf("%s: %s\n", what, strerrorname_np(errno));
	exit(3);
}

static uint64_t cookie(int fd)
{
	uint64_t value = 0;
	socklen_t length = sizeof value;
	getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &value, &length);
	return value;
}

static unsigned chance(unsigned *r)
{
	*r = *r * 1664525 + 1013904223;
	return *r >> 8;
}

static void spin(unsigned turns)
{
	for (volatile unsigned i = turns; i > 0; i--)
		;
}

static int number_at(int fd, int number)
{
	if (dup2(fd, number) < 0)
		return -1;
	return close(fd);
}

static int connect_to(int fd, struct in_addr address)
{
	struct sockaddr_in to = {AF_INET, port, address};
	return connect(fd, (void *)&to, sizeof to);
}

// mapped is the IPv4-mapped address of an IPv4 one.
static struct in6_addr mapped(struct in_addr address)
{
	struct in6_addr six = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
	memcpy(&six.s6_addr[12], &address, sizeof address);
	return six;
}

// unspec disconnects by an address of a length of 2 to 16.
static int unspec(int fd, unsigned r)
{
	struct sockaddr_in none = {0};
	return connect(fd, (void *)&none, 2 + r % 15);
}

static int stream(int flags) { return socket(AF_INET, SOCK_STREAM | flags, 0); }

// Sources: sockets that are, or have just been, ones of the egress.

static int src_connected(unsigned r)
{
	int fd = stream(0);
	connect_to(fd, allowed);
	return fd;
}

static int src_disconnected(unsigned r)
{
	int fd = src_connected(r);
	unspec(fd, r);
	return fd;
}

static int src_refused(unsigned r)
{
	int fd = stream(0);
	connect_to(fd, closed);
	return fd;
}

// src_shut is not connected any more, as shutdown(2) has ended what connect(2) began.
static int src_shut(unsigned r)
{
	int fd = stream(SOCK_NONBLOCK);
	connect_to(fd, silent);
	shutdown(fd, SHUT_RDWR);
	return fd;
}

// src_fast has been left by a send with MSG_FASTOPEN that was not waited for.
static int src_fast(unsigned r)
{
	struct sockaddr_in to = {AF_INET, port, silent};
	int fd = stream(SOCK_NONBLOCK);
	sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&to, sizeof to);
	if (r & 1)
		unspec(fd, r);
	else
		shutdown(fd, SHUT_RDWR);
	return fd;
}

static int src_multipath(unsigned r)
{
	int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	connect_to(fd, closed);
	return fd;
}

static int src_refused6(unsigned r)
{
	struct sockaddr_in6 to = {AF_INET6, port, 0, mapped(closed)};
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	connect(fd, (void *)&to, sizeof to);
	return fd;
}

static int src_datagram(unsigned r)
{
	struct sockaddr_in to = {AF_INET, port, allowed};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	sendto(fd, "x", 1, 0, (void *)&to, sizeof to);
	if (cookie(fd) != origin)
		return fd;
	connect_to(fd, allowed); // with --udp connected
	unspec(fd, r);
	return fd;
}

static int src_datagram6(unsigned r)
{
	struct sockaddr_in6 to = {AF_INET6, port, 0, mapped(allowed)};
	struct sockaddr none = {AF_UNSPEC};
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	sendto(fd, "x", 1, 0, (void *)&to, sizeof to);
	if (cookie(fd) != origin)
		return fd;
	connect(fd, (void *)&to, sizeof to); // with --udp connected
	connect(fd, &none, sizeof none);
	return fd;
}

static int src_peer(unsigned r)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	connect_to(fd, allowed);
	return fd;
}

// Where an attacker's sockets are handed over, a process of its own makes them.

static int hand[2]; // a pair of Unix sockets

static int src_handed(unsigned r)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = {&byte, 1};
	struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int fd = -1;
	if (recvmsg(hand[0], &m, 0) > 0 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
	return fd;
}

// start_handing starts the process that makes sockets and hands them over, until it is killed.
static pid_t start_handing(int (*make)(unsigned))
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, hand))
		die("socketpair");
	pid_t pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned r = 1;;) {
		union {
			struct cmsghdr header;
			char room[CMSG_SPACE(sizeof(int))];
		} control = {{CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
		struct iovec data = {"x", 1};
		struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		int fd = make(chance(&r));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
		if (sendmsg(hand[1], &m, 0) < 0)
			_exit(1);
		close(fd);
	}
}
