/*
 * Calls that are about the program's own namespace, or wait, while another thread puts a socket of an egress under
 * their number, and changes the address to the egress's loopback. Nothing may arrive there.
 *
 * guard_race first HOW ADDR PORT THREADS TCP UDP   many threads send to 127.0.0.1 (HOW: sendto, sendmsg or sendmmsg)
 *                                                  while the very first datagram socket goes to an egress
 * guard_race CALL KIND ADDR PORT TRIES TCP UDP     one thread makes a call, again and again. KIND is what is put under
 *                                                  its number: refused, a stream whose connect(2) has failed; udp, a
 *                                                  datagram socket; idle, one that was disconnected
 * guard_race copies - ADDR PORT TRIES TCP UDP      one thread copies a socket to the number of
 *                                                  another one's connect(2), which is of the same
 *                                                  socket; it still is after that
 *
 * ADDR has an echo at PORT. TCP and UDP are the ports of servers at the egress's 127.0.0.1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

#define CONTESTED 100
#define NOBODY "203.0.113.99" /* in the egress nothing answers from there */

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_un un;
};

static union address server, loop_tcp, loop_udp, nobody, here;
static unsigned long long origin;
static const char *kind;

static union address inet(const char *addr, int port)
{
	union address a = {.in = {.sin_family = AF_INET, .sin_port = htons(port)}};
	inet_pton(AF_INET, addr, &a.in.sin_addr);
	return a;
}

static unsigned long long cookie(int fd)
{
	unsigned long long value = 0;
	socklen_t len = sizeof value;
	getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &value, &len);
	return value;
}

static int elsewhere(int fd)
{
	unsigned long long value = cookie(fd);
	return value && value != origin;
}

/* A socket that is in an egress, and is not connected to anybody there, or could be connected to others. */
static int foreign(void)
{
	union address closed = server;
	int stream = !strcmp(kind, "refused"), fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	closed.in.sin_port = htons(9);
	if (stream)
		connect(fd, &closed.any, sizeof closed.in);
	else
		sendto(fd, "datum", 5, 0, &server.any, sizeof server.in);
	if (!strcmp(kind, "idle")) {
		union address none = {0};
		connect(fd, &server.any, sizeof server.in);
		connect(fd, &none.any, sizeof none.in);
	}
	return fd;
}

/* ---- first ---- */

static struct sender {
	int fd;
	const char *how;
} senders[64];
static atomic_int sending, over;

static void *send_here(void *arg)
{
	struct sender *me = arg;
	struct iovec part = {"local", 5};
	struct mmsghdr one = {.msg_hdr = {.msg_name = &loop_udp, .msg_namelen = sizeof loop_udp.in, .msg_iov = &part, .msg_iovlen = 1}};
	setpriority(PRIO_PROCESS, syscall(SYS_gettid), 19);
	sending++;
	while (!over) {
		if (!strcmp(me->how, "sendto"))
			sendto(me->fd, "local", 5, 0, &loop_udp.any, sizeof loop_udp.in);
		else if (!strcmp(me->how, "sendmsg"))
			sendmsg(me->fd, &one.msg_hdr, 0);
		else
			sendmmsg(me->fd, &one, 1, 0);
	}
	return NULL;
}

static void first(int count, const char *how)
{
	pthread_t threads[64];
	int mine;
	for (int i = 0; i < count; i++) {
		senders[i] = (struct sender){CONTESTED + i, how};
		dup2(socket(AF_INET, SOCK_DGRAM, 0), CONTESTED + i);
		pthread_create(&threads[i], NULL, send_here, &senders[i]);
	}
	while (sending < count)
		sched_yield();
	usleep(1000); /* so that they are at it */
	kind = "udp";
	mine = foreign();
	int there = elsewhere(mine);
	for (int i = 0; i < count; i++)
		dup2(mine, CONTESTED + i);
	usleep(10000);
	over = 1;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	printf("moved: %s\n", there ? "yes" : "no");
}

/* ---- one call against one thread ---- */

static union address aim, home; /* what the call's address is, and is natively */
static int own, handle;         /* the descriptor that is natively under the number, and another one for it */
static atomic_int go, ready, done, rested, ended;
static int planted;

static void spin(int most)
{
	static unsigned r = 1;
	r = r * 1664525 + 1013904223;
	for (volatile int i = (r >> 8) % most; i > 0; i--)
		;
}

static void *plant(void *evil)
{
	int fd = foreign();
	for (int round = 1; !ended; round++) {
		while (go < round && !ended)
			;
		if (!elsewhere(fd)) { /* it was brought home */
			close(fd);
			fd = foreign();
		}
		planted += elsewhere(fd);
		ready = round;
		for (int turns = 1; done < round && !ended; turns++) {
			spin(4000);
			aim = *(union address *)evil;
			dup2(fd, CONTESTED);
			spin(4000);
			if (handle >= 0)
				shutdown(handle, SHUT_RDWR); /* ends a connect(2) that waits */
			if (handle >= 0 && turns % 50 == 0)
				shutdown(fd, SHUT_RDWR); /* it may be this one that does */
			dup2(own, CONTESTED);
			aim = home;
		}
		rested = round;
	}
	return NULL;
}

