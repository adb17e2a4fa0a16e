// bench_waits WAIT ADDR PORT COUNT: has COUNT threads wait, and says "waiting" when all are about
// to.
//
// WAIT is "receive" (recvfrom(2) with an address, on sockets that have sent to ADDR) or "connect"
// (connect(2) to ADDR, with SO_SNDTIMEO). The program ends with its standard input.
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in to;
static int receives;

static void *wait_in_call(void *unused) {
	int sock = socket(AF_INET, receives ? SOCK_DGRAM : SOCK_STREAM, 0);
	struct timeval limit = {300};
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (!receives) {
		connect(sock, (void *)&to, sizeof to);
		return NULL;
	}
	char data[16];
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	sendto(sock, "none", 4, 0, (void *)&to, sizeof to);
	for (;;)
		recvfrom(sock, data, sizeof data, 0, (void *)&from, &length);
}

int main(int argc, char **argv) {
	receives = !strcmp(argv[1], "receive");
	to = (struct sockaddr_in){AF_INET, htons(atoi(argv[3]))};
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (int i = 0; i < atoi(argv[4]); i++) {
		pthread_t thread;
		if (pthread_create(&thread, &small, wait_in_call, NULL)) {
			perror("pthread_create");
			return 1;
		}
	}
	puts("waiting");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
