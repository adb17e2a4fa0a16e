/*
 * unspec_race ADDR PORT N    connect(2) with AF_UNSPEC on datagram sockets that have sent to ADDR, while another thread has that be an
 *                            address of 127.0.0.1 now and then: how often that is one of another namespace than the program's
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static volatile struct sockaddr_in changing = {.sin_family = AF_UNSPEC};

static void *change(void *unused)
{
	for (;;) {
		changing.sin_family = AF_INET;
		for (volatile int i = 0; i < 300; i++)
			;
		changing.sin_family = AF_UNSPEC;
		for (volatile int i = 0; i < 300; i++)
			;
	}
	return unused;
}

static unsigned long long cookie(int fd)
{
	unsigned long long value = 0;
	socklen_t len = sizeof value;
	getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &value, &len);
	return value;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))}, peer;
	int there = 0, moved = 0;
	unsigned long long home = cookie(socket(AF_INET, SOCK_DGRAM, 0));
	pthread_t thread;
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	changing.sin_port = htons(53);
	changing.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	pthread_create(&thread, NULL, change, NULL);
	for (int i = 0; i < atoi(argv[3]); i++) {
		int s = socket(AF_INET, SOCK_DGRAM, 0);
		socklen_t len = sizeof peer;
		sendto(s, "log", 3, 0, (struct sockaddr *)&to, sizeof to);
		moved += cookie(s) != home;
		connect(s, (struct sockaddr *)&changing, sizeof changing);
		there += !getpeername(s, (struct sockaddr *)&peer, &len) && cookie(s) != home;
		close(s);
	}
	printf("moved %d there %d\n", moved, there);
	return 0;
}