static int is_there(void)
{
	union address peer = {0};
	socklen_t len = sizeof peer;
	int listens = 0, fd = dup(CONTESTED), there = 0;
	if (elsewhere(fd)) {
		there = !getpeername(fd, &peer.any, &len) && peer.in.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
		len = sizeof listens;
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len);
		len = sizeof peer;
		there += listens || (!getsockname(fd, &peer.any, &len) && peer.in.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	}
	close(fd);
	return there;
}

static void contest(const char *call, int tries)
{
	struct iovec part = {"early", 5};
	struct msghdr message = {.msg_name = &aim, .msg_namelen = sizeof aim.in, .msg_iov = &part, .msg_iovlen = 1};
	int unix_call = !strcmp(call, "unix"), waits = !strncmp(call, "wait", 4), reached = 0;
	union address *evil = strcmp(kind, "refused") ? &loop_udp : &loop_tcp;
	pthread_t thread;

	if (!strcmp(call, "listen"))
		evil->in.sin_port = 0;
	home = waits ? nobody : unix_call ? here : *evil;
	aim = home;
	handle = -1;
	own = socket(unix_call ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	dup2(own, CONTESTED);
	pthread_create(&thread, NULL, plant, evil);
	for (int i = 1; i <= tries; i++) {
		socklen_t len = unix_call ? sizeof aim.un : sizeof aim.in;
		int fresh = socket(unix_call ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
		dup2(fresh, CONTESTED);
		dup2(fresh, own);
		close(fresh);
		handle = waits ? own : -1;
		go = i;
		while (ready < i)
			;
		if (!strcmp(call, "wait-sendto"))
			sendto(CONTESTED, "early", 5, MSG_FASTOPEN | MSG_NOSIGNAL, &aim.any, len);
		else if (!strcmp(call, "fastopen"))
			sendto(CONTESTED, "early", 5, MSG_FASTOPEN | MSG_NOSIGNAL | (i % 2 ? MSG_DONTWAIT : 0), &aim.any, len);
		else if (!strcmp(call, "fastopen-sendmsg"))
			sendmsg(CONTESTED, &message, MSG_FASTOPEN | MSG_NOSIGNAL | (i % 2 ? MSG_DONTWAIT : 0));
		else if (!strcmp(call, "listen"))
			bind(CONTESTED, &aim.any, len), listen(CONTESTED, 1);
		else
			connect(CONTESTED, &aim.any, len);
		reached += is_there();
		done = i;
		/* Else the last dup2(2) of this round could put the socket from before under the next one's number, where
		 * nobody would end its connect(2). */
		while (rested < i)
			;
	}
	ended = 1;
	pthread_join(thread, NULL);
	printf("planted: %s; reached: %d\n", planted > tries / 2 ? "yes" : "no", reached);
}

/* ---- copies ---- */

static void *copy_once(void *unused)
{
	for (int round = 1; !ended; round++) {
		while (go < round && !ended)
			;
		ready = round;
		spin(200000);
		dup2(own, CONTESTED);
		done = round;
	}
	return unused;
}

static void copies(int tries)
{
	int apart = 0;
	pthread_t thread;
	own = dup(0);
	pthread_create(&thread, NULL, copy_once, NULL);
	for (int i = 1; i <= tries; i++) {
		struct stat a, b;
		int fresh = socket(AF_INET, SOCK_STREAM, 0);
		dup2(fresh, own);
		dup2(fresh, CONTESTED);
		close(fresh);
		go = i;
		while (ready < i)
			;
		connect(CONTESTED, &server.any, sizeof server.in);
		while (done < i)
			;
		apart += fstat(own, &a) || fstat(CONTESTED, &b) || a.st_ino != b.st_ino;
	}
	ended = 1;
	pthread_join(thread, NULL);
	printf("apart: %d\n", apart);
}

int main(int argc, char **argv)
{
	if (argc != 8)
		return 2;
	server = inet(argv[3], atoi(argv[4]));
	nobody = inet(NOBODY, 7000);
	loop_tcp = inet("127.0.0.1", atoi(argv[6]));
	loop_udp = inet("127.0.0.1", atoi(argv[7]));
	here.un = (struct sockaddr_un){AF_UNIX, "\0guard_race"};
	origin = cookie(socket(AF_INET6, SOCK_STREAM, 0));
	if (!strcmp(argv[1], "unix")) {
		int listener = socket(AF_UNIX, SOCK_STREAM, 0);
		bind(listener, &here.any, sizeof here.un);
		listen(listener, 1 << 12);
	}
	kind = argv[2];
	if (!strcmp(argv[1], "first"))
		first(atoi(argv[5]), argv[2]);
	else if (!strcmp(argv[1], "copies"))
		copies(atoi(argv[5]));
	else
		contest(argv[1], atoi(argv[5]));
	return 0;
}
