/*
 * What becomes of a socket of an egress that is not connected any more. Each line says where it is: "origin", or
 * "elsewhere" where a socket must not be that a program can connect, or be a server with.
 *
 * homecoming_probe steps ADDR PORT CLOSED   disconnections of every length, a bind(2), a listen(2) after a connect(2)
 *                                           that failed (at port CLOSED), and the same of datagram sockets
 * homecoming_probe dup ADDR PORT LOOP N KIND
 *                                           N direct connects to 127.0.0.1:LOOP, while another thread puts a socket
 *                                           that has been in use for ADDR under the same number. KIND is disconnected;
 *                                           refused (at port 9); or datagrams
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

#define CONTESTED 100

static struct sockaddr_in dst = {.sin_family = AF_INET};
static unsigned long long origin;
static int disconnected;
static volatile int stop;

static unsigned long long cookie(int fd)
{
	unsigned long long value = 0;
	socklen_t len = sizeof value;
	getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &value, &len);
	return value;
}

static void place(const char *what, int fd, int result)
{
	printf("%s: %s, %s\n", what, result ? strerror(errno) : "0", cookie(fd) == origin ? "origin" : "elsewhere");
}

static int disconnect(int fd, int length)
{
	char none[128] = {0};
	return connect(fd, (struct sockaddr *)none, length);
}

static int connected(int type)
{
	int fd = socket(AF_INET, type, 0);
	if (connect(fd, (struct sockaddr *)&dst, sizeof dst))
		perror("connect");
	return fd;
}

static void steps(int closed)
{
	static const int lengths[] = {0, 1, 2, 3, 15, 16, 17, 28, 128};
	struct sockaddr_in nobody = dst, home = {.sin_family = AF_INET};
	char what[80], answer[9];
	int fd;
	for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		fd = connected(SOCK_STREAM);
		snprintf(what, sizeof what, "disconnected, length %d", lengths[i]);
		place(what, fd, disconnect(fd, lengths[i]));
		close(fd);
	}
	nobody.sin_port = htons(closed);
	home.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	connect(fd, (struct sockaddr *)&nobody, sizeof nobody);
	place("refused, then bind", fd, bind(fd, (struct sockaddr *)&home, sizeof home));
	place("and listen", fd, listen(fd, 1));
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	connect(fd, (struct sockaddr *)&nobody, sizeof nobody);
	place("refused, then listen", fd, listen(fd, 1));
	close(fd);
	struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(closed)};
	struct sockaddr_in6 home6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	memset(&mapped.sin6_addr.s6_addr[10], 0xff, 2);
	memcpy(&mapped.sin6_addr.s6_addr[12], &dst.sin_addr, 4);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	connect(fd, (struct sockaddr *)&mapped, sizeof mapped);
	place("refused over AF_INET6, then bind", fd, bind(fd, (struct sockaddr *)&home6, sizeof home6));
	place("and listen", fd, listen(fd, 1));
	close(fd);
	fd = connected(SOCK_DGRAM);
	disconnect(fd, 2);
	place("datagrams, disconnected, then bind", fd, bind(fd, (struct sockaddr *)&home, sizeof home));
	close(fd);
	fd = connected(SOCK_DGRAM);
	disconnect(fd, sizeof dst);
	sendto(fd, "again", 5, 0, (struct sockaddr *)&dst, sizeof dst);
	printf("an answer to another send: %zd\n", recv(fd, answer, sizeof answer, 0));
}

static void *replace(void *unused)
{
	unsigned r = 1;
	while (!stop) {
		dup2(disconnected, CONTESTED);
		r = r * 1664525 + 1013904223;
		for (volatile int i = (r >> 8) % 800; i > 0; i--)
			;
		int fresh = socket(AF_INET, SOCK_STREAM, 0);
		dup2(fresh, CONTESTED);
		close(fresh);
		r = r * 1664525 + 1013904223;
		for (volatile int i = (r >> 8) % 3000; i > 0; i--)
			;
	}
	return unused;
}

static int unconnected(const char *kind, int round)
{
	struct sockaddr_in nobody = dst;
	int fd;
	nobody.sin_port = htons(9);
	if (!strcmp(kind, "disconnected")) {
		fd = connected(SOCK_STREAM);
		disconnect(fd, round % 2 ? 16 : 2);
	} else if (!strcmp(kind, "refused")) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		connect(fd, (struct sockaddr *)&nobody, sizeof nobody);
	} else {
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		sendto(fd, "datum", 5, 0, (struct sockaddr *)&dst, sizeof dst);
	}
	return fd;
}

static void contest(int port, int tries, const char *kind)
{
	struct sockaddr_in loop = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int reached = 0, moved = 0;
	for (int round = 0; round < tries; round += 200) {
		pthread_t thread;
		int other = connected(SOCK_STREAM);
		moved += cookie(other) != origin;
		close(other);
		disconnected = unconnected(kind, round / 200);
		stop = 0;
		pthread_create(&thread, NULL, replace, NULL);
		for (int i = 0; i < 200; i++) {
			struct sockaddr_in peer;
			socklen_t len = sizeof peer;
			connect(CONTESTED, (struct sockaddr *)&loop, sizeof loop);
			int fd = dup(CONTESTED);
			reached += cookie(fd) != origin && !getpeername(fd, (struct sockaddr *)&peer, &len) && peer.sin_addr.s_addr == loop.sin_addr.s_addr;
			close(fd);
		}
		stop = 1;
		pthread_join(thread, NULL);
		close(disconnected);
		close(CONTESTED);
	}
	printf("moved: %s; reached: %d\n", moved ? "yes" : "no", reached);
}

int main(int argc, char **argv)
{
	inet_pton(AF_INET, argv[2], &dst.sin_addr);
	dst.sin_port = htons(atoi(argv[3]));
	origin = cookie(socket(AF_INET6, SOCK_STREAM, 0));
	if (!strcmp(argv[1], "steps"))
		steps(atoi(argv[4]));
	else
		contest(atoi(argv[4]), atoi(argv[5]), argv[6]);
	return 0;
}
